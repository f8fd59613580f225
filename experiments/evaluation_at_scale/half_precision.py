"""What storing a corpus in half precision does to the results of an encoder.

    python experiments/evaluation_at_scale/half_precision.py ENCODER ROOT SET... --folder FOLDER

Sets are folders in ROOT in BEIR's layout. Prints a Markdown table: nDCG@10 x 100 with embeddings in
float32 and float16, queries whose value differs, places of the first 10 and 100 that hold another
document, and the largest difference of a score.
"""

import argparse
from pathlib import Path

import numpy as np

from tdro_lightning.evaluation.benchmark import RetrievalSet, build_retrieval_set
from tdro_lightning.evaluation.metrics import average, score
from tdro_lightning.evaluation.sets.beir import beir_corpus, beir_questions
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.search.dense import exact_search
from tdro_lightning.search.encoding import encode

DEPTH = 100
NDCG = "ndcg@10"


def main(arguments: list[str] | None = None) -> list[list[float]]:
    """Compare both precisions on every set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoder")
    parser.add_argument("root", type=Path)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pooling", choices=("mean", "last"), default="mean")
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args(arguments)
    encoder = load_encoder(
        given.encoder,
        pooling=given.pooling,
        query_tokens=given.tokens,
        passage_tokens=given.tokens,
        chunk_tokens=8192,
    )
    print("| set | float32 | float16 | other queries | of 10 | of 100 | score |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    rows = []
    for name in given.sets:
        place = given.root / name
        one = build_retrieval_set(name, beir_corpus(place), beir_questions(place, "test"))
        queries = encoder.embed_queries(one.queries, None)
        found = []
        for half_from in (len(one.documents) + 1, 1):
            documents = encode(
                one.documents,
                encoder.embed_passages,
                given.folder,
                given.encoder,
                half_from=half_from,
            )
            found.append(exact_search(queries, documents, DEPTH))
        rows.append(compared(one, *found))
        full, half, queries_apart, first, hundred, apart = rows[-1]
        print(
            f"| {name} | {100 * full:.3f} | {100 * half:.3f} "
            f"| {queries_apart} of {len(one.queries)} | {first:.2%} | {hundred:.2%} | {apart:.1e} |"
        )
    return rows


Found = tuple[np.ndarray, np.ndarray]


def compared(one: RetrievalSet, full: Found, half: Found) -> list[float]:
    """One row: both nDCG@10, queries and shares of places that differ, difference of a score."""
    values = [per_query(one, *found) for found in (full, half)]
    other = full[1] != half[1]
    return [
        *(average({NDCG: v} for v in by_query.values())[NDCG] for by_query in values),
        sum(values[0][query] != values[1][query] for query in values[0]),
        float(other[:, :10].mean()),
        float(other.mean()),
        float(np.abs(full[0] - half[0]).max()),
    ]


def per_query(one: RetrievalSet, scores: np.ndarray, indices: np.ndarray) -> dict[str, float]:
    """nDCG@10 of each query."""
    run = {
        query: {one.document_ids[p]: float(v) for p, v in zip(places, row, strict=True) if p >= 0}
        for query, places, row in zip(one.query_ids, indices.tolist(), scores, strict=True)
    }
    return {query: values[NDCG] for query, values in score(run, one.qrels).items()}


if __name__ == "__main__":
    main()
