"""Kill a tDRO run with SIGKILL again and again, and compare its end with a run left alone.

See README.md beside this file.
"""

import argparse
import csv
import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from tdro_lightning.files import read_json, write_json
from tdro_lightning.records.outputs import HISTORY
from tdro_lightning.training.checkpoint import checkpoints, damage_of, read_checkpoint, step_of
from tdro_lightning.training.history import steps_in

KINDS = ("save", "step", "any moment")  # in which a kill falls
TIMING = ("speed/", "reference_cached")  # metrics that say how a step ran, not what came out
PATIENCE = 900.0  # seconds that one start may take
FAILED = 99  # exit code of a copy that ended by an exception
COMPARED = ("state_dict", "optimizer_states", "domain_weights", "global_step")

SPARSE = ("model.head=sparse", "module.temperature=1", "+module.sparsity.kind=flops")

Start = Callable[[Sequence[str]], int]  # begins the command; its process's number


@dataclass(frozen=True)
class Kill:
    """One of the kills.

    Args:
        kind: one of `KINDS`.
        step: it comes after this many steps; `any moment` does not look at them.
        share: how far into what the kind aims at, from 0 to 1.
    """

    kind: str
    step: int
    share: float


def planned(count: int, steps: int, every: int, seed: int) -> list[Kill]:
    """Kills of every kind in turn, spread over the steps of a run so that none comes too late."""
    draw = random.Random(seed)
    last = steps - every - 2
    return [Kill(KINDS[i % 3], 1 + last * i // count, draw.random()) for i in range(count)]


def kill_loop(
    arguments: Sequence[str], start: Start, runs: Path, kills: Sequence[Kill], log: Any
) -> list[str]:
    """Run a command in one folder undisturbed, in another with all the kills, and compare.

    Args:
        arguments: of the command line, besides `run_dir` and `module.reference_cache`.
        start: begins it.
        runs: an empty folder, for both.
        kills: when the second run is killed.
        log: a line for each kill goes here.

    Returns:
        What differs; nothing is what should.
    """
    alone, disturbed = runs / "alone", runs / "killed"
    longest = 0.0
    for number, kill in enumerate((None, *kills, None)):
        folder = disturbed if number else alone
        # Each has a cache of its own: the first must not help the second.
        own = (f"run_dir={folder}", f"module.reference_cache={runs / f'losses of {folder.name}'}")
        before, began = newest(folder), time.monotonic()
        code = _ended(start([*arguments, *own]), folder, kill, longest)
        took = time.monotonic() - began
        if kill is None:
            print(
                f"{folder.name}: to the end in {took:.1f} s, exit code {code}", file=log, flush=True
            )
            if code != 0:
                return [f"{folder.name}: exit code {code}"]
            continue
        longest = max(longest, took) if kill.kind == "step" else longest
        saving = "in a save" if list((folder / "checkpoints").glob(".step-*.tmp")) else ""
        print(
            f"kill {number:2} ({kill.kind}): from checkpoint {before:3}, killed at step "
            f"{steps_in(folder / HISTORY):3} after {took:4.1f} s, checkpoint {newest(folder):3} "
            f"{saving}".rstrip(), file=log, flush=True,
        )  # fmt: skip
        if code != -signal.SIGKILL:
            return [f"kill {number}: the run had ended by itself, with exit code {code}"]
    return differences(disturbed, alone)


def _ended(process: int, run_dir: Path, kill: Kill | None, longest: float) -> int:
    """Wait for the end of a process, or kill it when it is time; its exit code."""
    began, started = time.monotonic(), time.time()
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        passed = time.monotonic() - began
        if passed > PATIENCE or (kill is not None and _is_time(kill, run_dir, started, longest)):
            os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            return os.waitstatus_to_exitcode(status) if passed <= PATIENCE else 124
        time.sleep(0.001 if kill is not None and kill.kind == "save" else 0.02)


def _is_time(kill: Kill, run_dir: Path, started: float, longest: float) -> bool:
    """Whether a kill falls now; it may wait for a fraction of a second."""
    history = run_dir / HISTORY
    if kill.kind == "any moment" and time.time() - started >= kill.share * longest:
        return True
    if not history.is_file() or history.stat().st_mtime < started:
        return False  # the run has not come to its training yet
    if kill.kind == "any moment":  # at the latest before it takes the steps of the next kills
        return steps_in(history) > kill.step + 1
    if kill.kind == "save":
        found = list((run_dir / "checkpoints").glob(".step-*.tmp"))
        if not found or int(found[0].name.split(".")[1].removeprefix("step-")) <= kill.step:
            return False
        time.sleep(kill.share * 0.03)
    elif steps_in(history) <= kill.step:
        return False
    else:
        time.sleep(kill.share * 0.5)
    return True


def differences(run_dir: Path, alone: Path) -> list[str]:
    """In what two finished runs differ, bit for bit, and what a killed one has left behind."""
    found = [] if _history(run_dir) == _history(alone) else [HISTORY]
    weights = (read_json(folder / "weights.json") for folder in (run_dir, alone))
    found += ["weights.json"] if next(weights) != next(weights) else []
    names = [{str(p.relative_to(d)) for p in d.rglob("*") if p.is_file()} for d in (run_dir, alone)]
    found += [f"file {name} in one of them" for name in sorted(names[0] ^ names[1])]
    ours, theirs = (checkpoints(folder / "checkpoints") for folder in (run_dir, alone))
    found += [f"{path.name}: {damage}" for path in ours if (damage := damage_of(path))]
    if [p.name for p in ours] != [p.name for p in theirs]:
        return [*found, "checkpoints"]
    states = [read_checkpoint(paths[-1]) for paths in (ours, theirs)]
    return found + [key for key in COMPARED if not equal(states[0][key], states[1][key])]


def equal(one: Any, other: Any) -> bool:
    """Whether two states are equal bit for bit, all the way down."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, torch.Tensor):
        same = one.shape == other.shape and one.dtype == other.dtype
        return same and one.numpy().tobytes() == other.numpy().tobytes()
    return bool(one == other)


def _history(folder: Path) -> list[list[str]]:
    with (folder / HISTORY).open(newline="") as stream:
        return [line for line in csv.reader(stream) if not line[1].startswith(TIMING)]


def newest(run_dir: Path) -> int:
    """Step of the newest checkpoint; 0 without one."""
    return max(map(step_of, checkpoints(run_dir / "checkpoints")), default=0)


def cold(arguments: Sequence[str]) -> int:
    """Start the command in a new interpreter."""
    with Path(os.environ["TMPDIR"], "output").open("a", encoding="utf-8") as output:
        command = [sys.executable, "-m", "tdro_lightning", *arguments]
        return subprocess.Popen(command, stdout=output, stderr=output).pid


def warm(arguments: Sequence[str]) -> int:
    """Start the command in a copy of this process, which has imported what it needs."""
    for module in ("tdro_lightning.cli", "tdro_lightning.assembly.fit"):
        importlib.import_module(module)
    return os.fork() or run_and_end(arguments, Path(os.environ["TMPDIR"], "output"))


def run_and_end(arguments: Sequence[str], output: Path) -> NoReturn:
    """Run the command in this process, which has imported what it needs, and end with its code."""
    code = FAILED
    try:
        with output.open("a", encoding="utf-8") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        sys.argv = ["tdro_lightning", *arguments]
        sys.modules["tdro_lightning.cli"].main()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def prepared(folder: Path, sparse: bool = False) -> list[str]:
    """The demo up to a reference, trained for a few steps only; the command line of its tDRO."""
    own = [f"chain_dir={folder}", "logger.wandb=disabled"]
    vectors = [*SPARSE, f"model.path={folder / 'language_model'}"] if sparse else []
    stages: dict[str, Sequence[str]] = {
        "harvest": (),
        "mine": (),
        "model": (),
        "reference": ("trainer.steps=20", "~benchmark", *vectors),
    }
    for name, overrides in stages.items():
        if not (folder / name / "run.json").is_file():
            command = [sys.executable, "-m", "tdro_lightning", f"+experiment=demo/{name}"]
            command += [f"run_dir={folder / name}"]
            subprocess.run([*command, *own, *overrides], check=True)
        if name == "model" and sparse:
            write_language_model(folder / "model/model", folder / "language_model")
    return ["+experiment=demo/tdro", own[0], *vectors]


def write_language_model(model: Path, folder: Path) -> None:
    """Copy a small model whose embedding is then the head of a language model as well."""
    shutil.copytree(model, folder, dirs_exist_ok=True)
    settings = read_json(folder / "config.json")
    tied = {"architectures": None, "tie_word_embeddings": True}
    write_json(folder / "config.json", settings | tied)


def main(given: Sequence[str] | None = None) -> int:
    """Run the loop; 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("overrides", nargs="*", help="a tDRO run's command line; default demo/tdro")
    add("--kills", type=int, default=50)
    add("--steps", type=int, default=60)
    add("--every", type=int, default=2, help="steps between two checkpoints")
    add("--seed", type=int, default=0)
    add("--warm", action="store_true", help="start in copies of this process, not interpreters")
    add("--sparse", action="store_true", help="sparse vectors, of proxy and reference")
    add("--demo", type=Path, help="default runs/faults/demo, or demo_sparse there")
    add("--runs", type=Path, default=Path("/dev/shm/tdro_faults"), help="is emptied")
    add("--log", type=Path, default=Path("runs/faults/kill_loop.log"))
    options = parser.parse_args(given)
    arguments = options.overrides
    if not arguments:
        default = Path("runs/faults") / ("demo_sparse" if options.sparse else "demo")
        arguments = prepared((options.demo or default).resolve(), options.sparse)
        arguments.append("data.batch_size=18")  # two rows of each domain, so that a step is short
    elif options.sparse:
        arguments += SPARSE
    arguments += [
        "logger.wandb=disabled",
        f"trainer.steps={options.steps}",
        f"trainer.checkpoint_every={options.every}",
    ]
    shutil.rmtree(options.runs, ignore_errors=True)
    options.runs.mkdir(parents=True)
    options.log.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=options.log.parent)).resolve()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    os.environ["HF_DATASETS_CACHE"] = str(options.runs / "datasets")

    began = time.monotonic()
    kills = planned(options.kills, options.steps, options.every, options.seed)
    with options.log.open("w") as log:
        start = warm if options.warm else cold
        found = kill_loop(arguments, start, options.runs, kills, log)
        left = [p for p in temporary.rglob("*") if p.is_file() and p != temporary / "output"]
        found += [f"left in TMPDIR: {path}" for path in left]
        verdict = "; ".join(found) or (
            f"history, domain weights, parameters and optimiser after {options.steps} steps are "
            "bit for bit those of the run left alone; no damaged and no left-over file"
        )
        print(f"{verdict} ({(time.monotonic() - began) / 60:.1f} minutes)", file=log)
    print(options.log.read_text())
    if found:
        print((temporary / "output").read_text()[-3000:], file=sys.stderr)
    shutil.rmtree(temporary)
    shutil.rmtree(options.runs)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
