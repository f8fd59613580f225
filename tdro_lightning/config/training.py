"""Sections of the configuration that a training run is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from tdro_lightning.config.keys import (
    GREATEST_SEED,
    MOST_COUNT,
    MOST_TOKENS,
    key,
    table_names,
)
from tdro_lightning.config.safety import find_unsafe_names
from tdro_lightning.models.templates import TASK, TEXT, template_fault

BESIDE_SPECIAL = "a text needs a token beside the last, special one"


@dataclass
class LoraConfig:
    """Sizes of a fresh adapter."""

    r: int = key(at_least=1, at_most=65_536)
    alpha: int = key(at_least=1, at_most=MOST_COUNT)
    dropout: float = key(at_least=0, below=1)


@dataclass
class TinyModelConfig:
    """Sizes of the small model that stage=init_model makes."""

    vocabulary: int = key(at_least=1, at_most=10_000_000)
    width: int = key(at_least=1, at_most=65_536)
    layers: int = key(at_least=1, at_most=1000)
    heads: int = key(at_least=1, at_most=1024)


@dataclass
class SparseHeadConfig:
    """How a language model's logits become sparse vectors, with model.head=sparse."""

    scale: str = key("one", choices=table_names("models/sparse_head.py", "SCALES"))
    pooled: str = key("all", choices=table_names("models/sparse_head.py", "POOLED"))
    trained: bool = False


@dataclass
class ModelConfig:
    """Which encoder."""

    path: str = MISSING
    pooling: str = key(choices=table_names("models/pooling.py", "POOLINGS"))
    dtype: str = key(choices=("float32", "bfloat16"))
    attention: str = key(choices=("auto", "flash_attention_2", "sdpa", "eager"))
    head: str = key("dense", choices=("dense", "sparse"))
    sparse: SparseHeadConfig = field(default_factory=SparseHeadConfig)
    bidirectional: bool | None = None
    normalized: bool = True
    dimensions: list[int] | None = key(None, at_least=1, at_most=1_000_000)
    query_template: str | None = None
    passage_template: str | None = None
    lora: LoraConfig | None = None
    tiny: TinyModelConfig | None = None
    architecture: dict[str, Any] | None = None

    def rules(self, place: str) -> list[str]:
        """Templates have a place for the text, and no other name than theirs."""
        wrong = []
        for name, allowed in (("query", (TASK, TEXT)), ("passage", (TEXT,))):
            template = getattr(self, f"{name}_template")
            if template is not None and (fault := template_fault(template, allowed)):
                wrong.append(f"{place}{name}_template={template!r} {fault}")
        if self.head == "sparse" and self.dimensions is not None:
            wrong.append(f"{place}dimensions is for dense vectors, and {place}head=sparse")
        return wrong


@dataclass
class DomainConfig:
    """One training dataset."""

    file: str = MISSING
    language: str = MISSING
    category: str = MISSING
    size: int | None = key(None, at_least=1, at_most=10**12)
    symmetric: bool = MISSING
    prompts: list[str] = MISSING

    def rules(self, place: str) -> list[str]:
        """Its file lies in the folder of the domain files, and its prompts are whole."""
        wrong = find_split_prompt(f"{place}prompts", self.prompts)
        if Path(self.file).is_absolute() or ".." in Path(self.file).parts:
            wrong.append(
                f"{place}file={self.file!r} must lie in the folder of the domain files, "
                "domains.root"
            )
        return wrong


def find_split_prompt(name: str, prompts: Sequence[str]) -> list[str]:
    """A message where one sentence was split at its comma into two prompts, as Hydra's lists are.

    A part that begins with a lower-case letter after one that begins with an upper-case letter
    shows it.
    """
    pairs = zip(prompts, prompts[1:], strict=False)
    if not any(first[:1].isupper() and second[:1].islower() for first, second in pairs):
        return []
    sentence = ", ".join(prompts)
    return [
        f"{name}: {len(prompts)} prompts that look like one sentence, split at its comma; "
        f"quote it: '{name}=\"{sentence}\"'"
    ]


@dataclass
class DomainsConfig:
    """The catalogue of training datasets, in index order."""

    root: str | None = None
    hub: str | None = None
    only: list[str] | None = None
    rows: dict[str, int] | None = key(None, at_least=1, at_most=10**12)
    catalogue: dict[str, DomainConfig] = MISSING

    def rules(self, place: str) -> list[str]:
        """Names that become files' names."""
        return find_unsafe_names(f"{place}catalogue", list(self.catalogue))


@dataclass
class DataConfig:
    """What a batch is."""

    batch_size: int = key(at_least=1, at_most=1_000_000)
    negatives: int = key(at_least=0, at_most=10_000)
    query_tokens: int = key(at_least=2, at_most=MOST_TOKENS, reason=BESIDE_SPECIAL)
    passage_tokens: int = key(at_least=2, at_most=MOST_TOKENS, reason=BESIDE_SPECIAL)
    prompt_symmetric_passages: bool = MISSING
    small_domains: str = key(choices=("smaller_batch", "leave_out"))
    on_bad_row: str = key(choices=("error", "skip"))
    max_bad_rows: int = key(at_least=0, at_most=MOST_COUNT)
    workers: int = key(at_least=0, at_most=1024)


@dataclass
class SparsityConfig:
    """What keeps sparse vectors sparse: a regulariser, its factors, and the share of their rise."""

    kind: str = key("flops", choices=table_names("losses/sparsity.py", "REGULARISERS"))
    queries: float = key(0.05, at_least=0, at_most=1e6)
    passages: float = key(0.04, at_least=0, at_most=1e6)
    ramp: float = key(0.33, at_least=0, at_most=1)


