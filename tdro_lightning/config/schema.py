"""The configuration's shape: what `conf/` composes is checked against these dataclasses.

Plain data: nothing here knows Hydra, and nothing below the stages ever sees a configuration object.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class LoraConfig:
    """Sizes of a fresh adapter."""

    r: int = MISSING
    alpha: int = MISSING
    dropout: float = MISSING


@dataclass
class TinyModelConfig:
    """Sizes of the small model that stage=init_model makes."""

    vocabulary: int = MISSING
    width: int = MISSING
    layers: int = MISSING
    heads: int = MISSING


@dataclass
class ModelConfig:
    """Which encoder."""

    path: str = MISSING
    pooling: str = MISSING
    dtype: str = MISSING
    attention: str = MISSING
    lora: LoraConfig | None = None
    tiny: TinyModelConfig | None = None
    architecture: dict[str, Any] | None = None


@dataclass
class DomainConfig:
    """One training dataset."""

    file: str = MISSING
    language: str = MISSING
    category: str = MISSING
    size: int | None = None
    symmetric: bool = MISSING
    prompts: list[str] = MISSING


@dataclass
class DomainsConfig:
    """The catalogue of training datasets, in index order."""

    root: str | None = None
    hub: str | None = None
    only: list[str] | None = None
    rows: dict[str, int] | None = None
    catalogue: dict[str, DomainConfig] = MISSING


@dataclass
class DataConfig:
    """What a batch is."""

    batch_size: int = MISSING
    negatives: int = MISSING
    query_tokens: int = MISSING
    passage_tokens: int = MISSING
    prompt_symmetric_passages: bool = MISSING
    on_bad_row: str = MISSING
    max_bad_rows: int = MISSING
    workers: int = MISSING


@dataclass
class TDROConfig:
    """The tDRO stage."""

    kind: str = "tdro"
    reference: str | None = MISSING
    temperature: float = MISSING
    weights_lr: float = MISSING
    measurement: str = MISSING
    reference_floor: float = MISSING
    gradient_norm: str = MISSING
    smoothing: float = MISSING
    ema: float = MISSING
    reference_cache: str | None = None


@dataclass
class FinetuneConfig:
    """The fine-tuning stage."""

    kind: str = "finetune"
    temperature: float = MISSING


@dataclass
class TransferConfig:
    """From a weights file to the fine-tuning mixture."""

    rule: str = MISSING
    weights: str | None = None
    kind: str = MISSING
    share: float = MISSING
    noise: float = MISSING
    noise_seed: int = MISSING
    same_data: bool = MISSING


@dataclass
class OptimiserConfig:
    """AdamW and its schedule."""

    lr: float = MISSING
    weight_decay: float = MISSING
    warmup_steps: int = MISSING
    min_lr_ratio: float = MISSING
    clip_norm: float = MISSING


@dataclass
class TrainerConfig:
    """Length, precision and devices of a training run."""

    steps: int = MISSING
    precision: str = MISSING
    devices: int | None = None
    threads: int | None = None
    chunk_tokens: int = MISSING
    kept_tokens: int = MISSING
    log_every: int = MISSING
    checkpoint_every: int | None = None
    resume: str = MISSING
    max_hours: float | None = None


@dataclass
class StrategyConfig:
    """How a training run is spread over processes."""

    kind: str = MISSING
    activation_checkpointing: bool = MISSING
    cpu_offload: bool = MISSING


@dataclass
class LoggerConfig:
    """Trackers beside our own history.csv."""

    wandb: str = MISSING
    project: str = MISSING
    tensorboard: bool = MISSING


@dataclass
class WorkspaceConfig:
    """Whose W&B workspace stage=workspace saves, and under which name."""

    entity: str = MISSING
    name: str = MISSING


@dataclass
class PlanConfig:
    """What stage=plan reckons with: the GPU, the share of its peak in use, and its price an hour.

    Without a share the speed is counted; `tokens_per_second` of one device goes before GPU and
    share.
    """

    gpu: str = MISSING
    mfu: float | None = None
    tokens_per_second: float | None = None
    price: float = MISSING


@dataclass
class BenchmarkSetConfig:
    """One evaluation set: a folder in BEIR's layout, or a language in the others."""

    folder: str | None = None
    language: str | None = None
    split: str = "test"
    prompt: str | None = None
    hub: str | None = None
    revision: str | None = None
    relevant: int = 1
    skip_own_id: bool = False


