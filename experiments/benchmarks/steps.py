"""Models, batches and Trainers of one step of a stage, at a given shape.

Weights are random and texts are random token ids, so nothing is downloaded; the modules, the
Trainer and the precision are those of a run.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from torch.utils.data import DataLoader
from transformers import Qwen2Tokenizer

from tdro_lightning.data.collator import Batch
from tdro_lightning.dro.measurement import Measurement
from tdro_lightning.dro.weights import DomainWeights
from tdro_lightning.errors import ConfigError
from tdro_lightning.models.adapter import Lora, attach_lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.shapes import from_architecture
from tdro_lightning.models.tokenizer import TextTokenizer
from tdro_lightning.models.tokens import Tokens
from tdro_lightning.training.finetune import FinetuneModule
from tdro_lightning.training.optim import Optimisation
from tdro_lightning.training.strategies import checkpoint_activations
from tdro_lightning.training.tdro import TDROModule

MODELS = Path(__file__).resolve().parents[2] / "conf" / "model"
DOMAINS = 25
TEMPERATURE = 0.002
NEGATIVES = {"tdro": 7, "finetune": 1}  # the paper's


@dataclass(frozen=True)
class Settings:
    """The command line; `--help` explains each."""

    model: str = "qwen05b"
    stage: str = "both"
    full: bool = False
    lora_dropout: float = 0.1
    batch: int = 256
    negatives: int | None = None
    query_tokens: int = 128
    passage_tokens: int = 512
    chunk_tokens: int = 16_384
    kept_tokens: int = 16_384
    activation_checkpointing: bool = False
    steps: int = 5
    warmup: int = 2
    device: str = "cuda"
    precision: str = "bf16-mixed"
    peak_tflops: float | None = None
    seed: int = 0
    output: Path | None = None


class Stopwatch(Callback):
    """Seconds of each training step, with the GPU's work finished at both ends."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._began = now()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop it."""
        self.seconds.append(now() - self._began)


def shape(name: str) -> dict[str, Any]:
    """A model file: a name in conf/model, or the path of a .yaml file.

    Raises:
        ConfigError: the file has no architecture.
    """
    path = Path(name) if name.endswith(".yaml") else MODELS / f"{name}.yaml"
    model = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(model, dict)
    if "architecture" not in model:
        raise ConfigError(f"--model {name}: {path} has no section `architecture`")
    return {str(key): value for key, value in model.items()}


def trained(module: LightningModule, made: list[Batch], settings: Settings) -> list[float]:
    """Train on the batches; seconds of each step after the warm-up."""
    watch = Stopwatch()
    loader: DataLoader[Batch] = DataLoader(made, batch_size=None)
    trainer(settings, len(made), watch).fit(module, loader)
    return watch.seconds[settings.warmup :]


def trainer(
    settings: Settings, steps: int, *callbacks: Callback, logger: Logger | None = None
) -> Trainer:
    """A Trainer of so many steps."""
    return Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="gpu" if settings.device == "cuda" else "cpu",
        devices=1,
        precision=settings.precision,
        callbacks=list(callbacks),
        logger=logger or False,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def encoder(
    settings: Settings,
    model: dict[str, Any],
    seed: int,
    *,
    trained: bool,
    tokenizer: TextTokenizer | None = None,
) -> Encoder:
    """An encoder of random weights; the one that trains has the adapter, unless it is full."""
    if tokenizer is None:  # it is never asked for a token: the batches are made of ids
        bare = Qwen2Tokenizer().train_new_from_iterator(["a"], 257, show_progress=False)
        tokenizer = TextTokenizer(bare, "last")
    dtype = torch.float32 if settings.full else getattr(torch, model["dtype"])
    backbone = from_architecture(model["architecture"], settings.device, dtype, seed)
    adapted = trained and not settings.full
    made = Encoder(
        attach_lora(backbone, Lora(dropout=settings.lora_dropout)) if adapted else backbone,
        tokenizer,
        "last",
        settings.query_tokens,
        settings.passage_tokens,
        settings.chunk_tokens,
        settings.kept_tokens,
    )
    if trained and settings.activation_checkpointing:
        checkpoint_activations(made)
    return made


def module(
    stage: str, settings: Settings, model: dict[str, Any], proxy: Encoder, domains: int = DOMAINS
) -> FinetuneModule | TDROModule:
    """The module of a stage, set as in the paper."""
    optimisation = Optimisation(
        steps=1000, lr=1e-4, warmup_steps=100, min_lr_ratio=0.1, weight_decay=0.1, clip_norm=1.0
    )
    names = [f"domain {i}" for i in range(domains)]
    if stage == "finetune":
        return FinetuneModule(
            encoder=proxy,
            names=names,
            loss_scale=[1.0] * domains,
            temperature=TEMPERATURE,
            optimisation=optimisation,
            seed=settings.seed,
        )
    return TDROModule(
        proxy=proxy,
        reference=encoder(settings, model, settings.seed + 1, trained=False),
        weights=DomainWeights(names, learning_rate=0.02),
        measurement=Measurement("ratio"),
        temperature=TEMPERATURE,
        optimisation=optimisation,
        seed=settings.seed,
    )


def batches(stage: str, settings: Settings, negatives: int, vocabulary: int) -> list[Batch]:
    """One batch a step, of texts between a quarter of their limit and the limit."""
    random = np.random.default_rng(settings.seed)

    def texts(count: int, limit: int) -> Tokens:
        lengths = random.integers(-(-limit // 4), limit, count, endpoint=True)
        ids = random.integers(vocabulary, size=lengths.sum())
        return Tokens(torch.from_numpy(ids), torch.from_numpy(lengths))

    rows = torch.arange(settings.batch)
    return [
        Batch(
            queries=texts(settings.batch, settings.query_tokens),
            passages=texts(settings.batch * (1 + negatives), settings.passage_tokens),
            domain=rows % DOMAINS if stage == "tdro" else torch.zeros_like(rows),
            query_ids=tuple(str(row) for row in range(settings.batch)),
        )
        for _ in range(settings.warmup + settings.steps)
    ]


def autocast(settings: Settings) -> torch.autocast:
    """The precision of a run, for passes outside its Trainer."""
    mixed = settings.precision == "bf16-mixed"
    return torch.autocast(settings.device, torch.bfloat16, enabled=mixed)


def now() -> float:
    """A clock in seconds, with the GPU's work finished."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
