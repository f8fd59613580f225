"""Passages of the domains by themselves, for the adaptation of a language model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.utils.data

from tdro_lightning.data.domains import Domain
from tdro_lightning.data.example import Row, passage_text
from tdro_lightning.data.randomness import generator
from tdro_lightning.data.samplers import Draw
from tdro_lightning.models.templates import PAPER, Templates


@dataclass(frozen=True)
class PassageExample:
    """One passage as the model will read it, the draw that it comes from, and names for both."""

    draw: Draw
    domain: str
    query_id: str
    text: str


class PassageDataset(torch.utils.data.Dataset[PassageExample]):
    """A passage for each draw: one of its row's, positive or negative, each as likely as another.

    Args:
        domains: the domains, in index order.
        seed: the run's seed.
        templates: of passages, as the encoder reads them.
    """

    def __init__(self, domains: Sequence[Domain], seed: int, templates: Templates = PAPER) -> None:
        self.domains = tuple(domains)
        self.seed = seed
        self.templates = templates

    def __getitem__(self, draw: Draw) -> PassageExample:
        domain = self.domains[draw.domain]
        row: Row = domain.table[draw.row]
        passages = [*row["positive_passages"], *row["negative_passages"]]
        random = generator(self.seed, f"adapted {domain.name}", draw.step, draw.row)
        chosen = passages[int(random.integers(len(passages)))]
        text = self.templates.format_passage(passage_text(chosen))
        return PassageExample(draw, domain.name, row["query_id"], text)
