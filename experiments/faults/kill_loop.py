"""Kill a tDRO run with SIGKILL again and again, and compare its end with a run left alone.

Every start is a new process with the same command. See README.md beside this file.
"""

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tdro_lightning.checkpoint import checkpoints, damage_of, read_checkpoint
from tdro_lightning.files import read_json

KINDS = ("save", "step", "any moment")  # in which a kill falls
TIMING = ("speed/", "reference_cached")  # metrics that say how a step ran, not what came out
PATIENCE = 300.0  # seconds that anything may take
COMPARED = ("state_dict", "optimizer_states", "domain_weights", "global_step")


@dataclass(frozen=True)
class Kill:
    """One of the kills.

    Args:
        kind: one of `KINDS`.
        step: the run is killed after the history has this step; `any moment` does not look.
        share: how far into what the kind aims at, from 0 to 1.
    """

    kind: str
    step: int
    share: float


def planned(count: int, steps: int, every: int, seed: int) -> list[Kill]:
    """Kills of every kind in turn, spread over the steps of a run so that none comes too late."""
    draw = random.Random(seed)
    found = []
    for i in range(count):
        step = 1 + (steps - every - 2) * i // count
        found.append(Kill(KINDS[i % len(KINDS)], step, draw.random()))
    return found


def killed(
    command: Sequence[str], run_dir: Path, kill: Kill, seconds: float, output: Any
) -> tuple[int, bool, int]:
    """Start the command and kill it.

    Args:
        command: of the run.
        run_dir: its folder.
        kill: when.
        seconds: what a start took so far, for `any moment`.
        output: where the run prints.

    Returns:
        The exit code, whether a save was under way, and the steps in the history.
    """
    process = subprocess.Popen(command, stdout=output, stderr=output)
    began, started = time.monotonic(), time.time()
    folder = run_dir / "checkpoints"
    while process.poll() is None:
        passed = time.monotonic() - began
        if passed > PATIENCE:
            process.kill()
            raise TimeoutError(f"{' '.join(command)}: no end after {PATIENCE:.0f} s")
        if kill.kind == "any moment":
            if passed >= kill.share * seconds:
                break
        elif _written_since(run_dir, started) and steps_done(run_dir) > kill.step:
            if kill.kind == "step":
                time.sleep(kill.share * 0.2)
                break
            if list(folder.glob(".step-*.tmp")):
                time.sleep(kill.share * 0.02)
                break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    code = process.wait()
    saving = bool(list(folder.glob(".step-*.tmp")))
    return code, saving, steps_done(run_dir)


def _written_since(run_dir: Path, moment: float) -> bool:
    history = run_dir / "history.csv"
    return history.is_file() and history.stat().st_mtime > moment


def steps_done(run_dir: Path) -> int:
    """Steps in the history, by its last whole line."""
    history = run_dir / "history.csv"
    if not history.is_file():
        return 0
    with history.open("rb") as stream:
        stream.seek(max(0, history.stat().st_size - 500))
        lines = stream.read().decode().split("\n")[:-1]
    last = lines[-1].partition(",")[0] if lines else ""
    return int(last) + 1 if last.isdigit() else 0


def differences(run_dir: Path, alone: Path) -> list[str]:
    """In what two finished runs differ, bit for bit; and what a killed one has left behind."""
    found = [name for name in ("weights", "history") if _read(run_dir, name) != _read(alone, name)]
    names = [
        {str(p.relative_to(d)) for p in d.rglob("*") if p.is_file() and ".hydra" not in str(p)}
        for d in (run_dir, alone)
    ]
    found += [f"file {name} of one of them" for name in sorted(names[0] ^ names[1])]
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


def _read(folder: Path, name: str) -> Any:
    if name == "weights":
        return read_json(folder / "weights.json")
    with (folder / "history.csv").open(newline="") as stream:
        return [line for line in csv.reader(stream) if not line[1].startswith(TIMING)]


