"""Forward passes that can be run again with the same dropout."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Run a block with torch's generators seeded by a key, then go on from where they were.

    Dropout is a function of the key and of the shapes in the block, so it needs no saved state to
    be repeated, neither in a second pass nor in a resumed run.

    Args:
        key: integers of at least 0, for instance seed, step, rank and chunk.
    """
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=gpus):
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
        torch.default_generator.manual_seed(seed)  # torch.manual_seed notes a stack for each GPU
        if gpus:
            torch.cuda.manual_seed(seed)
        yield
