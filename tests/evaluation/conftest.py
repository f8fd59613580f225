"""Two real processes, connected like those of torchrun."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch.multiprocessing as mp

from tdro_lightning.processes import process_group


def in_two_processes(work: Callable[[Path], object], folder: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    mp.spawn(_process, args=(work, folder, port), nprocs=2)


def _process(number: int, work: Callable[[Path], object], folder: Path, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    with process_group():
        work(folder)
