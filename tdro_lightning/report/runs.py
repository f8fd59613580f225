"""What the report knows of a run, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Input:
    """A file or folder that a run read, with the SHA-256 of its content; None for a hub name."""

    label: str
    path: str
    sha256: str | None


@dataclass(frozen=True)
class SetScores:
    """Scores of one retriever on one set, {metric: fraction}, and the number of queries.

    `per_query` says where the scores of the queries are; they are read when asked for.
    `fingerprint` is the SHA-256 of the set, empty where the run did not record it; `vectors` is
    what it recorded of sparse vectors.
    """

    scores: Mapping[str, float]
    queries: int
    per_query: Path = field(compare=False)
    fingerprint: str = field(compare=False)
    vectors: Mapping[str, Any] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class RetrieverScores:
    """Evaluated sets of one retriever, by name.

    `encoder` is its folder, where there is one; `origin` is the folder above, that of the run which
    trained it, whether or not the encoder is still there.
    """

    label: str
    sets: Mapping[str, SetScores]
    encoder: Path | None = field(default=None, compare=False)
    origin: Path | None = field(default=None, compare=False)
    source: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class DomainWeight:
    """Learned weight of a domain at the last step, and its mean and moving average if kept."""

    domain: str
    rows: int
    last: float
    mean: float | None
    ema: float | None


@dataclass(frozen=True)
class Usage:
    """How often the rows of a domain were drawn in training."""

    domain: str
    rows: int
    epochs: float


@dataclass(frozen=True)
class Series:
    """One logged metric over the training steps, in order of step."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """Everything read from one run folder; what the run did not write is empty or None.

    Attributes:
        name: the name in the report; `bare_name` with what tells it from others of that name.
        chain: the command of the chain that this run is a step of.
        swept: the settings by which the run's job differs from others of its sweep.
        warnings: what the run warned of.
        best_step: the step that it has kept, counted from 1, where it was measured by a dev set.
        view: the data view of a validation.
    """

    name: str
    bare_name: str
    folder: Path
    stage: str
    status: str
    command: str | None
    seed: int | None
    model: str | None
    git_commit: str | None
    started: str | None
    seconds: float | None
    versions: Mapping[str, str]
    hardware: Mapping[str, str]
    inputs: tuple[Input, ...]
    retrievers: tuple[RetrieverScores, ...]
    weights: tuple[DomainWeight, ...]
    history: Mapping[str, Series]
    usage: tuple[Usage, ...]
    config: Mapping[str, Any]
    chain: str | None
    swept: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    best_step: int | None = None
    view: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> str:
        """The last part of the bare name: in a chain that of the step."""
        return self.bare_name.rpartition("/")[2]

    def series(self, prefix: str) -> dict[str, Series]:
        """History of the metrics that start with `prefix`, keyed by the rest of their name."""
        return {
            metric.removeprefix(prefix): series
            for metric, series in self.history.items()
            if metric.startswith(prefix)
        }
