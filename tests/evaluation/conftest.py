"""Two real processes, connected like those of torchrun, and the command that evaluates."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.multiprocessing as mp
import yaml

from tdro_lightning.processes import process_group
from tests.command import Ended, free_port, run


def in_two_processes(work: Callable[[Path], object], folder: Path) -> None:
    mp.spawn(_process, args=(work, folder, free_port()), nprocs=2)


def _process(number: int, work: Callable[[Path], object], folder: Path, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    with process_group():
        work(folder)


@pytest.fixture
def evaluated(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Ended]:
    """Evaluate BM25 on a benchmark below `data`, or on the hub's cache in `cache`."""

    def start(benchmark: str, *overrides: str) -> Ended:
        given = ("+experiment=evaluate", f"benchmark={benchmark}", "run_dir=run", *overrides)
        return run(capfd, tmp_path, *given)

    return start


def shipped(benchmark: str) -> list[str]:
    """Names of a benchmark's sets."""
    path = Path(__file__).parents[2] / f"conf/benchmark/{benchmark}.yaml"
    return list(yaml.safe_load(path.read_text())["sets"])


def without(benchmark: str, *kept: str) -> list[str]:
    """Overrides that leave a few sets of a benchmark."""
    return [f"~benchmark.sets.{one}" for one in shipped(benchmark) if one not in kept]
