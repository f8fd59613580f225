"""The configured benchmark's evaluation sets, and the files that they are made of."""

from pathlib import Path

from tdro_lightning.config.schema import BenchmarkConfig
from tdro_lightning.errors import ConfigError
from tdro_lightning.evaluation.benchmark import Sets
from tdro_lightning.evaluation.sets.places import Place
from tdro_lightning.evaluation.sets.published import PublishedSet, check, lazy_sets, places


def benchmark_sets(benchmark: BenchmarkConfig) -> Sets:
    """The benchmark's evaluation sets, each loaded when its turn comes.

    Raises:
        ConfigError: a set lacks the key that says where it is.
        DataError: a file is missing, or one with queries or judgements is broken; the message ends
            with the command that gets it. What is wrong with a corpus is found when it is loaded.
    """
    sets = published_sets(benchmark)
    for one in sets:
        check(one)
    return lazy_sets(sets)


def benchmark_places(benchmark: BenchmarkConfig) -> dict[str, Place]:
    """Every different place of the benchmark's files, by a label that tells it from the others."""
    found: dict[Place, str] = {}
    for one in published_sets(benchmark):
        found.setdefault(one.questions, f"set {one.name}")
        found.setdefault(one.corpus, f"corpus of {one.name}")
    return {label: place for place, label in found.items()}


def published_sets(benchmark: BenchmarkConfig) -> list[PublishedSet]:
    """The sets as configured; no file is read."""
    root = None if benchmark.root is None else Path(benchmark.root)
    sets = []
    for name, entry in benchmark.sets.items():
        try:
            questions, corpus = places(
                benchmark.layout,
                root,
                folder=entry.folder,
                language=entry.language,
                hub=entry.hub,
                revision=entry.revision,
            )
        except ConfigError as error:
            raise ConfigError(f"benchmark.sets.{name}: {error}") from None
        sets.append(
            PublishedSet(
                name=name,
                layout=benchmark.layout,
                questions=questions,
                corpus=corpus,
                split=entry.split,
                language=entry.language,
                prompt=entry.prompt,
                relevant=entry.relevant,
                skip_own_id=entry.skip_own_id,
                depth=benchmark.depth,
            )
        )
    return sets
