"""One part of the GPU checks in a process of its own: `probe.py NAME`, as run.py starts it."""

import argparse
import importlib
import json
import logging
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESERVE = 4.0  # seconds of a part's limit that are kept for its end
LEAST = 2.0  # seconds without which nothing is begun


class Probe:
    """What a part has found; it is written after every figure, so that a time limit loses none.

    Args:
        file: JSON of what is found.
        seconds: the part's time limit.
        dry: the same work at a tiny size on the CPU.
    """

    def __init__(self, file: Path, seconds: float, *, dry: bool) -> None:
        self.file, self.dry = file, dry
        self.device = "cpu" if dry else "cuda"
        self.found: dict[str, Any] = {}
        self._end = time.monotonic() + seconds - RESERVE

    @property
    def left(self) -> float:
        """Seconds until the part must end."""
        return self._end - time.monotonic()

    def record(self, name: str, value: Any) -> None:
        """Write a figure down."""
        self.found[name] = value
        self.file.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        print(f"{name}: {json.dumps(value)[:600]}", flush=True)

    def attempt(self, name: str, work: Callable[[], Any]) -> None:
        """Record what some work returns; an error is recorded, and what comes next is tried."""
        if self.left < LEAST:
            self.record(name, {"skipped": "no time left"})
            return
        try:
            found = work()
        except Exception as error:
            where = traceback.format_exc()[-800:]
            found = {"error": f"{type(error).__name__}: {str(error)[:400]}", "where": where}
        self.record(name, found)
        if not self.dry:
            torch.cuda.empty_cache()

    def seconds(self, work: Callable[[], object], repeats: int = 5) -> float:
        """Median seconds of some work after two warm-ups, with the GPU's work finished."""
        taken = []
        for number in range(2 + (1 if self.dry else repeats)):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - began)
            if number >= 2 and self.left < 0:
                break
        return statistics.median(taken[2:])

    def wait(self) -> None:
        """Until the GPU has finished its work."""
        if not self.dry:
            torch.cuda.synchronize()


def main() -> None:
    """Run the part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--module", required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    probe = Probe(options.file, options.seconds, dry=options.dry)
    importlib.import_module(options.module).measure(probe, options.name)


if __name__ == "__main__":
    main()
