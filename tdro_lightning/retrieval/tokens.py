"""Tokenised texts of different lengths, kept without padding until a forward pass needs it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tokens:
    """N token sequences laid end to end.

    Args:
        ids: [sum of lengths] int64 token ids.
        lengths: [N] int64, each at least 1.
    """

    ids: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]]) -> "Tokens":
        """Tokens of plain lists of token ids."""
        rows = list(sequences)
        flat = [token for row in rows for token in row]
        lengths = [len(row) for row in rows]
        return cls(*(torch.tensor(values, dtype=torch.long) for values in (flat, lengths)))

    def __len__(self) -> int:
        return len(self.lengths)

    def followed_by(self, others: "Tokens") -> "Tokens":
        """These sequences, then the others."""
        return Tokens(torch.cat([self.ids, others.ids]), torch.cat([self.lengths, others.lengths]))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Tokens":
        """The same tokens on another device."""
        return Tokens(
            self.ids.to(device, non_blocking=non_blocking),
            self.lengths.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "Tokens":
        """The same tokens in page-locked memory, for faster copies to a GPU."""
        return Tokens(self.ids.pin_memory(), self.lengths.pin_memory())

    def padded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The chosen rows, padded on the right with 0 to the longest of them.

        Args:
            rows: [R] indices.

        Returns:
            token ids [R, L] int64 and mask [R, L] bool, true where a token stands.
        """
        lengths = self.lengths[rows]
        ends = self.lengths.cumsum(0)[rows]
        columns = torch.arange(int(lengths.max()), device=self.ids.device)
        mask = columns < lengths[:, None]
        source = (ends - lengths)[:, None] + columns
        return self.ids[source.clamp(max=len(self.ids) - 1)] * mask, mask


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


def divided(chunks: list[Tensor], count: int) -> list[Tensor]:
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
