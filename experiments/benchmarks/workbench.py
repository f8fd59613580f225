"""The rows, models and modules that the comparison works with, and what times them."""

import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rounds import Rounds, Work, seconds
from steps import Settings, encoder, module, shape, trainer
from texts import lengths, made_tokenizer, single_tokens, texts

from tdro_lightning.data.collator import Batch, Collator
from tdro_lightning.data.example import Example
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.training.callbacks.throughput import Throughput
from tdro_lightning.training.finetune import FinetuneModule
from tdro_lightning.training.history import History
from tdro_lightning.training.tdro import TDROModule

Stage = Literal["tdro", "finetune"]
Module = TDROModule | FinetuneModule
Computed = Callable[[], float | NDArray[np.float32]]

QUERY_TOKENS, PASSAGE_TOKENS = 128, 512  # the paper's limits
QUERY_MEAN, PASSAGE_MEAN = 20, 120


@dataclass(frozen=True)
class Choice:
    """What and how is measured; `bench.py --help` explains each."""

    device: str
    model: str
    lora_model: str
    deep_model: str
    lora: bool
    tdro_batch: int
    finetune_batch: int
    deep_batch: int
    minilm_model: str
    repeated_batch: int
    texts: int
    chunk_tokens: int
    kept_tokens: int
    padded_batch: int | None
    mini_batch_tokens: int | None
    deep_mini_batch_tokens: int | None
    encode_batch: int | None
    repeats: int
    seed: int


@dataclass(frozen=True)
class Case:
    """Contenders that do the same work on the same rows with the same weights.

    Args:
        batches: of contenders that are steps of `module` in a Trainer, a batch for each round.
        others: contenders that are plain calls.
        module: what trains on the batches.
        lengths: [N] of the texts in one round's batch.
        checked: what must agree, computed by two of the contenders: mean losses, or vectors.
        setting: the field of `Choice` that sets how the other works, and the fastest value.
    """

    batches: dict[str, list[Batch]] = field(default_factory=dict)
    others: dict[str, Work] = field(default_factory=dict)
    module: Module | None = None
    lengths: torch.Tensor = field(default_factory=lambda: torch.ones(1))
    checked: tuple[Computed, Computed] | None = None
    setting: tuple[str, int] | None = None


class Workbench:
    """Makes rows, models and modules, equal ones for equal arguments.

    Args:
        choice: what is measured.
        folder: for the saved model, the losses on disk and the logs.
    """

    def __init__(self, choice: Choice, folder: Path) -> None:
        self.choice = choice
        self.folder = folder
        self.tokenizer = made_tokenizer(shape(choice.model)["architecture"]["vocab_size"])
        self.words = single_tokens(self.tokenizer)

    def settings(
        self, stage: Stage, kept_tokens: int = 0, *, model: str | None = None, lora: bool = False
    ) -> Settings:
        """Those of a stage, without dropout, so that all contenders compute the same.

        Args:
            stage: what trains.
            kept_tokens: padded tokens that keep their activations.
            model: another one than the choice's.
            lora: train an adapter whatever the choice is.
        """
        choice = self.choice
        return Settings(
            model=model or choice.model,
            stage=stage,
            full=not (lora or choice.lora),
            lora_dropout=0.0,
            query_tokens=QUERY_TOKENS,
            passage_tokens=PASSAGE_TOKENS,
            chunk_tokens=choice.chunk_tokens,
            kept_tokens=kept_tokens,
            device=choice.device,
            precision="32-true" if choice.device == "cpu" else "bf16-mixed",
            seed=choice.seed,
        )

    def examples(
        self,
        queries: int,
        negatives: int,
        domains: int,
        query_mean: int = QUERY_MEAN,
        passage_mean: int = PASSAGE_MEAN,
    ) -> list[Example]:
        """Queries of all domains in turn, each with a positive and so many hard negatives."""
        random = np.random.default_rng(self.choice.seed)
        each = 1 + negatives
        asked = texts(random, self.words, lengths(random, queries, query_mean, QUERY_TOKENS))
        sizes = lengths(random, queries * each, passage_mean, PASSAGE_TOKENS)
        found = texts(random, self.words, sizes)
        return [
            Example(i % domains, str(i), asked[i], tuple(found[i * each : (i + 1) * each]))
            for i in range(queries)
        ]

    def batch(self, rows: list[Example]) -> Batch:
        """The rows as tokens."""
        return Collator(self.tokenizer, QUERY_TOKENS, PASSAGE_TOKENS)(rows)

    def encoder(self, settings: Settings, *, trained: bool) -> Encoder:
        """An encoder of always the same weights, with an adapter where one trains."""
        model, tokenizer = _float32(settings.model), self.tokenizer
        return encoder(settings, model, settings.seed, trained=trained, tokenizer=tokenizer)

    def tdro(self, settings: Settings, domains: int) -> TDROModule:
        """The module of the tDRO stage, as in a run."""
        torch.manual_seed(settings.seed)  # an adapter starts at random
        model, proxy = _float32(settings.model), self.encoder(settings, trained=True)
        made = module("tdro", settings, model, proxy, domains)
        assert isinstance(made, TDROModule)
        return made

    def finetune(self, settings: Settings) -> FinetuneModule:
        """The module of fine-tuning, as in a run."""
        torch.manual_seed(settings.seed)
        model, proxy = _float32(settings.model), self.encoder(settings, trained=True)
        made = module("finetune", settings, model, proxy, 1)
        assert isinstance(made, FinetuneModule)
        return made

    def saved(self, settings: Settings) -> Path:
        """A folder with the encoder's model, written once."""
        folder = self.folder / "encoders" / Path(settings.model).stem
        if not folder.exists():
            self.encoder(settings, trained=False).save(folder)
        return folder

    def seconds(self, case: Case, rounds: int, names: Collection[str]) -> dict[str, list[float]]:
        """Seconds of the named contenders, in turn; steps are logged as in a run."""
        batches = {name: rows for name, rows in case.batches.items() if name in names}
        others = {name: work for name, work in case.others.items() if name in names}
        if not batches:
            turns = [{name: seconds(work) for name, work in others.items()} for _ in range(rounds)]
            return {name: [turn[name] for turn in turns] for name in others}
        made = case.module
        assert made is not None
        turns_of_steps = Rounds(batches, others, rounds)
        tdro = isinstance(made, TDROModule)
        throughput = Throughput(made.proxy, made.reference) if tdro else Throughput(made.encoder)
        log = History(Path(tempfile.mkdtemp(dir=self.folder)))
        settings = self.settings("tdro" if tdro else "finetune")
        run = trainer(settings, len(turns_of_steps), turns_of_steps, throughput, logger=log)
        run.fit(made, turns_of_steps)
        return turns_of_steps.taken


def _float32(model: str) -> dict[str, Any]:
    """A shape whose weights are in float32, so that losses can be compared to 1e-4."""
    return shape(model) | {"dtype": "float32"}
