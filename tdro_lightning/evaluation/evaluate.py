"""Rank the evaluation sets with one or more retrievers and write their metrics."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tdro_lightning.distributed.processes import barrier, from_first, rank
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.evaluation.averages import mean_over_sets
from tdro_lightning.evaluation.benchmark import ContentHasher, RetrievalSet, SetLoaders
from tdro_lightning.evaluation.metrics import MAIN_METRICS, answer_accuracy, average, score
from tdro_lightning.files import remove_path, slug, write_json
from tdro_lightning.search.retriever import Hits, Retriever

EMBEDDINGS = "embeddings"

logger = logging.getLogger(__name__)

# From a depth to the hits of a set's queries.
Search = Callable[[int], Hits]


def prepare_search(retriever: Retriever, dataset: RetrievalSet, folder: Path) -> Search:
    """Encode and index a set with all processes, keeping files in a folder; the first searches."""
    queries = retriever.encode_queries(dataset.queries, dataset.prompt, folder, dataset.name)
    index = retriever.index(dataset.documents, folder, dataset.name)
    return lambda depth: index.search(queries.take(np.arange(len(dataset.queries))), depth)


def evaluate(
    retrievers: Mapping[str, Retriever], sets: SetLoaders, output: Path, kept: Path | None = None
) -> dict[str, Any]:
    """Evaluate each retriever on each set.

    Called by all processes together: they share the encoding, the first alone searches and writes.
    Writes `metrics.json` (averages over the queries of each set, and as in `mean_over_sets` over
    the sets that have the metric; of each set the digest of its `ContentHasher`) and
    `per_query/<label>/<set>.json` to the folder `output`.
    Embeddings lie in its folder `embeddings` until all is done; a run that was interrupted
    resumes from them.

    Args:
        retrievers: by the label that the results carry.
        sets: by name, loaded one after the other, each for all retrievers.
        output: the run folder.
        kept: where embeddings lie instead and stay, for later runs; runs may share it.

    Returns:
        The content of `metrics.json`, on every process.

    Raises:
        ConfigError: there is no retriever or no set, or two names make the same file name.
        DataError: embeddings or scores are not finite.
    """
    folders = _file_names(list(retrievers), "retriever")
    files = _file_names(list(sets), "evaluation set")
    scores: dict[str, dict[str, dict[str, float]]] = {label: {} for label in retrievers}
    described: dict[str, dict[str, Any]] = {}
    content = ContentHasher()
    for name, load in sets.items():
        logger.info("reading %s", name)
        dataset = load()
        sha256 = from_first(content.digest(dataset) if rank() == 0 else "")
        described[name] = {"sha256": sha256, "queries": len(dataset.query_ids)}
        for label, retriever in retrievers.items():
            try:
                logger.info("%s on %s", label, name)
                search = prepare_search(retriever, dataset, kept or output / EMBEDDINGS)
                logger.info("%s searches %s", label, name)
                values = from_first(score_set(search, dataset) if rank() == 0 else {})
            except DataError as error:
                raise DataError(f"{label} on {name}: {error}") from None
            if rank() == 0:
                write_json(output / "per_query" / folders[label] / f"{files[name]}.json", values)
            scores[label][name] = means = average(values.values())
            main = main_metric(means)
            logger.info("%s on %s: %s %.4f", label, name, main, means[main])
        del dataset, search  # or the documents stay in memory while the next ones are loaded
    results = {label: _results(by_set, described) for label, by_set in scores.items()}
    metrics: dict[str, Any] = {"retrievers": results, "sets": described}
    if rank() == 0:
        write_json(output / "metrics.json", metrics)
        remove_path(output / EMBEDDINGS)
    barrier()
    return metrics


def _results(
    by_set: Mapping[str, dict[str, float]], described: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """A retriever's means of each set with its number of queries, and their averages."""
    sets = {n: means | {"queries": described[n]["queries"]} for n, means in by_set.items()}
    return {"sets": sets, "average": _averages(by_set)}


def main_metric(metrics: Mapping[str, float]) -> str:
    """The metric that sums up a set or an average."""
    return next(name for name in MAIN_METRICS if name in metrics)


def _averages(by_set: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(metric for metrics in by_set.values() for metric in metrics)
    return {
        metric: mean_over_sets({name: m[metric] for name, m in by_set.items() if metric in m})
        for metric in names
    }


def score_set(search: Search, dataset: RetrievalSet) -> dict[str, dict[str, float]]:
    """Metrics of each query of a set.

    Raises:
        DataError: as in `score` and `answer_accuracy`.
    """
    scores, indices = search(dataset.depth + dataset.skip_own_id)
    results: dict[str, dict[int, float]] = {}
    for query, *row in zip(dataset.query_ids, indices.tolist(), scores.tolist(), strict=True):
        hits = [
            (index, value)
            for index, value in zip(*row, strict=True)
            if index >= 0 and not (dataset.skip_own_id and dataset.document_ids[index] == query)
        ]
        results[query] = dict(hits[: dataset.depth])
    values: dict[str, dict[str, float]] = {query: {} for query in dataset.query_ids}
    if dataset.qrels:
        run = {
            query: {dataset.document_ids[index]: value for index, value in hits.items()}
            for query, hits in results.items()
        }
        values = score(run, dataset.qrels, relevant=dataset.relevant, depth=dataset.depth)
    if dataset.answers is not None:
        texts = {query: [dataset.documents[i] for i in hits] for query, hits in results.items()}
        for query, accuracy in answer_accuracy(texts, dataset.answers).items():
            values[query] |= accuracy
    return values


def _file_names(names: Sequence[str], kind: str) -> dict[str, str]:
    if not names:
        raise ConfigError(f"evaluation needs at least one {kind}")
    slugs: dict[str, str] = {}
    for name in names:
        short = slug(name)
        if not short:
            raise ConfigError(f"{kind} {name!r}: the name needs a letter or digit (A-Z, a-z, 0-9)")
        other = next((n for n, s in slugs.items() if s.lower() == short.lower()), None)
        if name in slugs or other is not None:
            raise ConfigError(
                f"{kind}s {other!r} and {name!r} would share the file name {short!r}; rename one"
            )
        slugs[name] = short
    return slugs