@dataclass
class TDROConfig:
    """The tDRO stage."""

    kind: str = "tdro"
    reference: str | None = MISSING
    temperature: float = key(above=0, at_most=1000)
    weights_lr: float = key(above=0, at_most=10_000)
    measurement: str = key(choices=table_names("dro/measurement.py", "MEASURES"))
    reference_floor: float = key(at_least=0, at_most=1000)
    gradient_norm: str = key(choices=("clip", "unit", "none"))
    smoothing: float = key(at_least=0, below=1)
    ema: float = key(above=0, at_most=1)
    reference_cache: str | None = None
    sparsity: SparsityConfig | None = None


@dataclass
class FinetuneConfig:
    """The fine-tuning stage."""

    kind: str = "finetune"
    temperature: float = key(above=0, at_most=1000)
    loss: str = key(choices=table_names("losses/contrastive.py", "LOSSES"))
    mask_duplicates: bool = MISSING
    sparsity: SparsityConfig | None = None


@dataclass
class MNTPConfig:
    """The adaptation of a decoder whose tokens see both sides: masked next-token prediction."""

    kind: str = "mntp"
    masked: float = key(above=0, below=1)


MODULES: dict[str, type] = {"tdro": TDROConfig, "finetune": FinetuneConfig, "mntp": MNTPConfig}


@dataclass
class TransferConfig:
    """The fine-tuning mixture: a rule, and bounds on what it gives."""

    rule: str = key(choices=table_names("dro/transfer.py", "RULES"))
    weights: str | None = None
    given: dict[str, float] | None = key(None, at_least=0, at_most=10**12)
    kind: str = key(choices=("last", "mean", "ema"))
    share: float = key(above=0, at_most=100, reason="per cent")
    noise: float = key(at_least=0, at_most=100)
    noise_seed: int = key(at_least=0, at_most=GREATEST_SEED)
    same_data: bool = MISSING
    alpha: float = key(at_least=0, at_most=2)
    cap: int = key(at_least=1, at_most=10**12)
    epochs: float = key(above=0, at_most=1_000_000)
    keep: list[str] = MISSING
    drop: list[str] = MISSING
    least: dict[str, float] | None = key(None, at_least=0, at_most=1)
    most: dict[str, float] | None = key(None, at_least=0, at_most=1)
    most_epochs: float | None = key(None, above=0, at_most=1_000_000)
    budget: int | None = key(None, at_least=1, at_most=10**12)

    def rules(self, place: str) -> list[str]:
        """Weights by hand say something."""
        if self.given is not None and not any(weight > 0 for weight in self.given.values()):
            return [f"{place}given must hold a weight above 0"]
        return []


@dataclass
class OptimiserConfig:
    """AdamW and its schedule."""

    lr: float = key(above=0, at_most=1000)
    schedule: str = key(choices=table_names("training/optim.py", "SCHEDULES"))
    weight_decay: float = key(at_least=0, at_most=1000)
    warmup_steps: int = key(at_least=0, at_most=MOST_COUNT)
    min_lr_ratio: float = key(at_least=0, at_most=1)
    clip_norm: float = key(above=0, at_most=1e12)


@dataclass
class TrainerConfig:
    """Length, precision and devices of a training run."""

    steps: int = key(at_least=1, at_most=MOST_COUNT)
    precision: str = key(choices=("32-true", "bf16-mixed"))
    devices: int | None = key(None, at_least=1, at_most=65_536)
    threads: int | None = key(None, at_least=1, at_most=1024)
    chunk_tokens: int = key(at_least=1, at_most=MOST_COUNT)
    kept_tokens: int = key(at_least=0, at_most=MOST_COUNT)
    log_every: int = key(at_least=1, at_most=MOST_COUNT)
    checkpoint_every: int | None = key(None, at_least=1, at_most=MOST_COUNT)
    resume: str = key(choices=("never", "auto", "must"))
    max_hours: float | None = key(None, above=0, at_most=100_000)


@dataclass
class StrategyConfig:
    """How a training run is spread over processes."""

    kind: str = key(choices=("single", "ddp", "fsdp"))
    activation_checkpointing: bool = MISSING
    cpu_offload: bool = MISSING

    def rules(self, place: str) -> list[str]:
        """Only a sharded model can be offloaded."""
        if self.cpu_offload and self.kind != "fsdp":
            return [f"{place}cpu_offload needs strategy=fsdp, not {self.kind}"]
        return []


@dataclass
class ValidationConfig:
    """How often and by what a training is measured, which metric decides, and when it ends."""

    every: int = key(at_least=1, at_most=MOST_COUNT)
    metric: str = key(choices=("ndcg@10", "loss"))
    patience: int | None = key(None, at_least=1, at_most=MOST_COUNT)
    held_out: float = key(above=0, at_most=50, reason="per cent")
    most: int = key(at_least=1, at_most=10_000)
    folder: str | None = MISSING
    split: str = "dev"
    prompt: str | None = None

    def rules(self, place: str) -> list[str]:
        """A folder has judgements and no hard negatives."""
        if self.folder is not None and self.metric == "loss":
            return [f"{place}metric=loss is of held-out rows; {place}folder needs ndcg@10"]
        return []


@dataclass
class LoggerConfig:
    """Trackers beside our own history.csv."""

    wandb: str = key(choices=("offline", "online", "disabled"))
    project: str = MISSING
    tensorboard: bool = MISSING
