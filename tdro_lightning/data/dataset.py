"""All domains under one index: from a draw to the texts the encoder will read."""

from collections.abc import Sequence

import numpy as np
import torch.utils.data

from tdro_lightning.data.domains import Domain
from tdro_lightning.data.example import Example, Passage, Row, passage_text
from tdro_lightning.data.randomness import generator
from tdro_lightning.data.samplers import Draw
from tdro_lightning.models.templates import PAPER, Templates


class RetrievalDataset(torch.utils.data.Dataset[Example]):
    """Examples by draw; positive, negatives and prompt are pure functions of seed, step and row.

    Args:
        domains: the domains, in index order.
        negatives: hard negatives a query.
        seed: the run's seed.
        prompt_symmetric_passages: prompt the passages of symmetric domains too, as the authors'
            code does; the paper prompts queries only.
        templates: of queries and passages, as the encoder reads them.
    """

    def __init__(
        self,
        domains: Sequence[Domain],
        negatives: int,
        seed: int,
        prompt_symmetric_passages: bool = False,
        templates: Templates = PAPER,
    ) -> None:
        self.domains = tuple(domains)
        self.negatives = negatives
        self.seed = seed
        self.prompt_symmetric_passages = prompt_symmetric_passages
        self.templates = templates

    def __getitem__(self, draw: Draw) -> Example:
        try:
            return self._example(draw)
        except Exception as error:  # nothing is swallowed: a note names the row
            domain = self.domains[draw.domain]
            error.add_note(f"in row {draw.row} (from 0) of domain {domain.name}, {domain.place}")
            raise

    def _example(self, draw: Draw) -> Example:
        domain = self.domains[draw.domain]
        row: Row = domain.table[draw.row]
        random = row_generator(self.seed, domain.name, draw.step, draw.row)
        prompt, chosen = draw_passages(row, domain.prompts, self.negatives, random)
        passage_prompt = prompt if domain.symmetric and self.prompt_symmetric_passages else None
        return Example(
            domain=draw.domain,
            query_id=row["query_id"],
            query=self.templates.format_query(row["query"], prompt),
            passages=tuple(
                self.templates.format_passage(passage_text(p), passage_prompt) for p in chosen
            ),
        )


def row_generator(seed: int, name: str, step: int, row: int) -> np.random.Generator:
    """What draws the prompt and the passages of a row of a domain at a step."""
    return generator(seed, f"passages {name}", step, row)


def draw_passages(
    row: Row, prompts: Sequence[str], negatives: int, random: np.random.Generator
) -> tuple[str | None, list[Passage]]:
    """The prompt of a row's query, and a positive with so many negatives after it."""
    prompt = prompts[int(random.integers(len(prompts)))] if prompts else None
    positives = row["positive_passages"]
    chosen = [positives[random.integers(len(positives))]]
    chosen += [
        row["negative_passages"][i]
        for i in chosen_negatives(len(row["negative_passages"]), negatives, random)
    ]
    return prompt, chosen


def chosen_negatives(available: int, wanted: int, random: np.random.Generator) -> list[int]:
    """Indices of `wanted` negatives, each once before any is repeated.

    A row with fewer negatives than asked repeats them evenly, so that every batch has one shape.
    """
    return np.resize(random.permutation(available), wanted).tolist()
