"""How many planted near-duplicates stage=decontaminate catches, and how many similar texts.

TDRO_MINI=FOLDER python experiments/decontamination/planted.py --output planted.json
"""

import argparse
import os
from collections import Counter
from pathlib import Path

import numpy as np
from pairs import CHANGES, Pair, neighbours, planted, swapped

from tdro_lightning.data.example import passage_text
from tdro_lightning.data.jsonl import read_rows
from tdro_lightning.decontamination.evaluation_index import EvaluationIndex, EvaluationText
from tdro_lightning.evaluation.benchmark import build_retrieval_set
from tdro_lightning.evaluation.sets.beir import beir_corpus, beir_questions
from tdro_lightning.files import write_json

PER_KIND = {"query": 63, "document": 62}  # of each of the eight sets: 1000 in all
JACCARD = (0.6, 0.65, 0.7, 0.75, 0.8, 0.9)


def main() -> None:
    """Make the pairs, look for them, print and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--simhash", type=int, default=3)
    arguments = parser.parse_args()
    root = Path(os.environ.get("TDRO_MINI", "../shared/data/tdro-mini"))
    random = np.random.default_rng(arguments.seed)
    chosen, rest = sampled(root / "eval", random)
    pairs = [planted(text, change, random) for change in CHANGES for text in chosen]
    pairs += similar(chosen, rest, root / "train", random)
    found = {
        f"{jaccard}": counted(pairs, chosen, arguments.simhash, jaccard) for jaccard in JACCARD
    }
    content = {"seed": arguments.seed, "simhash_distance": arguments.simhash, "jaccard": found}
    write_json(arguments.output, content)


def sampled(
    folder: Path, random: np.random.Generator
) -> tuple[list[EvaluationText], list[EvaluationText]]:
    """The evaluation texts that get a near-duplicate, and the others, set by set."""
    chosen, rest = [], []
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        one = build_retrieval_set(path.name, beir_corpus(path), beir_questions(path, "test"))
        texts = {
            "query": zip(one.query_ids, one.queries, strict=True),
            "document": zip(one.document_ids, one.documents, strict=True),
        }
        for kind, items in texts.items():
            made = [EvaluationText(path.name, kind, i, text) for i, text in items]
            drawn = set(random.choice(len(made), PER_KIND[kind], replace=False).tolist())
            chosen += [text for i, text in enumerate(made) if i in drawn]
            rest += [text for i, text in enumerate(made) if i not in drawn]
    return chosen, rest


def similar(
    chosen: list[EvaluationText],
    rest: list[EvaluationText],
    folder: Path,
    random: np.random.Generator,
) -> list[Pair]:
    """Real and made texts that resemble the chosen ones and are not the same."""
    queries, passages = training_texts(folder)
    pairs: list[Pair] = []
    asked = [text for text in chosen if text.kind == "query"]
    shown = [text for text in chosen if text.kind == "document"]
    pairs += neighbours(asked, queries, "nearest training query")
    pairs += neighbours(shown, passages, "nearest training passage")
    for name in sorted({text.set for text in chosen}):
        own = [text for text in asked if text.set == name]
        others = [text.text for text in rest if text.set == name and text.kind == "query"]
        pairs += neighbours(own, others, "nearest other query of the set")
        rarity = Counter(word for text in others for word in set(text.lower().split()))
        pairs += swapped(own, rarity, random)
    return pairs


def training_texts(folder: Path) -> tuple[list[str], list[str]]:
    """Distinct queries and positives of all domains."""
    queries: dict[str, None] = {}
    passages: dict[str, None] = {}
    for path in sorted(folder.glob("*.jsonl.gz")):
        for _, row in read_rows(path):
            queries[row["query"]] = None
            passages.update(dict.fromkeys(map(passage_text, row["positive_passages"])))
    return list(queries), list(passages)


def counted(
    pairs: list[Pair], chosen: list[EvaluationText], simhash: int, jaccard: float
) -> dict[str, object]:
    """Pairs and caught pairs by kind of pair and of original; a pair counts where its own is found.

    Each evaluation text is a set of its own here, so that every match of a text is listed.
    """
    alone = [EvaluationText(f"{t.set}/{t.kind}/{t.id}", t.kind, t.id, t.text) for t in chosen]
    matches = EvaluationIndex(alone, simhash, jaccard).find([pair.text for pair in pairs])
    made, caught, methods = Counter[str](), Counter[str](), Counter[str]()
    for pair, found in zip(pairs, matches, strict=True):
        own = f"{pair.original.set}/{pair.original.kind}/{pair.original.id}"
        hit = [match for match in found if match.text.set == own]
        for label in (f"{pair.kind}/{pair.original.kind}", f"{pair.kind}/{pair.original.set}"):
            made[label] += 1
            caught[label] += bool(hit)
        methods.update(f"{pair.kind}: {match.method}" for match in hit)
    shown = {
        label: f"{caught[label]}/{made[label]}"
        for label in made
        if label.endswith(("query", "document"))
    }
    print(jaccard, shown, flush=True)
    return {"pairs": dict(made), "caught": dict(caught), "methods": dict(methods)}


if __name__ == "__main__":
    main()
