import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.corpus import Corpus, Document, stored_corpus
from tdro_lightning.evaluation.sets.beir import beir_corpus
from tests.fixtures.evaluation import in_two_processes

TITLES = ("", "Title", " x", "Ünï 中文")
TEXTS = ("a text", "", "two\nlines", "🙂 \u2028 end ")


def documents(count: int) -> list[Document]:
    return [
        Document(f"file:{i + 1}", f"d{i}", TITLES[i % 4] or f"t{i}", TEXTS[i // 4 % 4])
        for i in range(count)
    ]


def corpus(rows: list[Document], source: Path) -> Corpus:
    source.touch()
    return stored_corpus(lambda: rows, source, f"made-up {source.name}")


def test_a_corpus_reads_like_two_tuples(tmp_path: Path) -> None:
    rows = documents(2500)  # more than one batch of the table
    ids, texts = corpus(rows, tmp_path / "like tuples")
    expected = [f"{row.title} {row.text}".strip() for row in rows]
    assert (len(ids), len(texts)) == (2500, 2500)
    assert list(ids) == [row.id for row in rows]
    assert list(texts) == expected
    for place in (0, 7, 999, 1000, 2499, -1):
        assert ids[place] == rows[place].id
        assert texts[place] == expected[place]
    for part in (slice(0, 3), slice(990, 1010), slice(2490, 3000), slice(5, 5)):
        assert ids[part] == [row.id for row in rows[part]]
        assert texts[part] == expected[part]
    with pytest.raises(IndexError):
        texts[2500]


def test_the_table_is_made_once(tmp_path: Path) -> None:
    calls = []
    source = tmp_path / "file"
    source.write_text("one")

    def read() -> Iterator[Document]:
        calls.append(1)
        yield from documents(3)

    first = stored_corpus(read, source, "once")
    assert [*stored_corpus(read, source, "once").texts] == [*first.texts]
    assert len(calls) == 1
    stored_corpus(read, source, "other layout")
    assert len(calls) == 2
    source.write_text("other content")
    stored_corpus(read, source, "once")
    assert len(calls) == 3


def test_equal_ids_are_found_and_nothing_is_kept(tmp_path: Path) -> None:
    rows = documents(40)
    rows[31] = rows[31]._replace(id="d7")
    rows[22] = rows[22]._replace(id="d20")
    for _ in range(2):
        with pytest.raises(DataError, match="file:23: document 'd20' is a duplicate"):
            corpus(rows, tmp_path / "twins")
    with pytest.raises(DataError, match="empty: no documents in it"):
        corpus([], tmp_path / "empty")


def test_a_few_empty_documents_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [Document("", f"d{i}", "", "text") for i in range(100)]
    rows[40] = rows[40]._replace(title=" ", text="\n")
    found = corpus(rows, tmp_path / "one")
    assert (len(found.texts), found.texts[40]) == (100, "")
    assert "one: 1 documents without title and text" in caplog.text
    rows[70] = rows[70]._replace(text="")
    message = "two: document 'd40' has neither title nor text, like 2 of 100"
    with pytest.raises(DataError, match=message):
        corpus(rows, tmp_path / "two")


def load_and_search(folder: Path) -> None:
    ids, texts = beir_corpus(folder)
    with (folder / "read").open("a") as stream:
        stream.write(f"{''.join(ids)} {len(texts)}\n")


def test_two_processes_read_one_table(tmp_path: Path) -> None:
    write_corpus(tmp_path, 3)
    in_two_processes(load_and_search, tmp_path)
    assert (tmp_path / "read").read_text() == "d0d1d2 3\n" * 2


def write_corpus(folder: Path, count: int, words: int = 1) -> None:
    random = np.random.default_rng(0)
    with (folder / "corpus.jsonl").open("w") as stream:
        for i in range(count):
            text = random.bytes(3 * words).hex()
            stream.write(json.dumps({"_id": f"d{i}", "title": "", "text": text}) + "\n")


HELD = """
import re, sys
from pathlib import Path
import tdro_lightning.data.tables
from tdro_lightning.evaluation.sets.beir import beir_corpus
def held(): return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = held()
one = beir_corpus(Path(sys.argv[1]))
assert sum(len(text) for text in one.texts) == int(sys.argv[2])
print(held() - before)
"""


def test_a_large_corpus_is_not_held_in_memory(tmp_path: Path) -> None:
    """60,000 documents of 1,800 characters: 108 MB as a tuple of strings."""
    write_corpus(tmp_path, 60_000, words=300)
    found = subprocess.run(
        [sys.executable, "-c", HELD, str(tmp_path), str(60_000 * 1800)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(found.stdout) < 60_000, found.stdout  # in KiB
