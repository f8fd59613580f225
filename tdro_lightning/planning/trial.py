"""A few steps of a planned run with random weights: they prove that it steps, and may be timed."""

import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from tdro_lightning.assembly.encoders import configured_reading
from tdro_lightning.assembly.modules import (
    data_module,
    domain_weights,
    optimisation,
    reference_path,
    tdro_module,
)
from tdro_lightning.config.schema import Config, TDROConfig
from tdro_lightning.console.output import show_status
from tdro_lightning.data.collator import Batch
from tdro_lightning.files import GIGA
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.tokens import Tokens
from tdro_lightning.planning.data import LocalData
from tdro_lightning.planning.model import planned_encoder, random_model, resized_model
from tdro_lightning.training.callbacks.throughput import process_peak, reset_process_peak
from tdro_lightning.training.finetune import FinetuneModule
from tdro_lightning.training.strategies import strategy

WHOLE = 2e11  # FLOPs of a step up to which it is run as it is: seconds on a CPU
STEPS, SECONDS = 8, 12.0  # of a whole trial, whichever comes first; never fewer than three steps
WORDS = 1000  # of a small trial's vocabulary
SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": WORDS,
    # Those of the model are beyond that vocabulary; some families count positions from padding.
    **{"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None},
    **{"cls_token_id": None, "sep_token_id": None},
}
ROWS, TEXT_TOKENS = 4, 16  # of a small trial


@dataclass(frozen=True)
class TrialRun:
    """What a trial showed.

    Attributes:
        whole: the configured model and batch, or else a small part of both.
        steps: timed, the first one left out.
        tokens: in them, without padding.
        seconds: they took, the loader included.
        process_gb: most memory that this process held.
    """

    whole: bool
    steps: int
    tokens: int
    seconds: float
    process_gb: float | None


class Clock(Callback):
    """Times the steps after the first, and stops the trial when it is long enough."""

    def __init__(self) -> None:
        self.steps = self.tokens = 0
        self.seconds = 0.0
        self._began: float | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *rest: Any
    ) -> None:
        """Count the step."""
        now = time.perf_counter()
        show_status(f"trial: step {trainer.global_step} of {trainer.max_steps}")
        if self._began is None:
            self._began = now
            return
        self.steps += 1
        self.tokens += int(batch.texts.lengths.sum())
        self.seconds = now - self._began
        trainer.should_stop = self.steps >= 2 and self.seconds >= SECONDS


def run_trial(
    config: Config, local: LocalData, step_flops: float, probability: dict[str, float]
) -> TrialRun:
    """Run the planned steps on this machine, whole where they are small, else a part of them.

    Args:
        config: a training stage.
        local: of its data and tokenizer.
        step_flops: useful FLOPs of a step.
        probability: of each domain, in fine-tuning.
    """
    whole = step_flops <= WHOLE and bool(local.domains) and local.tokenizer is not None
    show_status("trial: building the model")
    reset_process_peak()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        proxy = _encoder(config, local, whole)
        reference = _encoder(config, local, whole) if reference_path(config) else None
    names = local.names if whole else ["first", "second"]
    module = _module(config, names, proxy, reference)
    data = data_module(config, local.domains, proxy, probability) if whole else _made_up(config)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_steps=STEPS if whole else 1,
            max_epochs=-1,
            min_steps=3 if whole else 1,
            strategy=strategy("single", None),
            devices=1,
            precision=config.trainer.precision,  # type: ignore[arg-type]
            logger=False,
            callbacks=[clock],
            use_distributed_sampler=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, data)
    peak = None if torch.cuda.is_available() else process_peak()
    return TrialRun(
        whole,
        clock.steps,
        clock.tokens,
        clock.seconds,
        None if peak is None else peak / GIGA,
    )


def _encoder(config: Config, local: LocalData, whole: bool) -> Encoder:
    model, shape = config.model, configured_reading(config).sparse
    made = random_model(model, "cpu", shape) if whole else resized_model(model, SMALL, "cpu", shape)
    tokenizer = local.tokenizer if whole else None  # a small trial makes up its tokens
    return planned_encoder(config, made, tokenizer, shape)


def _module(
    config: Config, names: list[str], proxy: Encoder, reference: Encoder | None
) -> LightningModule:
    settings = config.module
    if isinstance(settings, TDROConfig):
        return tdro_module(config, settings, domain_weights(settings, names), proxy, reference)
    scale = [1.0] * len(names)
    how = optimisation(config)
    return FinetuneModule(proxy, names, scale, settings.temperature, how, config.seed)


def _made_up(config: Config) -> DataLoader[Batch]:
    """One batch of random tokens."""
    random = torch.Generator().manual_seed(0)

    def texts(count: int) -> Tokens:
        lengths = torch.full((count,), TEXT_TOKENS)
        size = count * TEXT_TOKENS
        return Tokens(torch.randint(WORDS, (size,), generator=random), lengths)

    domain = torch.arange(ROWS) % 2 if isinstance(config.module, TDROConfig) else torch.zeros(ROWS)
    passages = texts(ROWS * (1 + config.data.negatives))
    batch = Batch(texts(ROWS), passages, domain.long(), tuple(map(str, range(ROWS))))
    return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
