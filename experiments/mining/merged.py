"""All domains of a folder as one: `python experiments/mining/merged.py TRAIN_FOLDER OUTPUT_FOLDER`.

Query ids and docids get their domain's name in front, so that they stay apart.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from tdro_lightning.data.domain_files import domain_files
from tdro_lightning.data.example import Row
from tdro_lightning.data.jsonl import read_rows, write_rows


def merged(folder: Path) -> Iterator[Row]:
    """The rows of all domains, one domain after the other."""
    for name, path in domain_files(folder).items():
        for _, row in read_rows(path):
            row["query_id"] = f"{name}/{row['query_id']}"
            for passage in (*row["positive_passages"], *row["negative_passages"]):
                passage["docid"] = f"{name}/{passage['docid']}"
            yield row


if __name__ == "__main__":
    source, output = map(Path, sys.argv[1:])
    print(write_rows(output / "merged.jsonl.gz", merged(source)), "rows")
