"""The configuration's shape: what `conf/` composes is checked against these dataclasses.

Plain data: nothing here knows Hydra, and nothing below the stages ever sees a configuration object.
The sections of a training run are in `training`.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from tdro_lightning import evaluation
from tdro_lightning.config.keys import GREATEST_SEED, MOST_COUNT, key, table_names
from tdro_lightning.config.safety import find_unsafe_names
from tdro_lightning.config.training import (
    MODULES,
    DataConfig,
    DomainConfig,
    DomainsConfig,
    FinetuneConfig,
    LoggerConfig,
    MNTPConfig,
    ModelConfig,
    OptimiserConfig,
    StrategyConfig,
    TDROConfig,
    TrainerConfig,
    TransferConfig,
    ValidationConfig,
    find_split_prompt,
)
from tdro_lightning.data import imports

__all__ = [
    "MODULES",
    "Config",
    "DomainConfig",
    "FinetuneConfig",
    "MNTPConfig",
    "ModelConfig",
    "TDROConfig",
]


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
    mfu: float | None = key(None, above=0, at_most=1)
    tokens_per_second: float | None = key(None, above=0, at_most=1e12)
    price: float = key(above=0, at_most=1e6)


@dataclass
class BenchmarkSetConfig:
    """One evaluation set: a folder in BEIR's layout, or a language in the others."""

    folder: str | None = None
    language: str | None = None
    split: str = "test"
    prompt: str | None = None
    hub: str | None = None
    revision: str | None = None
    relevant: int = key(1, at_least=1, at_most=1000)
    skip_own_id: bool = False


@dataclass
class BenchmarkConfig:
    """Evaluation sets."""

    root: str | None = None
    layout: str = key("beir", choices=evaluation.LAYOUTS)
    depth: int = key(100, at_least=1, at_most=1_000_000)
    sets: dict[str, BenchmarkSetConfig] = MISSING


@dataclass
class FusionConfig:
    """Retrievers whose rankings are fused, by rank or by weighted scores."""

    of: list[str] = MISSING
    rule: str = key("rrf", choices=table_names("search/fusion.py", "RULES"))
    weights: list[float] | None = key(None, above=0, at_most=1e6)

    def rules(self, place: str) -> list[str]:
        """There are several retrievers, and as many weights where the rule has them."""
        if len(self.of) < 2 or len({*self.of}) < len(self.of):
            return [f"{place}of={self.of} must name two different retrievers or more"]
        if self.rule == "rrf":
            return [f"{place}weights are for rule=weighted, not for rule=rrf"] * bool(self.weights)
        if len(self.weights or []) != len(self.of):
            given = self.weights or "null"
            return [f"{place}weights={given} must be {len(self.of)} numbers, one for each of `of`"]
        return []


@dataclass
class PruningConfig:
    """What an index keeps of sparse vectors: the largest terms, and weights in fewer bits."""

    document_terms: int | None = key(None, at_least=1, at_most=10_000_000)
    query_terms: int | None = key(None, at_least=1, at_most=10_000_000)
    weights: str = key("float32", choices=("float32", "float16", "int8"))


@dataclass
class EvaluateConfig:
    """What stage=evaluate scores: encoders by label, BM25, and fusions of their rankings."""

    encoders: dict[str, str] = MISSING
    bm25: bool = MISSING
    embeddings: str | None = None
    data_limits: bool = False
    fusions: dict[str, FusionConfig] = field(default_factory=dict)
    pruning: PruningConfig | None = None


@dataclass
class HarvestConfig:
    """How much python_docs takes from this Python."""

    max_rows: int = key(at_least=1, at_most=MOST_COUNT)


@dataclass
class SourceConfig:
    """Training data of another project, and the domain it becomes."""

    layout: str = key(choices=imports.LAYOUTS)
    path: str | None = None
    corpus: str | None = None
    columns: dict[str, str] | None = None
    split: str = MISSING
    name: str | None = None
    language: str = MISSING
    category: str = MISSING
    symmetric: bool = MISSING
    prompts: list[str] = MISSING

    def rules(self, place: str) -> list[str]:
        """Its prompts are whole."""
        return find_split_prompt(f"{place}prompts", self.prompts)


@dataclass
class MineConfig:
    """Where hard negatives are looked for, and which are taken."""

    input: str = MISSING
    corpus: str | None = MISSING
    encoder: str | None = MISSING
    index: str = key(choices=("exact", "ivf"))
    negatives: int = key(at_least=1, at_most=10_000)
    depth: int = key(at_least=1, at_most=1_000_000)
    skip: int = key(at_least=0, at_most=1_000_000)
    margin: float | None = key(at_least=0, at_most=1e6)
    ratio: float | None = key(above=0, at_most=1)
    max_score: float | None = key(at_least=-1e6, at_most=1e6)
    teacher: str | None = MISSING


@dataclass
class ValidateConfig:
    """How many rows of a domain the data view looks at, and what scores them; null is BM25."""

    rows: int = key(1000, at_least=1, at_most=5000)
    encoder: str | None = None


