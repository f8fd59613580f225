"""All GPU checks in one run of at most eight minutes; each part has its own limit and JSON file.

It needs a machine with one GPU and no internet, and there PyTorch, Lightning, transformers and
PEFT; what else the steps import comes from the wheels of prepare.py. See README.md here.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WHEELS = HERE / "wheels"
SECONDS = 480.0
LEAST = 8.0  # seconds without which no part is begun


@dataclass(frozen=True)
class Part:
    """A part: its name, the module that measures it, and its limit in seconds."""

    name: str
    module: str
    seconds: float


PARTS = (  # in order of what is wanted most, should time run out
    Part("step_parts", "step_parts", 119),
    Part("attention", "attention", 60),
    Part("environment", "environment", 45),
    Part("steps_finetune", "gpu_steps", 60),
    Part("variants", "variants", 110),
    Part("correctness", "correctness", 75),
    Part("steps_tdro", "gpu_steps", 80),
    Part("profile", "profiles", 80),
    Part("steps_kept", "gpu_steps", 45),
    Part("steps_full", "gpu_steps", 45),
    Part("steps_small_chunks", "gpu_steps", 40),
    Part("steps_large_batch", "gpu_steps", 90),
    Part("counted", "counted", 60),
)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the parts, one after the other; what became of each is in `summary.json`, too."""
    options = _parser().parse_args(arguments)
    names = options.parts or [part.name for part in PARTS]
    output: Path = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    surroundings = _surroundings(output, [] if options.dry else sorted(WHEELS.glob("*.whl")))
    end = time.monotonic() + options.seconds
    summary = []
    for part in (part for part in PARTS if part.name in names):
        seconds = min(part.seconds, end - time.monotonic())
        summary.append(_run(part, seconds, output, surroundings, dry=options.dry))
        print(json.dumps(summary[-1]), flush=True)
        (output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def _run(
    part: Part, seconds: float, output: Path, surroundings: dict[str, str], *, dry: bool
) -> dict[str, Any]:
    """Start a part in a process of its own, end it at its limit, and say how it ended."""
    file = output / f"{part.name}.json"
    file.unlink(missing_ok=True)  # of a run before
    if seconds < LEAST:
        return {"part": part.name, "ended": "no time left", "seconds": 0.0}
    command = [sys.executable, str(HERE / "probe.py"), part.name, f"--module={part.module}"]
    command += [f"--file={file}", f"--seconds={seconds}", *(["--dry"] if dry else [])]
    began = time.monotonic()
    with (output / f"{part.name}.log").open("w") as log:
        try:
            code = subprocess.run(
                command, stdout=log, stderr=log, env=surroundings, timeout=seconds
            ).returncode
            ended = "finished" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            ended = f"time limit of {seconds:.0f} s"
    return {"part": part.name, "ended": ended, "seconds": round(time.monotonic() - began, 1)}


def _surroundings(output: Path, wheels: list[Path]) -> dict[str, str]:
    """Environment variables of the parts; installs wheels, if any, into the output folder."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    if wheels:
        site = output / "site"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*pip, "--upgrade", f"--target={site}", *map(str, wheels)], check=True)
        paths.insert(0, str(site))
    changes = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | changes | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--dry", action="store_true", help="run all parts at a tiny size on the CPU")
    add("--output", type=Path, default=Path("gpu_results"), help="folder of the JSON files")
    add("--seconds", type=float, default=SECONDS, help="limit of all parts together")
    names = [part.name for part in PARTS]
    add("--parts", nargs="+", choices=names, metavar="PART", help=f"of {', '.join(names)}")
    return parser


if __name__ == "__main__":
    main()
