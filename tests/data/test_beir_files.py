import gzip
from pathlib import Path

import pytest

from tdro_lightning.data.beir_files import beir, beir_files
from tdro_lightning.data.jsonl import read_objects, write_rows
from tdro_lightning.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "stars"
    documents = [("d1", "Sun", "a star"), ("d2", "", "a moon"), ("d3", "", "dust")]
    write_rows(
        made / "corpus.jsonl.gz", [{"_id": i, "title": t, "text": x} for i, t, x in documents]
    )
    queries = {"q1": "what is the sun", "q2": "what is dust", "q3": "only for tests"}
    write_rows(made / "queries.jsonl", [{"_id": i, "text": t} for i, t in queries.items()])
    lines = ["query-id\tcorpus-id\tscore", "q2\td3\t1", "q1\td2\t1", "q1\td1\t2", "q1\td3\t0"]
    (made / "qrels").mkdir()
    (made / "qrels/train.tsv").write_text("\n".join(lines) + "\n")
    return made


def test_judged_queries_become_rows(folder: Path) -> None:
    files = beir_files(folder, "train")
    assert list(files) == ["corpus", "queries", "qrels"]
    first, second = beir(files)
    assert first == (
        f"{folder / 'queries.jsonl'}:1",
        {
            "query_id": "q1",
            "query": "what is the sun",
            "positive_passages": [
                {"docid": "d1", "title": "Sun", "text": "a star"},
                {"docid": "d2", "title": "", "text": "a moon"},
            ],
            "negative_passages": [{"docid": "d3", "title": "", "text": "dust"}],
        },
    )
    assert second[1]["query_id"] == "q2"
    assert second[1]["negative_passages"] == []


def test_a_document_that_is_not_there_has_no_text(folder: Path) -> None:
    with (folder / "qrels/train.tsv").open("a") as stream:
        stream.write("q2\tgone\t1\n")
    *_, (_, fields) = beir(beir_files(folder, "train"))
    assert fields["positive_passages"][1] == {"docid": "gone", "title": None, "text": None}


@pytest.mark.parametrize(
    ("name", "split"),
    [("corpus.jsonl.gz", "train"), ("queries.jsonl", "train"), ("qrels/dev.tsv", "dev")],
)
def test_a_missing_file_comes_with_the_command_that_gets_it(
    folder: Path, name: str, split: str
) -> None:
    (folder / name).unlink(missing_ok=True)
    with pytest.raises(
        DataError, match=r"no such file, nor .*get the set with `wget .*/stars\.zip"
    ):
        beir_files(folder, split)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1\td1", r"train\.tsv:6: expected 3 columns divided by tabs"),
        ("q1\td1\tyes", r"train\.tsv:6: the score must be a whole number up to 100, is 'yes'"),
        ("q1\td1\t1", r"train\.tsv:6: query 'q1' and document 'd1' .* with grade 2 and not 1"),
        ("q9\td1\t1", r"queries\.jsonl: 1 judged queries are missing, among them 'q9'"),
    ],
)
def test_broken_judgements_are_refused(folder: Path, line: str, message: str) -> None:
    with (folder / "qrels/train.tsv").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=message):
        list(beir(beir_files(folder, "train")))


def test_another_header_is_refused(folder: Path) -> None:
    (folder / "qrels/train.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(DataError, match="the header must be"):
        list(beir(beir_files(folder, "train")))
    (folder / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\n")
    with pytest.raises(DataError, match="no judgements in it"):
        list(beir(beir_files(folder, "train")))


@pytest.mark.parametrize("given", ["1.5", "null", "true", '""', '["d1"]'])
def test_an_id_of_another_type_is_refused(folder: Path, given: str) -> None:
    line = f'{{"_id": {given}, "text": "x"}}\n'
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(line.encode()))
    with pytest.raises(DataError, match=r"corpus\.jsonl\.gz:1: `_id` (must be a string|is empty)"):
        list(beir(beir_files(folder, "train")))


@pytest.mark.parametrize("name", ["corpus", "queries"])
def test_an_id_twice_is_refused(folder: Path, name: str) -> None:
    path = next(folder.glob(f"{name}.jsonl*"))
    write_rows(path, [value for _, value in read_objects(path)] * 2)
    with pytest.raises(DataError, match=rf"{name}\.jsonl.*:4: .* is a duplicate"):
        list(beir(beir_files(folder, "train")))


def test_a_plain_and_a_gzipped_file_are_one_too_many(folder: Path) -> None:
    (folder / "corpus.jsonl").touch()
    with pytest.raises(DataError, match=r"corpus\.jsonl and corpus\.jsonl\.gz both exist"):
        beir_files(folder, "train")
