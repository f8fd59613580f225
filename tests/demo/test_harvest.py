import json
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.data.jsonl import read_objects, read_rows
from tdro_lightning.demo import sources
from tdro_lightning.demo.harvest import DOMAINS, harvest, normalise_words, select_distinct, split
from tdro_lightning.demo.pairs import Pair
from tdro_lightning.errors import DataError
from tdro_lightning.files import fingerprint, read_json

MAX_ROWS = 120


@pytest.fixture(scope="module")
def output(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harvest")
    harvest(folder, library, MAX_ROWS, seed=3)
    return folder


def rows(output: Path, domain: str) -> list[Any]:
    return [row for _, row in read_rows(output / "train" / f"{domain}.jsonl.gz")]


def texts(path: Path) -> dict[str, str]:
    return {value["_id"]: value["text"] for _, value in read_objects(path)}


def test_domains_are_unequal_and_without_repeats(output: Path) -> None:
    for name, domain in DOMAINS.items():
        found = rows(output, name)
        assert len(found) == round(MAX_ROWS * domain.share)
        assert len({row["query_id"] for row in found}) == len(found)
        assert len({normalise_words(row["query"]) for row in found}) == len(found)
        documents = [row["positive_passages"][0]["text"] for row in found]
        assert len(set(map(normalise_words, documents))) == len(found)
        assert max(map(len, documents)) <= 1000
        assert all(row["negative_passages"] == [] for row in found)


def test_evaluation_sets_have_one_answer_a_query(output: Path) -> None:
    assert sum(domain.evaluated for domain in DOMAINS.values()) == 4
    for name in (name for name, domain in DOMAINS.items() if domain.evaluated):
        folder = output / "eval" / name
        corpus, queries = texts(folder / "corpus.jsonl"), texts(folder / "queries.jsonl")
        header, *lines = (folder / "qrels" / "test.tsv").read_text().splitlines()
        assert header == "query-id\tcorpus-id\tscore"
        judged = [line.split("\t") for line in lines]
        assert [query for query, _, _ in judged] == list(queries)
        assert {document for _, document, _ in judged} <= set(corpus)
        assert {score for _, _, score in judged} == {"1"}
        # The name in the query is the one in the judged document.
        for query, document, _ in judged:
            subject = document.rpartition("#")[0].rpartition(":")[2]
            if name in ("name_doc", "summary_body", "summary_code"):
                assert subject in queries[query]
                assert subject in corpus[document]


def test_training_and_evaluation_share_neither_module_nor_text(output: Path) -> None:
    seen: set[str] = set()
    modules: set[str] = set()
    for row in (row for name in DOMAINS for row in rows(output, name)):
        passage = row["positive_passages"][0]
        seen |= {normalise_words(row["query"]), normalise_words(passage["text"])}
        modules.add(passage["docid"].partition(":")[0])
    for folder in (output / "eval").iterdir():
        corpus = texts(folder / "corpus.jsonl")
        asked = texts(folder / "queries.jsonl")
        assert not modules & {place.partition(":")[0] for place in corpus}
        assert not seen & {normalise_words(text) for text in [*corpus.values(), *asked.values()]}


def test_the_manifest_describes_what_was_written(output: Path, library: Path) -> None:
    manifest = read_json(output / "manifest.json")
    assert manifest["library"] == sources.identity(library)
    assert manifest["source_files"] == 60
    written = {p.relative_to(output).as_posix() for p in output.rglob("*") if p.is_file()}
    assert written == {*manifest["sha256"], "manifest.json"}
    for name, digest in manifest["sha256"].items():
        assert fingerprint(output / name) == digest
    for name, domain in manifest["domains"].items():
        assert domain["rows"] == len(rows(output, name))
    for name, counts in manifest["sets"].items():
        assert counts["documents"] == len(texts(output / "eval" / name / "corpus.jsonl"))
        assert counts["queries"] == len(texts(output / "eval" / name / "queries.jsonl"))


def test_same_files_same_bytes(output: Path, library: Path, tmp_path: Path) -> None:
    harvest(tmp_path, library, MAX_ROWS, seed=3)
    assert fingerprint(tmp_path) == fingerprint(output)


def test_another_seed_keeps_the_split(output: Path, library: Path, tmp_path: Path) -> None:
    manifest = harvest(tmp_path, library, MAX_ROWS, seed=4)
    assert json.dumps(manifest["sha256"]) != json.dumps(
        read_json(output / "manifest.json")["sha256"]
    )
    held_out = {p.partition(":")[0] for p in texts(output / "eval/name_doc/corpus.jsonl")}
    docids = [row["positive_passages"][0]["docid"] for row in rows(tmp_path, "name_doc")]
    assert not held_out & {docid.partition(":")[0] for docid in docids}


def test_a_small_domain_is_named(library: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"domain section: \d+ distinct rows, at least 150 "):
        harvest(tmp_path / "out", library, 1000)
    assert not (tmp_path / "out").exists()


def test_what_is_installed_beside_the_library_changes_nothing(
    output: Path, library: Path, tmp_path: Path
) -> None:
    """Packages lie in `site-packages`, in some systems inside the folder of the library."""
    copy = Path(shutil.copytree(library, tmp_path / "library"))
    installed = copy / "site-packages"
    shutil.copytree(library / "more", installed / "other")
    (installed / "other-1.5.dist-info").mkdir()
    (installed / "other-1.5.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: other\nVersion: 1.5\n\nA README opens with a sentence. What "
        "follows it is a passage that could be harvested, if READMEs were.\n"
    )
    assert sources.identity(copy) == sources.identity(library)
    harvest(tmp_path / "out", copy, MAX_ROWS, seed=3)
    assert fingerprint(tmp_path / "out") == fingerprint(output)
    (copy / "made/part_0.py").write_text('"""Another text."""\n')
    assert sources.identity(copy) != sources.identity(library)


def test_the_standard_library_alone_fills_the_nine_domains(tmp_path: Path) -> None:
    manifest = harvest(tmp_path, max_rows=300)
    assert len(DOMAINS) == 9
    rows_found = {name: found["rows"] for name, found in manifest["domains"].items()}
    assert rows_found == {name: round(300 * domain.share) for name, domain in DOMAINS.items()}
    docids = [
        row["positive_passages"][0]["docid"] for name in DOMAINS for row in rows(tmp_path, name)
    ]
    tops = {docid.partition(":")[0].partition(".")[0] for docid in docids}
    assert "tdro_lightning" not in tops
    installed = {path.stem for path in Path(sysconfig.get_path("purelib")).iterdir()}
    assert not tops & installed - sys.stdlib_module_names


def pair(query: str, document: str, group: str = "g") -> Pair:
    return Pair("d", group, "place", query, document)


def test_normalised_texts_are_equal_beyond_case_and_marks() -> None:
    assert normalise_words("Read_the  File!") == normalise_words("read the file") == "read the file"


def test_groups_stand_on_one_side() -> None:
    pairs = [pair(f"q{i}", f"d{i}", group=f"module{i % 200}") for i in range(600)]
    train, held_out = split(pairs)
    assert len(train) + len(held_out) == 600
    assert not {p.group for p in train} & {p.group for p in held_out}
    assert 0.2 < len(held_out) / 600 < 0.4


def test_distinct_drops_repeats_and_used_texts() -> None:
    pairs = [pair("same", "one"), pair("Same!", "two"), pair("other", "ONE"), pair("x", "X.")]
    pairs += [pair("kept", "text"), pair("used", "new"), pair("new", "used")]
    found = select_distinct(pairs, 10, {"used"}, seed=0)
    queries = [normalise_words(p.query) for p in found]
    documents = [normalise_words(p.document) for p in found]
    assert len(set(queries)) == len(set(documents)) == len(found)
    assert set(queries) in ({"same", "kept"}, {"same", "other", "kept"})
    assert len(select_distinct(pairs, 1, set(), seed=0)) == 1


def test_the_seed_decides_the_order() -> None:
    pairs = [pair(f"q{i}", f"d{i}") for i in range(50)]
    assert select_distinct(pairs, 9, set(), seed=1) == select_distinct(pairs, 9, set(), seed=1)
    assert select_distinct(pairs, 9, set(), seed=1) != select_distinct(pairs, 9, set(), seed=2)
