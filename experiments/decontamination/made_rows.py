"""Rows for timing stage=decontaminate: words of tdro_mini, drawn as often as they stand there.

TDRO_MINI=FOLDER python experiments/decontamination/made_rows.py --rows 1000000 --output FOLDER

Every row has its own positive, and as negatives those of the seven rows before it, so that every
passage stands in eight rows, as mined negatives do. It writes `train/made.jsonl` and the option
`conf/domains/made.yaml`.
"""

import argparse
import os
import re
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tdro_lightning.data.example import passage_text
from tdro_lightning.data.jsonl import read_rows, write_rows
from tdro_lightning.files import write_text

QUERY_WORDS, PASSAGE_WORDS, NEGATIVES = 10, 80, 7
OPTION = """\
root: {root}
hub: null
only: null
catalogue:
  made: {{file: made.jsonl, language: English, category: Made, size: {rows}, symmetric: false,
    prompts: [Find it]}}
"""


def main() -> None:
    """Write the rows and the option."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = Path(os.environ.get("TDRO_MINI", "../shared/data/tdro-mini")) / "train"
    random = np.random.default_rng(arguments.seed)
    path = arguments.output / "train" / "made.jsonl"
    write_rows(path, rows(arguments.rows, *frequencies(folder), random))
    option = OPTION.format(root=path.parent.resolve(), rows=arguments.rows)
    write_text(arguments.output / "conf" / "domains" / "made.yaml", option)


def frequencies(folder: Path) -> tuple[list[str], np.ndarray]:
    """The words of four English domains, and each one's share."""
    counts = Counter[str]()
    for name in ("agnews", "nq", "squad", "medmcqa"):
        for _, row in read_rows(folder / f"{name}.jsonl.gz"):
            for passage in row["positive_passages"]:
                counts.update(re.findall(r"\S+", passage_text(passage)))
    shares = np.array(list(counts.values()), dtype=np.float64)
    return list(counts), shares / shares.sum()


def rows(
    count: int, words: list[str], shares: np.ndarray, random: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Made-up rows one after the other."""
    before: deque[dict[str, str]] = deque(maxlen=NEGATIVES)
    for start in range(0, count, 10_000):
        drawn = random.choice(len(words), (10_000, QUERY_WORDS + PASSAGE_WORDS), p=shares)
        for number, places in enumerate(drawn[: count - start].tolist(), start=start):
            text = " ".join(words[place] for place in places[QUERY_WORDS:])
            passage = {"docid": str(number), "title": "", "text": text}
            yield {
                "query_id": str(number),
                "query": " ".join(words[place] for place in places[:QUERY_WORDS]),
                "positive_passages": [passage],
                "negative_passages": list(before),
            }
            before.append(passage)


if __name__ == "__main__":
    main()
