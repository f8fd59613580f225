"""Gradient cache: a batch limited by its embeddings, not by the activations behind them.

A contrastive loss sees the model through its embeddings only. So the gradient can be had in two
steps: first with respect to the embeddings, for the whole batch at once, then through the model,
chunk by chunk (Gao et al. 2021, arXiv 2101.06983).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.sparse_rows import (
    BatchVectors,
    compact,
    stack,
    sum_copies,
    whole,
)
from tdro_lightning.models.tokens import Tokens


class CachedEmbeddings:
    """Embeddings of many texts, with their gradient carried into the encoder chunk by chunk.

    The chunks that fit into `encoder.kept_tokens` together keep their graph; the others run again
    in the backward pass, with the same dropout. Equal texts run once, and share their dropout.

    Args:
        encoder: the encoder that trains.
        tokens: N texts.
        seed: integers that the dropout of this batch depends on.

    Attributes:
        vectors: [N, D] unit vectors, a leaf of the graph: a loss on them fills `vectors.grad`.
            Sparse vectors are kept as their nonzero values where that takes less memory.
    """

    def __init__(self, encoder: Encoder, tokens: Tokens, seed: tuple[int, ...]) -> None:
        self._encoder, self._tokens, self._seed = encoder, tokens, seed
        self._chunks, self._places = encoder.chunks_of(tokens)
        kept = encoder.kept_chunks(tokens.lengths, self._chunks)
        self._graphs: list[Tensor | None] = []
        values: list[BatchVectors] = []
        for number in range(len(self._chunks)):
            with torch.set_grad_enabled(number < kept):
                vectors = self._embed(number)
            self._graphs.append(vectors if number < kept else None)
            values.append(compact(vectors) if encoder.sparse else vectors.detach())
        distinct = stack(values) if encoder.sparse else torch.cat(values)  # type: ignore[arg-type]
        self.vectors = distinct[self._places].requires_grad_()

    def backward(self, backward: Callable[[Tensor], None] = Tensor.backward) -> None:
        """Add the gradient of `vectors` to the gradients of the encoder's parameters.

        Args:
            backward: runs the backward pass of a scalar; called once a chunk.
        """
        gradient = self.vectors.grad
        assert gradient is not None, "run the loss's backward pass first"
        sizes = [len(rows) for rows in self._chunks]
        # Of equal texts, which ran once, the gradients are summed.
        shares = sum_copies(gradient, self._places, sum(sizes)).split(sizes)
        for number, share in enumerate(shares):
            self._encoder.reduce_gradients(last=number == len(shares) - 1)
            vectors = self._graphs[number]
            self._graphs[number] = None  # lets its activations go with its backward pass
            if vectors is None:
                vectors = self._embed(number)
            backward((vectors * whole(share)).sum())

    def _embed(self, number: int) -> Tensor:
        with seed_generators(*self._seed, number):
            return self._encoder.embed_rows(self._tokens, self._chunks[number])


@contextmanager
def seed_generators(*key: int) -> Iterator[None]:
    """Seed torch's generators with a key for a block, and restore their states after it.

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