def kill_loop(
    command: Sequence[str], run_dir: Path, alone: Path, kills: Sequence[Kill], log: Any
) -> list[str]:
    """Kill the command's run at each of the kills, let it end, and compare.

    Args:
        command: of a run in `run_dir`.
        run_dir: must not exist yet.
        alone: the folder of the same run, left alone.
        kills: when it is killed.
        log: a line for each kill goes here.

    Returns:
        What differs; nothing is what should.
    """
    start_up = 10.0
    with tempfile.TemporaryFile("w+") as output:
        for number, kill in enumerate(kills, start=1):
            began, before = time.monotonic(), newest(run_dir)
            code, saving, steps = killed(command, run_dir, kill, start_up, output)
            took = time.monotonic() - began
            start_up = max(start_up, took) if kill.kind != "any moment" else start_up
            print(
                f"kill {number:2}, in {kill.kind:10}: began at step {before:3}, history of "
                f"{steps:3} steps, newest checkpoint {newest(run_dir):3}, "
                f"{'save under way' if saving else 'no save      '}, {took:.1f} s",
                file=log, flush=True,
            )  # fmt: skip
            if code != -signal.SIGKILL:
                output.seek(0)
                return [f"kill {number}: it had ended by itself, with exit code {code}"] + [
                    output.read()[-2000:]
                ]
        began = time.monotonic()
        code = subprocess.run(command, stdout=output, stderr=output, timeout=PATIENCE).returncode
        took = time.monotonic() - began
        print(f"left alone at last: exit code {code}, {took:.1f} s", file=log, flush=True)
        if code:
            output.seek(0)
            return [f"exit code {code}", output.read()[-2000:]]
    return differences(run_dir, alone)


def newest(run_dir: Path) -> int:
    """Step of the newest checkpoint; 0 without one."""
    found = checkpoints(run_dir / "checkpoints")
    return int(found[-1].name.removeprefix("step-")) if found else 0


def prepared(folder: Path) -> None:
    """The demo up to a reference, trained for a few steps only."""
    stages = {
        "harvest": (),
        "mine": (),
        "model": (),
        "reference": ("trainer.steps=20", "~benchmark"),
    }
    for name, overrides in stages.items():
        if not (folder / name / "run.json").is_file():
            own = (f"chain_dir={folder}", f"run_dir={folder / name}", "logger.wandb=disabled")
            subprocess.run([*TDRO, f"+experiment=demo/{name}", *own, *overrides], check=True)


TDRO = (sys.executable, "-m", "tdro_lightning")


def main() -> None:
    """Run the loop and end with 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--every", type=int, default=2, help="steps between two checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--demo", type=Path, default=Path("runs/faults/demo"))
    parser.add_argument("--runs", type=Path, default=Path("/dev/shm/tdro_faults"))
    parser.add_argument("--log", type=Path, default=Path("runs/faults/kill_loop.log"))
    options = parser.parse_args()
    prepared(options.demo.resolve())
    shutil.rmtree(options.runs, ignore_errors=True)
    options.runs.mkdir(parents=True)
    options.log.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=options.log.parent)).resolve()
    os.environ["TMPDIR"] = str(temporary)
    os.environ["HF_DATASETS_CACHE"] = str(options.runs / "datasets")

    def command(name: str) -> list[str]:
        """Each run has a reference cache of its own: the first must not help the second."""
        return [
            *TDRO, "+experiment=demo/tdro", f"chain_dir={options.demo.resolve()}",
            f"run_dir={options.runs / name}", f"trainer.steps={options.steps}",
            f"trainer.checkpoint_every={options.every}", "logger.wandb=disabled",
            f"module.reference_cache={options.runs / f'losses of {name}'}",
        ]  # fmt: skip

    began = time.monotonic()
    with options.log.open("w") as log:
        subprocess.run(command("alone"), check=True, stdout=subprocess.DEVNULL)
        kills = planned(options.kills, options.steps, options.every, options.seed)
        found = kill_loop(command("killed"), options.runs / "killed", options.runs / "alone", kills, log)
        found += [f"left in TMPDIR: {path}" for path in temporary.rglob("*") if path.is_file()]
        verdict = "; ".join(found) or (
            f"history, domain weights, parameters and optimiser after {options.steps} steps are bit "
            f"for bit those of the run left alone; no damaged and no left-over file"
        )
        print(f"{verdict} ({(time.monotonic() - began) / 60:.1f} minutes)", file=log)
    print(options.log.read_text())
    shutil.rmtree(temporary)
    shutil.rmtree(options.runs)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