@dataclass
class DecontaminateConfig:
    """What counts as a repetition of an evaluation text."""

    documents: str = key(choices=("all", "relevant"))
    simhash_distance: int = key(at_least=0, at_most=7)
    jaccard: float = key(at_least=0.6, at_most=1)


@dataclass
class ReportConfig:
    """Which run folders one page shows, and the retrievers that others are compared with.

    `alarm` is by how many points (scores times 100) something falls that the report names.
    """

    title: str = MISSING
    runs: list[str] = MISSING
    baselines: list[str] = field(default_factory=lambda: ["uniform", "proportional"])
    alarm: float = key(1.0, at_least=0, at_most=100)

    def rules(self, place: str) -> list[str]:
        """There is something to compare with."""
        return [] if self.baselines else [f"{place}baselines=[] must name a retriever or more"]


@dataclass
class ExportConfig:
    """Which encoder stage=export hands on, and what its folder says of it."""

    encoder: str = MISSING
    prompts: dict[str, str | None] = MISSING
    base: str | None = None
    metrics: str | None = None


@dataclass
class MixtureConfig:
    """In which other trainers' formats stage=mixture writes the mixture, beside mixture.yaml."""

    formats: list[str] = key(choices=table_names("export/mixture_formats.py", "FORMATS"))


@dataclass
class ChainConfig:
    """Experiments run one after the other, each in a folder below the chain's.

    A step is an experiment's name and its own overrides; `overrides` hold for every step.
    `for_each` repeats steps: see `expand_steps`.
    `source` is the folder of a finished chain whose files the steps read. `next` are commands to
    try afterwards, printed at the end.
    """

    source: str | None = None
    overrides: list[str] = field(default_factory=list)
    steps: dict[str, list[str]] = MISSING
    for_each: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    next: dict[str, str] = field(default_factory=dict)

    def rules(self, place: str) -> list[str]:
        """Names become folders' names, and each step is an experiment."""
        steps = expand_steps(self)
        return find_unsafe_names(f"{place}steps", list(steps)) + [
            f"{place}steps.{name} is empty; a step is an experiment's name and its overrides"
            for name, step in steps.items()
            if not step
        ]


def expand_steps(chain: ChainConfig) -> dict[str, list[str]]:
    """The steps with those repeated that name entries of `for_each`.

    With `for_each: {share: {"50": [], "60": [seed=1]}}`, a step `top{share}` becomes `top50` and
    `top60`. In the list of such a step, `{share}` is the label too, and an element
    `{share.overrides}` becomes the overrides of the label. A step that names several entries is
    repeated for every combination of their labels. Neighbouring steps of the same entries are
    repeated together, so that all steps of the first label come first. A later step of the same
    name replaces an earlier one.
    """
    steps: dict[str, list[str]] = {}
    for entries, group in itertools.groupby(chain.steps, lambda name: _entries(chain, name)):
        names = list(group)
        for labels in itertools.product(*(chain.for_each[entry] for entry in entries)):
            for name in names:
                own, chosen = chain.steps[name], name
                for entry, label in zip(entries, labels, strict=True):
                    mark, all_of_it = f"{{{entry}}}", f"{{{entry}.overrides}}"
                    given = chain.for_each[entry][label]
                    own = [
                        one.replace(mark, label)
                        for element in own
                        for one in (given if element == all_of_it else [element])
                    ]
                    chosen = chosen.replace(mark, label)
                steps[chosen] = own
    return steps


def _entries(chain: ChainConfig, step: str) -> tuple[str, ...]:
    """The entries of `for_each` that a step names."""
    return tuple(entry for entry in chain.for_each if f"{{{entry}}}" in step)


@dataclass
class Config:
    """Everything a run depends on."""

    description: str = MISSING
    stage: str = MISSING
    name: str = MISSING
    run_dir: str = MISSING
    chain_dir: str | None = None
    seed: int = key(at_least=0, at_most=GREATEST_SEED)
    model: ModelConfig = MISSING
    domains: DomainsConfig = MISSING
    data: DataConfig = MISSING
    module: Any = None
    transfer: TransferConfig = MISSING
    optimiser: OptimiserConfig = MISSING
    trainer: TrainerConfig = MISSING
    strategy: StrategyConfig = MISSING
    logger: LoggerConfig = MISSING
    validation: ValidationConfig | None = None
    benchmark: BenchmarkConfig | None = None
    evaluate: EvaluateConfig | None = None
    source: SourceConfig | None = None
    harvest: HarvestConfig | None = None
    mine: MineConfig | None = None
    decontaminate: DecontaminateConfig | None = None
    validate: ValidateConfig | None = None
    report: ReportConfig | None = None
    export: ExportConfig | None = None
    chain: ChainConfig | None = None
    workspace: WorkspaceConfig | None = None
    mixture: MixtureConfig = MISSING
    plan: PlanConfig = MISSING

    def rules(self, place: str) -> list[str]:
        """Several devices need a strategy that spreads the run."""
        devices = self.trainer.devices or 1
        if self.strategy.kind != "single" or devices == 1 or self.stage == "plan":
            return []
        return [
            f"trainer.devices={devices} needs strategy=ddp or strategy=fsdp; "
            "strategy=single is one process on one device"
        ]
