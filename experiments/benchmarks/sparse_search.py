"""Sparse search on one thread: our inverted index beside scipy's products and other engines.

    python experiments/benchmarks/sparse_search.py FOLDER [--documents 1000000] [--queries 50]

Documents and queries are made up: terms are drawn by Zipf's law, so that a document has about 200
of 128,256 and a query about 60; weights are log(1 + x) of exponential x. Embeddings and index are
written to FOLDER (3.3 GB for a million documents), from which the other engines read. Each runs in
a process of its own, which says how long it took to index, its largest resident memory until the
index was there and until the end, the time of a query for the best 100, and how many of these are
among ours. impact-index and pyseismic-lsr are left out where they are not installed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from tdro_lightning.files import SETTLED
from tdro_lightning.search.inverted import SparseRetriever

VOCABULARY = 128_256
DOCUMENT_DRAWS, QUERY_DRAWS = 256, 68  # of which about 200 and 60 are different terms
DEPTH = 100
# From a query's terms and weights to the best documents and their scores.
Search = Callable[[NDArray[np.int32], NDArray[np.float32]], tuple[Any, Any]]


def main() -> None:
    """Measure all engines, or as a child one of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=50)
    engines = list(ENGINES)[1:]
    parser.add_argument("--engines", nargs="+", default=engines, choices=engines)
    parser.add_argument("--output", type=Path, help="append the results as lines of JSON")
    parser.add_argument("--child", choices=list(ENGINES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(options.child, options)))
        return
    columns = "index, s | peak, GB | with search, GB | query, ms | least, ms | most, ms | in ours"
    print(f"| engine | {columns} |\n|---|--:|--:|--:|--:|--:|--:|--:|")
    for name in (EMBEDDINGS, *options.engines):
        package = ENGINES[name][0]
        if find_spec(package) is None:
            print(f"| {name}: {package} is not installed |")
            continue
        command = [sys.executable, __file__, *sys.argv[1:], f"--child={name}"]
        one = {f"{kind}_NUM_THREADS": "1" for kind in ("OMP", "OPENBLAS", "MKL", "RAYON")}
        done = subprocess.run(
            command, env={**os.environ, **one}, stdout=subprocess.PIPE, text=True, check=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        if name == EMBEDDINGS:
            continue
        print(
            f"| {name} | {found['index_s']:.1f} | {found['index_gb']:.2f} | {found['peak_gb']:.2f} "
            f"| {found['ms']:.1f} | {found['least_ms']:.1f} | {found['most_ms']:.1f} "
            f"| {found['overlap']:.4f} |",
            flush=True,
        )
        if options.output is not None:
            with options.output.open("a", encoding="utf-8") as stream:
                stream.write(f"{json.dumps(found)}\n")


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Index with one engine and search each query by itself, after one that is not counted."""
    queries = made_rows(range(options.queries + 1), QUERY_DRAWS, seed=1)
    if name == EMBEDDINGS:
        embeddings(options)
        return {}
    began = time.perf_counter()
    search = ENGINES[name][1](options)
    found: dict[str, Any] = {
        "engine": name,
        "documents": options.documents,
        "index_s": time.perf_counter() - began,
        "index_gb": peak_gb(),
    }
    time.sleep(2 * SETTLED)  # only then is a new file's checksum remembered
    taken, hits, scores = [], [], []
    for start, end in zip(queries.indptr, queries.indptr[1:], strict=False):
        began = time.perf_counter()
        ids, values = search(queries.indices[start:end], queries.data[start:end])
        taken.append(1000 * (time.perf_counter() - began))
        hits.append(list(map(int, ids)))
        scores.append(list(map(float, values)))
    expected = options.folder / f"ours_{options.documents}_{options.queries}.json"
    if name == "ours":
        expected.write_text(json.dumps([hits, scores]), encoding="utf-8")
    ours, our_scores = json.loads(expected.read_text(encoding="utf-8"))
    shared = [len(set(a) & set(b)) / len(b) for a, b in zip(hits, ours, strict=True)]
    taken = taken[1:]
    return {
        **found,
        "peak_gb": peak_gb(),
        "ms": statistics.median(taken),
        "least_ms": min(taken),
        "most_ms": max(taken),
        "overlap": statistics.mean(shared),
        "equal_ids": hits == ours,
        "equal_scores": scores == our_scores,
        "query_terms": float(np.diff(queries.indptr).mean()),
    }


def made_rows(numbers: Sequence[int], draws: int, seed: int) -> csr_array:
    """Rows [R, V] that depend on their numbers alone; a term's number says nothing of how often."""
    ranks, weights = [], []
    for number in numbers:
        random = np.random.default_rng([seed, number])
        # The logarithm of Zipf's ranks is spread evenly.
        ranks.append((VOCABULARY ** random.random(draws)).astype(np.int64) - 1)
        weights.append(np.log1p(random.exponential(size=draws)).astype(np.float32) + 1e-3)
    terms = np.concatenate(ranks) * 48_271 % VOCABULARY  # no common divisor: a permutation
    rows = np.repeat(np.arange(len(ranks)), draws)
    order = np.lexsort((terms, rows))
    terms, rows, values = terms[order], rows[order], np.concatenate(weights)[order]
    first = np.concatenate([[True], (np.diff(terms) != 0) | (np.diff(rows) != 0)])
    shape = (len(ranks), VOCABULARY)
    return coo_array((values[first], (rows[first], terms[first])), shape).tocsr()


def peak_gb() -> float:
    """Largest resident memory of this process so far, files that are mapped included."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


def _retriever() -> SparseRetriever:
    def embed(texts: Sequence[str], prompt: str | None = None) -> csr_array:
        return made_rows([*map(int, texts)], DOCUMENT_DRAWS, seed=0)

    return SparseRetriever(embed, embed, "made up")


def _texts(options: argparse.Namespace) -> list[str]:
    return [str(number) for number in range(options.documents)]


def embeddings(options: argparse.Namespace) -> None:
    """Write the embeddings, which costs what the drawing of numbers costs; no index is left."""
    index = _retriever().index(_texts(options), options.folder, "made up")
    for block in index.blocks:
        shutil.rmtree(block.path.parent, ignore_errors=True)


def ours(options: argparse.Namespace) -> Search:
    """The package's index; the time includes SHA-256 of every file, twice for the embeddings."""
    index = _retriever().index(_texts(options), options.folder, "made up")

    def search(terms: NDArray[np.int32], weights: NDArray[np.float32]) -> Any:
        query = csr_array((weights, terms, np.array([0, len(terms)])), (1, VOCABULARY))
        scores, indices = index.search(query, DEPTH)
        return indices[0], scores[0]

    return search


def _stored(options: argparse.Namespace) -> Iterator[csr_array]:
    documents = _retriever().index(_texts(options), options.folder, "made up").documents
    for start in range(0, options.documents, 65_536):
        yield documents[start : start + 65_536]


def _whole(options: argparse.Namespace) -> csr_array:
    parts = list(_stored(options))
    count = sum(part.nnz for part in parts)
    values, terms = np.empty(count, np.float32), np.empty(count, np.int32)
    starts, at = [np.zeros(1, np.int64)], 0
    while parts:
        part = parts.pop(0)
        values[at : at + part.nnz], terms[at : at + part.nnz] = part.data, part.indices
        starts.append(at + part.indptr[1:].astype(np.int64))
        at += part.nnz
    return csr_array((values, terms, np.concatenate(starts)), (options.documents, VOCABULARY))


def _best(scores: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    last = np.partition(scores, -DEPTH)[-DEPTH]
    found = np.flatnonzero(scores >= last)
    order = found[np.argsort(-scores[found], kind="stable")][:DEPTH]
    return order, scores[order]


def scipy_rows(options: argparse.Namespace) -> Search:
    """Documents times the query as a dense vector, which reads every weight."""
    documents = _whole(options)

    def search(terms: NDArray[np.int32], weights: NDArray[np.float32]) -> Any:
        query = np.zeros(VOCABULARY, np.float32)
        query[terms] = weights
        return _best(documents @ query)

    return search


def scipy_sparse(options: argparse.Namespace) -> Search:
    """The query as a sparse row times the transposed documents, which reads the query's terms."""
    inverted = _whole(options).tocsc().T

    def search(terms: NDArray[np.int32], weights: NDArray[np.float32]) -> Any:
        query = csr_array((weights, terms, np.array([0, len(terms)])), (1, VOCABULARY))
        return _best((query @ inverted).toarray()[0])

    return search


def scipy_columns(options: argparse.Namespace) -> Search:
    """The documents' columns of the query's terms, copied, times its weights."""
    inverted = _whole(options).tocsc()
    return lambda terms, weights: _best(inverted[:, terms] @ weights)


def _impact_index(options: argparse.Namespace, way: str) -> Search:
    import impact_index

    folder = options.folder / f"impact_index_{options.documents}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    builder = impact_index.IndexBuilder(str(folder))
    number = 0
    for part in _stored(options):
        for start, end in zip(part.indptr, part.indptr[1:], strict=False):
            builder.add(number, part.indices[start:end].astype(np.uint64), part.data[start:end])
            number += 1
    engine = getattr(builder.build(True), way)

    def search(terms: NDArray[np.int32], weights: NDArray[np.float32]) -> Any:
        found = engine(dict(zip(terms.tolist(), weights.tolist(), strict=True)), DEPTH)
        return [one.docid for one in found], [one.score for one in found]

    return search


def _seismic(options: argparse.Namespace, cut: int, heap: float) -> Search:
    import seismic

    kind = seismic.get_seismic_string()
    documents = seismic.SeismicDatasetLV()
    number = 0
    for part in _stored(options):
        for start, end in zip(part.indptr, part.indptr[1:], strict=False):
            terms = np.array(list(map(str, part.indices[start:end])), dtype=kind)
            documents.add_document(str(number), terms, part.data[start:end])
            number += 1
    index = seismic.SeismicIndexLV.build_from_dataset(documents, num_threads=1)

    def search(terms: NDArray[np.int32], weights: NDArray[np.float32]) -> Any:
        query = np.array(list(map(str, terms)), dtype=kind)
        found = index.search("", query, weights, k=DEPTH, query_cut=cut, heap_factor=heap)
        return [int(one[2]) for one in found], [one[1] for one in found]

    return search


EMBEDDINGS = "embeddings"
# By name: the package that it needs, and what indexes.
ENGINES: dict[str, tuple[str, Callable[[argparse.Namespace], Search]]] = {
    EMBEDDINGS: ("tdro_lightning", ours),  # what the others read
    "ours": ("tdro_lightning", ours),
    "scipy, rows": ("scipy", scipy_rows),
    "scipy, sparse product": ("scipy", scipy_sparse),
    "scipy, columns": ("scipy", scipy_columns),
    "impact-index, MaxScore": ("impact_index", lambda o: _impact_index(o, "search_maxscore")),
    "impact-index, WAND": ("impact_index", lambda o: _impact_index(o, "search_wand")),
    "seismic, cut 60": ("seismic", lambda o: _seismic(o, 60, 0.9)),
    "seismic, cut 10": ("seismic", lambda o: _seismic(o, 10, 0.7)),
}


if __name__ == "__main__":
    main()
