"""Texts some of whose tokens are masked, to be predicted: BERT's way (arXiv 1810.04805)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tdro_lightning.data.passages import PassageExample
from tdro_lightning.data.randomness import generator
from tdro_lightning.models.tokenizer import TextTokenizer
from tdro_lightning.models.tokens import Tokens

MASKED, REPLACED = 0.8, 0.1  # shares of the chosen tokens; the others stay as they are

Ids = NDArray[np.int64]


class MaskedText(NamedTuple):
    """A text with some tokens chosen.

    Args:
        ids: [L] its tokens, most of those that are chosen being others now.
        places: [C] where the chosen ones are, ascending.
        targets: [C] what they were.
    """

    ids: Ids
    places: Ids
    targets: Ids


@dataclass(frozen=True)
class Masking:
    """Chooses a share of a text's tokens and hides most of them.

    The first token and special ones are never chosen: the first has none before it, from which it
    could be predicted.

    Args:
        share: chance of each other token to be chosen.
        mask: id of the token that stands for a hidden one.
        vocabulary: random tokens are drawn from the ids below it.
        special: ids of special tokens.
    """

    share: float
    mask: int
    vocabulary: int
    special: tuple[int, ...] = ()

    def __call__(self, ids: Ids, random: np.random.Generator) -> MaskedText:
        """Choose tokens of a text [L], and change them."""
        length = len(ids)
        chosen = random.random(length) < self.share
        chosen &= ~np.isin(ids, self.special) & (np.arange(length) > 0)
        fate = random.random(length)
        others = random.integers(self.vocabulary, size=length)
        hidden = np.where(fate < MASKED, self.mask, np.where(fate < MASKED + REPLACED, others, ids))
        places = np.flatnonzero(chosen)
        return MaskedText(np.where(chosen, hidden, ids), places, ids[places])


@dataclass(frozen=True)
class MaskedBatch:
    """B texts of one process, of which C tokens in all are to be predicted.

    Args:
        passages: the texts, with tokens masked.
        rows: [C] text of each such token, in the host's memory as lengths are.
        columns: [C] place of each in its text, at least 1; in the host's memory.
        targets: [C] what stood there.
        domain: [B] domain index of each text.
        query_ids: ids of the texts' rows, for messages.
    """

    passages: Tokens
    rows: Tensor
    columns: Tensor
    targets: Tensor
    domain: Tensor
    query_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.domain)

    @property
    def texts(self) -> Tokens:
        """All texts, which are the passages."""
        return self.passages

    @cached_property
    def queries(self) -> Tokens:
        """There are none."""
        return Tokens.of([])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "MaskedBatch":
        """The same batch on another device."""
        return replace(
            self,
            passages=self.passages.to(device, non_blocking),
            targets=self.targets.to(device, non_blocking=non_blocking),
            domain=self.domain.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "MaskedBatch":
        """The same batch in page-locked memory."""
        return replace(
            self,
            passages=self.passages.pin_memory(),
            targets=self.targets.pin_memory(),
            domain=self.domain.pin_memory(),
        )


@dataclass(frozen=True)
class MaskingCollator:
    """Tokenises and masks the passages of a batch, a pure function of seed, step and row.

    Args:
        tokenizer: the model's tokenizer.
        passage_tokens: longest passage in tokens.
        masking: what is masked.
        seed: the run's seed.
    """

    tokenizer: TextTokenizer
    passage_tokens: int
    masking: Masking
    seed: int

    def __call__(self, examples: Sequence[PassageExample]) -> MaskedBatch:
        """One batch."""
        tokens = self.tokenizer([example.text for example in examples], self.passage_tokens)
        texts = [
            self.masking(ids.numpy(), self._random(example))
            for ids, example in zip(
                tokens.ids.split(tokens.lengths.tolist()), examples, strict=True
            )
        ]
        counts = torch.tensor([len(text.places) for text in texts])
        return MaskedBatch(
            passages=Tokens(_join([text.ids for text in texts]), tokens.lengths),
            rows=torch.arange(len(texts)).repeat_interleave(counts),
            columns=_join([text.places for text in texts]),
            targets=_join([text.targets for text in texts]),
            domain=torch.tensor([example.draw.domain for example in examples]),
            query_ids=tuple(example.query_id for example in examples),
        )

    def _random(self, example: PassageExample) -> np.random.Generator:
        step, _, row = example.draw
        return generator(self.seed, f"masks {example.domain}", step, row)


def _join(parts: Sequence[Ids]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
