"""Random state saved before a forward pass, so that it can be run again with the same dropout."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class RandomState:
    """The state of the CPU and current GPU generators at the moment of construction."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Run a block from this state, then go on from where the generators were."""
        now = RandomState()
        self._restore()
        try:
            yield
        finally:
            now._restore()

    def _restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._gpu is not None:
            torch.cuda.set_rng_state(self._gpu)
