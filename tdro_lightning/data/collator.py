"""From examples to one batch of token sequences."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tdro_lightning.data.example import Example
from tdro_lightning.models.tokenizer import TextTokenizer
from tdro_lightning.models.tokens import Tokens


@dataclass(frozen=True)
class Batch:
    """B queries of one process with N passages each.

    Args:
        queries: B token sequences.
        passages: B * N token sequences, row by row, the positive first in each row.
        domain: [B] domain index of each query.
        query_ids: the B queries' ids, for messages.
    """

    queries: Tokens
    passages: Tokens
    domain: Tensor
    query_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.domain)

    @cached_property
    def texts(self) -> Tokens:
        """All B + B * N token sequences, queries first."""
        return self.queries.concatenate(self.passages)

    @property
    def lengths_and_keys(self) -> Tensor:
        """[2, B, 1 + N] tokens and keys of each query and of its passages, in the host's memory."""
        lengths = torch.cat([self.queries.lengths, self.passages.lengths])
        keys = torch.arange(len(lengths)) if self.texts.keys is None else self.texts.keys
        queries, passages = torch.stack([lengths, keys]).tensor_split([len(self)], dim=1)
        return torch.cat([queries[..., None], passages.view(2, len(self), -1)], dim=2)

    def select(self, rows: Tensor) -> "Batch":
        """The queries at some indices [R], with their passages."""
        each = len(self.passages) // len(self)
        passages = (rows[:, None] * each + torch.arange(each)).flatten()
        return Batch(
            self.queries.chosen(rows),
            self.passages.chosen(passages),
            self.domain[rows.to(self.domain.device)],
            tuple(self.query_ids[row] for row in rows.tolist()),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same batch on another device."""
        return Batch(
            self.queries.to(device, non_blocking),
            self.passages.to(device, non_blocking),
            self.domain.to(device, non_blocking=non_blocking),
            self.query_ids,
        )

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory."""
        return Batch(
            self.queries.pin_memory(),
            self.passages.pin_memory(),
            self.domain.pin_memory(),
            self.query_ids,
        )


@dataclass(frozen=True)
class Collator:
    """Tokenises the examples of a batch.

    Args:
        tokenizer: the encoder's tokenizer.
        query_tokens: longest query in tokens.
        passage_tokens: longest passage in tokens.
    """

    tokenizer: TextTokenizer
    query_tokens: int
    passage_tokens: int

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """One batch; every example must have the same number of passages."""
        passages = [text for example in examples for text in example.passages]
        return Batch(
            queries=self.tokenizer([e.query for e in examples], self.query_tokens),
            passages=self.tokenizer(passages, self.passage_tokens),
            domain=torch.tensor([example.domain for example in examples]),
            query_ids=tuple(example.query_id for example in examples),
        )