@dataclass
class BenchmarkConfig:
    """Evaluation sets."""

    root: str | None = None
    layout: str = "beir"
    depth: int = 100
    sets: dict[str, BenchmarkSetConfig] = MISSING


@dataclass
class EvaluateConfig:
    """What stage=evaluate scores: encoders by label, and BM25."""

    encoders: dict[str, str] = MISSING
    bm25: bool = MISSING
    embeddings: str | None = None


@dataclass
class HarvestConfig:
    """How much python_docs takes from this Python."""

    max_rows: int = MISSING


@dataclass
class SourceConfig:
    """Training data of another project, and the domain it becomes."""

    layout: str = MISSING
    path: str | None = None
    corpus: str | None = None
    columns: dict[str, str] | None = None
    split: str = MISSING
    name: str | None = None
    language: str = MISSING
    category: str = MISSING
    symmetric: bool = MISSING
    prompts: list[str] = MISSING


@dataclass
class MineConfig:
    """Where hard negatives are looked for, and which are taken."""

    input: str = MISSING
    corpus: str | None = MISSING
    encoder: str | None = MISSING
    index: str = MISSING
    negatives: int = MISSING
    depth: int = MISSING
    skip: int = MISSING
    margin: float | None = MISSING
    ratio: float | None = MISSING
    max_score: float | None = MISSING
    teacher: str | None = MISSING


@dataclass
class DecontaminateConfig:
    """What counts as a repetition of an evaluation text."""

    documents: str = MISSING
    simhash_distance: int = MISSING
    jaccard: float = MISSING


@dataclass
class ReportConfig:
    """Which run folders one page shows, and the retriever that others are compared with."""

    title: str = MISSING
    runs: list[str] = MISSING
    baseline: str = "uniform"


@dataclass
class ExportConfig:
    """Which encoder stage=export hands on, and what its folder says of it."""

    encoder: str = MISSING
    prompts: dict[str, str | None] = MISSING
    base: str | None = None
    metrics: str | None = None


@dataclass
class ChainConfig:
    """Experiments run one after the other, each in a folder below the chain's.

    A step is an experiment's name and its own overrides; `overrides` hold for every step.
    `source` is the folder of a finished chain whose files the steps read. `next` are commands that
    one may go on with, printed at the end.
    """

    source: str | None = None
    overrides: list[str] = field(default_factory=list)
    steps: dict[str, list[str]] = MISSING
    next: dict[str, str] = field(default_factory=dict)


@dataclass
class Config:
    """Everything a run depends on."""

    description: str = MISSING
    stage: str = MISSING
    name: str = MISSING
    run_dir: str = MISSING
    chain_dir: str | None = None
    seed: int = MISSING
    model: ModelConfig = MISSING
    domains: DomainsConfig = MISSING
    data: DataConfig = MISSING
    module: Any = None
    transfer: TransferConfig = MISSING
    optimiser: OptimiserConfig = MISSING
    trainer: TrainerConfig = MISSING
    strategy: StrategyConfig = MISSING
    logger: LoggerConfig = MISSING
    benchmark: BenchmarkConfig | None = None
    evaluate: EvaluateConfig | None = None
    source: SourceConfig | None = None
    harvest: HarvestConfig | None = None
    mine: MineConfig | None = None
    decontaminate: DecontaminateConfig | None = None
    report: ReportConfig | None = None
    export: ExportConfig | None = None
    chain: ChainConfig | None = None
    workspace: WorkspaceConfig | None = None
    plan: PlanConfig = MISSING


MODULES: dict[str, type] = {"tdro": TDROConfig, "finetune": FinetuneConfig}
