"""Stage `evaluate`: BM25, encoders and fusions of them on the evaluation sets of a benchmark."""

from dataclasses import asdict, replace
from pathlib import Path

from tdro_lightning.config.benchmarks import benchmark_sets
from tdro_lightning.config.constraints import benchmark_is_set, fusion_rules
from tdro_lightning.config.schema import Config, PruningConfig
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.console.libraries import quiet_libraries
from tdro_lightning.errors import ConfigError
from tdro_lightning.records.outputs import SPARSE_VECTORS
from tdro_lightning.runs.inputs import evaluation_sets
from tdro_lightning.search.retriever import Retriever
from tdro_lightning.stages import require


def _run(config: Config) -> None:
    """Write `metrics.json` and per-query scores.

    Raises:
        ConfigError: `evaluate.embeddings` is a file.
    """
    from tdro_lightning.assembly.encoders import configured_encoder
    from tdro_lightning.assembly.evaluate import encoder_retrievers, evaluate_and_print
    from tdro_lightning.search.bm25 import BM25Retriever
    from tdro_lightning.search.fusion import Fusion

    quiet_libraries()
    settings = require(config.evaluate)
    embeddings = None if settings.embeddings is None else Path(settings.embeddings)
    if embeddings is not None and embeddings.is_file():
        raise ConfigError(f"evaluate.embeddings={embeddings}: a file stands there; name a folder")
    sets = benchmark_sets(require(config.benchmark))
    retrievers: dict[str, Retriever] = {"bm25": BM25Retriever()} if settings.bm25 else {}
    for label, path in settings.encoders.items():
        encoder = configured_encoder(config, path, data_limits=settings.data_limits)
        found = encoder_retrievers(label, encoder)
        retrievers |= found if settings.pruning is None else _pruned(found, settings.pruning)
    fusions = {
        label: Fusion(tuple(own.of), own.rule, tuple(own.weights) if own.weights else None)
        for label, own in settings.fusions.items()
    }
    evaluate_and_print(retrievers, sets, Path(config.run_dir), embeddings, fusions)


def _pruned(retrievers: dict[str, Retriever], pruning: PruningConfig) -> dict[str, Retriever]:
    """The retrievers, which are of sparse vectors, with fewer terms."""
    from tdro_lightning.search.inverted import SparseRetriever

    pruned: dict[str, Retriever] = {}
    for label, retriever in retrievers.items():
        if not isinstance(retriever, SparseRetriever):
            raise ConfigError(
                f"evaluate.pruning is for sparse vectors, and those of {label} are dense; leave "
                "it out or evaluate them apart"
            )
        pruned[label] = replace(retriever, **asdict(pruning))
    return pruned


def _inputs(config: Config) -> dict[str, Input]:
    encoders = require(config.evaluate).encoders.items()
    return {f"encoder {label}": path for label, path in encoders} | evaluation_sets(config)


STAGE = Stage(
    name="evaluate",
    run=_run,
    section="evaluate",
    settings=lambda config: ("evaluate", "benchmark", "model", "data"),
    inputs=_inputs,
    outputs=("metrics.json", "per_query", SPARSE_VECTORS),
    rules=lambda config: benchmark_is_set(config) + fusion_rules(config),
    models=lambda config: [*require(config.evaluate).encoders.values()],
    all_processes=True,
)
