"""The configured benchmark's evaluation sets, and the files that they are made of."""

from dataclasses import asdict
from pathlib import Path

from tdro_lightning.config.schema import BenchmarkConfig
from tdro_lightning.evaluation.benchmark import SetLoaders
from tdro_lightning.evaluation.sets.set_files import (
    Location,
    SetFiles,
    check_files,
    lazy_sets,
    locate_files,
)


def benchmark_sets(benchmark: BenchmarkConfig) -> SetLoaders:
    """The benchmark's evaluation sets, each loaded when its turn comes.

    Raises:
        ConfigError: a set lacks the key that says where it is.
        DataError: a file is missing, or one with queries or judgements is broken; the message ends
            with the command that gets it. What is wrong with a corpus is found when it is loaded.
    """
    sources = configured_sets(benchmark)
    for source in sources:
        check_files(source)
    return lazy_sets(sources)


def benchmark_locations(benchmark: BenchmarkConfig) -> dict[str, Location]:
    """Every different location of the benchmark's files, by a label that tells it from others."""
    labels: dict[Location, str] = {}
    for source in configured_sets(benchmark):
        labels.setdefault(source.questions, f"set {source.name}")
        labels.setdefault(source.corpus, f"corpus of {source.name}")
    return {label: location for location, label in labels.items()}


def configured_sets(benchmark: BenchmarkConfig) -> list[SetFiles]:
    """The sets as configured; no file is read."""
    root = None if benchmark.root is None else Path(benchmark.root)
    return [
        locate_files(name, benchmark.layout, root, depth=benchmark.depth, **asdict(entry))
        for name, entry in benchmark.sets.items()
    ]
