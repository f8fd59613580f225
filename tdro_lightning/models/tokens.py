"""Tokenised texts of different lengths, kept without padding until a forward pass needs it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """N token sequences laid end to end.

    Args:
        ids: [sum of lengths] int64 token ids, on any device.
        lengths: [N] int64, each at least 1; always in the host's memory, where shapes are decided,
            so that no GPU is waited for.
        keys: [N] int64, hashes of the sequences (two that differ share one with a chance of
            2^-64), in the host's memory; None where nobody has made them: all count as different.
    """

    ids: Tensor
    lengths: Tensor
    keys: Tensor | None = None

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]]) -> "Tokens":
        """Tokens of plain lists of token ids."""
        rows = list(sequences)
        flat = torch.tensor([token for row in rows for token in row], dtype=torch.long)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        keys = [blake2b(part, digest_size=8).digest() for part in id_bytes(flat, lengths)]
        return cls(flat, lengths, torch.from_numpy(np.frombuffer(b"".join(keys), "<i8").copy()))

    def __len__(self) -> int:
        return len(self.lengths)

    def concatenate(self, others: "Tokens") -> "Tokens":
        """These sequences, then the others."""
        keys = None
        if self.keys is not None and others.keys is not None:
            keys = torch.cat([self.keys, others.keys])
        lengths = torch.cat([self.lengths, others.lengths])
        return Tokens(torch.cat([self.ids, others.ids]), lengths, keys)

    @cached_property
    def starts(self) -> Tensor:
        """[N] place of each sequence's first token."""
        return self.lengths.cumsum(0) - self.lengths

    @cached_property
    def distinct(self) -> tuple[Tensor, Tensor]:
        """Rows [U] of the first of equal sequences, and the place [N] of each row among these."""
        everything = torch.arange(len(self))
        if self.keys is None:
            return everything, everything
        _, group = self.keys.unique(return_inverse=True)
        size = int(group.max()) + 1 if len(group) else 0
        first = torch.full((size,), len(self)).scatter_reduce(0, group, everything, "amin")
        order = first.argsort()
        return first[order], order.argsort()[group]

    @property
    def distinct_lengths(self) -> Tensor:
        """[U] lengths of the distinct sequences, which are all that an encoder runs."""
        return self.lengths[self.distinct[0]]

    def chosen(self, rows: Tensor) -> "Tokens":
        """The sequences at some indices [R], in their order."""
        lengths = self.lengths[rows]
        shifts = self.starts[rows] - (lengths.cumsum(0) - lengths)  # from new places to old ones
        places = torch.arange(int(lengths.sum())) + shifts.repeat_interleave(lengths)
        keys = None if self.keys is None else self.keys[rows]
        return Tokens(self.ids[places.to(self.ids.device)], lengths, keys)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Tokens":
        """The same tokens on another device."""
        return Tokens(self.ids.to(device, non_blocking=non_blocking), self.lengths, self.keys)

    def pin_memory(self) -> "Tokens":
        """The same tokens in page-locked memory, for faster copies to a GPU."""
        return Tokens(self.ids.pin_memory(), self.lengths, self.keys)

    def padded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen rows, padded on the right with 0 to the longest of them.

        Args:
            rows: [R] indices.

        Returns:
            token ids [R, L] int64 and mask [R, L] bool, true where a token stands.
        """
        longest = int(self.lengths[rows].max())
        places = torch.stack([self.starts[rows], self.lengths[rows]])
        if self.ids.is_cuda:
            places = places.pin_memory()
        starts, lengths = places.to(self.ids.device, non_blocking=True)
        columns = torch.arange(longest, device=self.ids.device)
        mask = columns < lengths[:, None]
        source = starts[:, None] + columns
        return self.ids[source.clamp(max=len(self.ids) - 1)] * mask, mask


def id_bytes(ids: Tensor, sizes: Tensor) -> Iterator[memoryview]:
    """Parts of so many [N] of some integers, one after the other, as bytes to be hashed.

    They are 32-bit integers in one byte order, so that the bytes are the same on every machine.
    """
    view = ids.cpu().numpy().astype("<i4").data
    return (view[start:end] for start, end in pairwise(accumulate(sizes.tolist(), initial=0)))


def length_chunks(lengths: Tensor, budget: int) -> list[Tensor]:
    """Row indices in chunks of like length, none larger than `budget` tokens once padded.

    Rows are sorted by length (longest first, so that the largest chunk comes first and memory is
    known at once). A single row longer than the budget makes a chunk of its own.

    Args:
        lengths: [N] token counts.
        budget: rows times longest length allowed in one chunk.

    Returns:
        index tensors that together hold every row once.
    """
    order = lengths.argsort(descending=True, stable=True)
    chunks: list[Tensor] = []
    start = 0
    sorted_lengths = lengths[order].tolist()
    while start < len(sorted_lengths):
        rows = max(1, budget // sorted_lengths[start])
        chunks.append(order[start : start + rows])
        start += rows
    return chunks


def padded_tokens(lengths: Tensor, chunks: Iterable[Tensor]) -> int:
    """Tokens that are run, padding included, where texts of lengths [N] are run in chunks."""
    return sum(len(rows) * int(lengths[rows].max()) for rows in chunks)


def split_chunks(chunks: list[Tensor], count: int) -> list[Tensor]:
    """The chunks, those with the most rows cut in two until there are `count` of them.

    Args:
        chunks: row indices, at least `count` in all.
        count: chunks wanted, no fewer than there are.
    """
    pieces = list(chunks)
    while len(pieces) < count:
        largest = max(range(len(pieces)), key=lambda i: len(pieces[i]))
        pieces[largest : largest + 1] = pieces[largest].tensor_split(2)
    return pieces
