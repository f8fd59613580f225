"""The stage `import` as a user runs it, on small copies in each exact layout."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from tdro_lightning.data.jsonl import read_rows, write_rows
from tdro_lightning.files import fingerprint
from tests.command import run
from tests.made_up import rows, tiny_model, write_domain_option, write_domains

ROWS = rows("faq", 12, 2, negatives=2)
PROMPT = 'source.prompts="Given a question, retrieve its answer"'


def text(passages: list[dict[str, str]]) -> list[str]:
    return [passage["text"] for passage in passages]


def write_triplets(folder: Path) -> list[str]:
    made = [
        {
            "anchor": row["query"],
            "positive": text(row["positive_passages"])[0],
            "negative_1": text(row["negative_passages"])[0],
            "negative_2": text(row["negative_passages"])[1],
        }
        for row in ROWS
    ]
    write_rows(folder / "train.jsonl", made)
    datasets.Dataset.from_list(made).to_parquet(folder / "parquet/train-00000-of-00001.parquet")
    return ["source.layout=sentence_transformers"]


def write_flag_embedding(folder: Path) -> list[str]:
    made = [
        {
            "query": row["query"],
            "pos": text(row["positive_passages"]),
            "neg": text(row["negative_passages"]),
        }
        for row in ROWS
    ]
    write_rows(folder / "train.jsonl", made)
    return ["source.layout=flag_embedding"]


def write_beir(folder: Path) -> list[str]:
    documents, judged = [], ["query-id\tcorpus-id\tscore"]
    for row in ROWS:
        name = row["query_id"]
        for grade, kind in ((1, "positive"), (0, "negative")):
            for i, passage in enumerate(row[f"{kind}_passages"]):
                key = f"{name}-{kind}-{i}"
                documents.append({"_id": key, "title": "", "text": passage["text"]})
                judged.append(f"{name}\t{key}\t{grade}")
    write_rows(folder / "corpus.jsonl", documents)
    queries = [{"_id": row["query_id"], "text": row["query"]} for row in ROWS]
    write_rows(folder / "queries.jsonl", queries)
    (folder / "qrels").mkdir()
    (folder / "qrels/train.tsv").write_text("\n".join(judged) + "\n")
    return ["source.layout=beir"]


def write_tevatron(folder: Path) -> list[str]:
    write_rows(folder / "train.jsonl", ROWS)
    return ["source.layout=tevatron"]


def write_tevatron_by_id(folder: Path) -> list[str]:
    made, documents = [], []
    for row in ROWS:
        ids = {}
        for kind in ("positive", "negative"):
            ids[kind] = []
            for i, passage in enumerate(row[f"{kind}_passages"]):
                ids[kind].append(f"{row['query_id']}-{kind}-{i}")
                documents.append({"docid": ids[kind][-1], "text": passage["text"]})
        made.append(
            {
                "query_id": row["query_id"],
                "query_text": row["query"],
                "query_image": None,
                "positive_document_ids": ids["positive"],
                "negative_document_ids": ids["negative"],
            }
        )
    write_rows(folder / "train.jsonl", made)
    write_rows(folder.parent / "documents.jsonl", documents)
    return ["source.layout=tevatron", "source.corpus=documents.jsonl"]


def write_tdro(folder: Path) -> list[str]:
    write_rows(folder / "faq.jsonl.gz", ROWS)
    return ["source.layout=tdro"]


WRITERS: list[Callable[[Path], list[str]]] = [
    write_triplets,
    write_flag_embedding,
    write_beir,
    write_tevatron,
    write_tevatron_by_id,
    write_tdro,
]


GIVEN = ("+experiment=import", "source.path=data", "source.name=faq", PROMPT, "run_dir=run")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__.removeprefix("write_"))
def test_every_layout_gives_the_same_rows(command, tmp_path: Path, write) -> None:
    overrides = write(tmp_path / "data")
    ended = command(*overrides)
    assert ended.code == 0, ended.err
    made = [row for _, row in read_rows(tmp_path / "run/train/faq.jsonl.gz")]
    for row, original in zip(made, ROWS, strict=True):
        assert row["query"] == original["query"]
        for part in ("positive_passages", "negative_passages"):
            assert text(row[part]) == text(original[part])
    assert len({row["query_id"] for row in made}) == len(ROWS)
    record = json.loads((tmp_path / "run/train/faq.json").read_text())
    made_from = record["made_from"]
    assert made_from["source"] == "data"
    assert made_from["layout"] == overrides[0].removeprefix("source.layout=")
    for path, sha256 in made_from["inputs"].items():
        assert sha256 == fingerprint(tmp_path / path)
    written = fingerprint(tmp_path / "run/train/faq.jsonl.gz")
    assert record["files"]["faq.jsonl.gz"] == written
    assert (record["result"]["read"], record["result"]["written"]) == (12, 12)
    again = command(*overrides)
    assert "faq: finished before, source unchanged" in again.out


def test_parquet_gives_the_rows_of_json_lines(command, tmp_path: Path) -> None:
    overrides = write_triplets(tmp_path / "data")
    for name in ("data/train.jsonl", "data/parquet"):
        ended = command(*overrides, f"run_dir={Path(name).name}", f"source.path={name}")
        assert ended.code == 0, ended.err
    one, other = (tmp_path / name / "train/faq.jsonl.gz" for name in ("train.jsonl", "parquet"))
    assert one.read_bytes() == other.read_bytes()


def test_it_can_be_trained_on_with_what_is_printed(
    command, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ended = command(*write_flag_embedding(tmp_path / "data"))
    assert "Train on it: --config-dir=run/conf domains=faq" in ended.out
    assert "- Given a question, retrieve its answer" not in ended.err
    tiny_model(tmp_path / "model")
    small = ["data.batch_size=4", "data.query_tokens=96", "data.passage_tokens=16"]
    small += ["data.workers=0", "model.lora=null", "trainer.steps=2", "trainer.precision=32-true"]
    trained = run(
        capfd, tmp_path, "--config-dir=run/conf", "+experiment=reference_qwen05b", "domains=faq",
        "model.path=model", "run_dir=trained", "logger.wandb=disabled", *small,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    usage = json.loads((tmp_path / "trained/data_usage.json").read_text())
    assert usage["faq"]["rows"] == 12


def test_given_columns_are_read_and_recorded(command, tmp_path: Path) -> None:
    made = [{"id": i, "body": f"text {i}", "title": f"query {i}", "votes": 3} for i in range(3)]
    write_rows(tmp_path / "data/train.jsonl", made)
    layout = "source.layout=sentence_transformers"
    ended = command(layout)
    assert ended.code == 3
    assert "data/train.jsonl:1: columns ['body', 'id', 'title', 'votes'] are not und" in ended.err
    columns = "source.columns={query_id: id, query: title, positive: body}"
    ended = command(layout, columns)
    assert ended.code == 0, ended.err
    found = [row for _, row in read_rows(tmp_path / "run/train/faq.jsonl.gz")]
    assert [(row["query_id"], row["query"]) for row in found] == [
        ("0", "query 0"), ("1", "query 1"), ("2", "query 2")
    ]  # fmt: skip
    record = json.loads((tmp_path / "run/train/faq.json").read_text())
    assert record["made_from"]["columns"] == {
        "query_id": "id",
        "query": "title",
        "positive": "body",
    }
    assert record["result"]["ignored_fields"] == {"votes": 3}
    assert "source unchanged" in command(layout, columns).out
    other = command(layout, "source.columns={query: title, positive: body}")
    assert "faq: 3 of 3 rows" in other.out


def test_changed_data_is_imported_again(command, tmp_path: Path) -> None:
    overrides = write_tevatron(tmp_path / "data")
    assert command(*overrides).code == 0
    write_rows(tmp_path / "data/train.jsonl", [*ROWS, {**ROWS[0], "query": "the same id"}])
    ended = command(*overrides)
    assert "faq: 12 of 13 rows" in ended.out
    record = json.loads((tmp_path / "run/train/faq.json").read_text())
    assert record["result"]["dropped_rows"]["query_id twice"] == 1


@pytest.mark.parametrize("place", [["domains.root=rows"], ["domains.hub=rows"]])
def test_the_published_domains_are_imported_whole(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, place: list[str]
) -> None:
    write_domain_option(tmp_path, write_domains(tmp_path / "rows", count=5))
    given = ["--config-dir=conf", "+experiment=import_tdro", "domains=made", "run_dir=run"]
    ended = run(capfd, tmp_path, *given, *place, "domains.only=[hard,easy]")
    assert ended.code == 0, ended.err
    assert "hard: 5 of 5 rows" in ended.out
    option = (tmp_path / "run/conf/domains/imported.yaml").read_text()
    assert f"root: {tmp_path / 'run/train'}" in option
    assert "size: 5" in option
    assert "  - Find it" in option
    for name in ("hard", "easy"):
        original = [row for _, row in read_rows(tmp_path / f"rows/{name}.jsonl")]
        assert [r for _, r in read_rows(tmp_path / f"run/train/{name}.jsonl.gz")] == original


WRONG: dict[str, tuple[list[str], str]] = {
    "layout": (["source.layout=csv"], "source.layout='csv' must be one of tdro, sentence_tran"),
    "no layout": ([], "source.layout is not set"),
    "name": (["source.layout=beir", "source.name=a/b"], "source.name='a/b' must be letters"),
    "no name": (["source.layout=beir", "source.name=null"], "source.name is not set; stage=import"),
    "prompts": (["source.layout=beir", "source.prompts=[]"], "source.prompts is not set; stage"),
    "corpus": (["source.layout=beir", "source.corpus=x"], "source.corpus is for source.layout=tev"),
    "columns": (
        ["source.layout=beir", "source.columns={query: a}"],
        "source.columns is for source",
    ),
    "role": (
        ["source.layout=sentence_transformers", "source.columns={query: a, positive: b, label: c}"],
        "source.columns.label: must be query_id, query, positive, negative, negative_1, ...",
    ),
    "no positive": (
        ["source.layout=sentence_transformers", "source.columns={query: a}"],
        "source.columns.positive is not set; it is the column of the positive",
    ),
    "two roles": (
        ["source.layout=sentence_transformers", "source.columns={query: a, positive: a}"],
        "source.columns: the column 'a' has 2 roles, and must have one",
    ),
    "path": (["source.layout=tevatron", "source.path=gone.jsonl"], "gone.jsonl: no such file or"),
    "beir": (["source.layout=beir"], "data/corpus.jsonl: no such file, nor corpus.jsonl.gz; the"),
    "other": (["source.layout=flag_embedding"], "`pos` is missing; the fields are"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_settings_are_refused(command, tmp_path: Path, kind: str) -> None:
    write_tevatron(tmp_path / "data")
    overrides, message = WRONG[kind]
    ended = command(*overrides)
    assert ended.code == (3 if kind in ("path", "beir", "other") else 2)
    assert message in ended.err
    assert "Traceback" not in ended.err
