"""What an evaluation would take: the documents that are encoded, the time of that, and the disk."""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tdro_lightning.config.benchmarks import configured_sets
from tdro_lightning.config.schema import BenchmarkConfig, Config
from tdro_lightning.data.randomness import generator
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.sets.set_files import Location, SetFiles, read_corpus
from tdro_lightning.files import GIGA, read_json
from tdro_lightning.planning.cost import format_hours
from tdro_lightning.planning.data import CHARACTERS_A_TOKEN
from tdro_lightning.search.encoding import HALF_FROM
from tdro_lightning.search.inverted import BLOCK_WEIGHTS

FILE = Path(__file__).parent / "published_corpora.json"
SAMPLE = 200  # documents of a corpus whose texts are measured
TOKENS_A_WORD = 1.4  # of published means in words; assumed
TOKENS_A_PASSAGE = 150  # of published corpora without such a mean, in many languages; assumed


@dataclass(frozen=True)
class CorpusSize:
    """Documents of a corpus, and their mean length in tokens after the cut."""

    name: str
    documents: int
    tokens: float


@dataclass(frozen=True)
class EvaluationCost:
    """What the encoding of a benchmark's documents takes; queries and search are little beside it.

    Attributes:
        encoders: that are evaluated, each on every corpus.
        sets: evaluation sets.
        documents: of all different corpora.
        tokens: in them, without padding, for one encoder.
        hours: of all encoders, on all devices.
        price: of all devices' hours together.
        bytes: of the embeddings of one encoder or all, which lie on the disk at once; of sparse
            ones with their inverted indexes.
        unknown: sets of which nobody knows the size here; they are not counted.
        terms: active ones that a document of sparse embeddings is assumed to have; else None.
    """

    encoders: int
    sets: int
    documents: int
    tokens: float
    hours: float
    price: float
    bytes: int
    unknown: tuple[str, ...]
    terms: int | None = None


def evaluation_cost(
    config: Config,
    encoders: int,
    dimensions: int,
    token_seconds: float,
    terms: int | None = None,
) -> EvaluationCost:
    """The cost of encoding the configured benchmark's documents.

    Args:
        config: its benchmark, longest passages, devices and price.
        encoders: that are evaluated.
        dimensions: of their vectors.
        token_seconds: of a forward pass, on one device.
        terms: active ones of a document, where embeddings are sparse; None where they are dense.
    """
    assert config.benchmark is not None
    sizes, unknown = corpus_sizes(config.benchmark, config.data.passage_tokens)
    tokens = sum(size.documents * size.tokens for size in sizes)
    devices = config.trainer.devices or 1
    hours = encoders * tokens * token_seconds / devices / 3600
    terms = None if terms is None else min(terms, dimensions)
    return EvaluationCost(
        encoders=encoders,
        sets=len(config.benchmark.sets),
        documents=sum(size.documents for size in sizes),
        tokens=tokens,
        hours=hours,
        price=hours * devices * config.plan.price,
        bytes=encoders
        * sum(
            embedding_bytes(size.documents, dimensions)
            if terms is None
            else sparse_bytes(size.documents, dimensions, terms)
            for size in sizes
        ),
        unknown=tuple(unknown),
        terms=terms,
    )


def embedding_bytes(documents: int, dimensions: int) -> int:
    """Disk of the embeddings of a corpus; large ones are stored in float16."""
    return documents * dimensions * (2 if documents >= HALF_FROM else 4)


def sparse_bytes(documents: int, vocabulary: int, terms: int) -> int:
    """Disk of the sparse embeddings of a corpus and of their inverted index.

    Both have a term's number or a document's (int32) and a weight (float32) for each active term;
    beside them are places (int64), of every document and of every term of each block.
    """
    blocks = math.ceil(documents * terms / BLOCK_WEIGHTS)
    return documents * (2 * 8 * terms + 8) + blocks * 8 * (vocabulary + 1)


def corpus_sizes(benchmark: BenchmarkConfig, limit: int) -> tuple[list[CorpusSize], list[str]]:
    """Sizes of a benchmark's corpora, each once, and the sets whose corpus nobody knows.

    Args:
        benchmark: whose files are read where they are on this machine and no size is published.
        limit: longest passage in tokens.
    """
    sizes, unknown = {}, []
    for source in configured_sets(benchmark):
        if source.corpus not in sizes:
            size = _published(source.corpus, limit) or _counted(source, limit)
            if size is None:
                unknown.append(source.name)
                continue
            sizes[source.corpus] = size
    return list(sizes.values()), unknown


@cache
def _corpora() -> dict[str, dict[str, Any]]:
    corpora: dict[str, dict[str, Any]] = read_json(FILE)["corpora"]
    return corpora


def _published(corpus: Location, limit: int) -> CorpusSize | None:
    name = "/".join(filter(None, (corpus.hub, corpus.part)))
    known = _corpora().get(name)
    if known is None:
        return None
    tokens = known["words"] * TOKENS_A_WORD if "words" in known else TOKENS_A_PASSAGE
    return CorpusSize(name, known["documents"], min(float(limit), tokens))


def _counted(source: SetFiles, limit: int) -> CorpusSize | None:
    """The size of a corpus that lies on this machine; its tokens by their characters."""
    if source.corpus.folder is None or not source.corpus.folder.is_dir():
        return None
    try:
        texts = read_corpus(source).texts
    except DataError:  # the run itself says what is wrong
        return None
    chosen = generator(0, f"plan {source.name}").permutation(len(texts))[:SAMPLE]
    lengths = [min(limit, len(texts[int(row)]) / CHARACTERS_A_TOKEN) for row in chosen]
    return CorpusSize(source.corpus.name, len(texts), float(np.mean(lengths)))


def evaluation_lines(config: Config, cost: EvaluationCost) -> str:
    """The cost in words, with what it assumes."""
    encoders = "1 encoder" if cost.encoders == 1 else f"{cost.encoders} encoders"
    counted = cost.sets - len(cost.unknown)
    limit, what = config.data.passage_tokens, "for embeddings until its end"
    if cost.terms is not None:
        what = (
            "for sparse embeddings and their inverted indexes until its end,\n"
            f"with {cost.terms} active terms a document (assumed; untrained ones have many more)"
        )
    return (
        f"Evaluation of {encoders} on {counted} sets: {cost.documents:,} documents,\n"
        f"{cost.tokens:.3g} tokens, cut at {limit} (lengths assumed or sampled);\n"
        f"{format_hours(cost.hours)}, {cost.price:.2f} in money, "
        f"and {cost.bytes / GIGA:,.1f} GB of disk\n{what}"
    )
