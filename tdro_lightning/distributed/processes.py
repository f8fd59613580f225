"""The processes of a run: what the launcher says of them, and how they wait for each other.

torch is imported where there are several only, so that a command with nothing to do starts at once.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

TIMEOUT = timedelta(minutes=10)  # a collective that others do not join ends the run after this
PATIENCE = timedelta(days=7)  # for the first process, while it does what one process does alone

BEGAN = time.monotonic()  # the command

T = TypeVar("T")

_waiting: Any = None  # the process group for waiting, once there is one


def rank() -> int:
    """This process's number over all machines, from 0."""
    group = _process_group()
    return group.get_rank() if group else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes over all machines; 1 without torchrun."""
    group = _process_group()
    return group.get_world_size() if group else int(os.environ.get("WORLD_SIZE", "1"))


def local_processes() -> int:
    """Number of processes that torchrun started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process writes the run's files."""
    return rank() == 0


def _process_group() -> Any:
    """`torch.distributed` with an initialised group; None where the environment must answer."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist and dist.is_available() and dist.is_initialized() else None


def backend() -> str:
    """Backends of the process group: tensors are exchanged where they are."""
    import torch

    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


@contextmanager
def process_group() -> Iterator[None]:
    """Connect the processes that torchrun started; nothing to do where there is one.

    An exception inside leaves the group as it is: taking it down waits for ranks that may be
    stuck. The others learn of the error, and end as well.

    Raises:
        PeerError: another process has failed.
    """
    if world_size() == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    from tdro_lightning.distributed.peers import end_together

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    global _waiting
    dist.init_process_group(backend(), timeout=TIMEOUT)
    _waiting = dist.new_group(backend="gloo", timeout=PATIENCE)
    with end_together(rank()):
        yield
    _waiting = None
    dist.destroy_process_group()


def from_first(value: T) -> T:
    """The first process's object, on every process; what the others hand in is not looked at."""
    if world_size() == 1:
        return value
    values = [value]
    _process_group().broadcast_object_list(values, src=0, group=_waiting)
    return values[0]


def barrier() -> None:
    """Wait until all processes are here."""
    if world_size() > 1:
        _process_group().barrier(_waiting)
