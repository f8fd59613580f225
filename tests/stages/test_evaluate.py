"""The evaluation as a user runs it, on a made-up set whose documents fill several shards."""

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest

from tdro_lightning.assembly import evaluate as assembly
from tests.command import assert_one_message, run
from tests.made_up import WORDS, tiny_model
from tests.processes import Started

DOCUMENTS = 30_000  # 8 shards
ARGUMENTS = (
    *("--config-dir=conf", "+experiment=evaluate", "benchmark=made", "model=tiny"),
    *("evaluate.bm25=false", "+evaluate.encoders.tiny=model"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a set, its configuration and an untrained model."""
    folder = tmp_path_factory.mktemp("evaluate")
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, 6)) + f" {i}" for i in range(DOCUMENTS)]
    (folder / "set" / "qrels").mkdir(parents=True)
    with (folder / "set" / "corpus.jsonl").open("w") as stream:
        for i, text in enumerate(texts):
            stream.write(json.dumps({"_id": f"d{i}", "text": text}) + "\n")
    with (folder / "set" / "queries.jsonl").open("w") as stream:
        for i in range(20):
            stream.write(json.dumps({"_id": f"q{i}", "text": texts[1000 * i]}) + "\n")
    rows = "".join(f"q{i}\td{1000 * i}\t1\n" for i in range(20))
    (folder / "set/qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    (folder / "conf" / "benchmark").mkdir(parents=True)
    (folder / "conf/benchmark/made.yaml").write_text(
        "root: .\nsets: {made: {folder: set, split: test, prompt: Find it}}\n"
    )
    tiny_model(folder / "model")
    return folder


def results(run_dir: Path) -> list[bytes]:
    return [(run_dir / n).read_bytes() for n in ("metrics.json", "per_query/tiny/made.json")]


def test_a_killed_run_resumes_at_the_next_shard(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = Started(place, *ARGUMENTS, "run_dir=killed", "evaluate.embeddings=kept")
    killed.send_when(signal.SIGKILL, lambda: len([*place.glob("kept/documents/*/0*.json")]) > 2)
    assert killed.wait() == -signal.SIGKILL
    assert not (place / "killed/metrics.json").exists()
    whole = [path.with_suffix(".npy") for path in place.glob("kept/documents/*/0*.json")]
    before = {path: path.stat().st_mtime_ns for path in whole}
    assert 3 <= len(before) < 8

    monkeypatch.setattr(assembly, "WORTH_PRINTING", 0)
    ended = run(capfd, place, *ARGUMENTS, "run_dir=killed", "evaluate.embeddings=kept")
    assert ended.code == 0, ended.err
    left = 8 - len(before) - 1  # the forecast comes after the first
    if left:
        assert "made: 30,000 texts in 16 dimensions (float32), 0.00 GB in 8 shards" in ended.out
        assert f"; {left} of them to encode, about 0:00:0" in ended.out
    after = {path: path.stat().st_mtime_ns for path in place.glob("kept/documents/*/*.npy")}
    assert len(after) == 8
    assert before.items() <= after.items()

    again = run(capfd, place, *ARGUMENTS, "run_dir=again", "evaluate.embeddings=kept")
    assert "to encode" not in again.out
    assert {path: path.stat().st_mtime_ns for path in after} == after
    apart = run(capfd, place, *ARGUMENTS, "run_dir=apart")
    assert "; 7 of them to encode" in apart.out
    assert results(place / "killed") == results(place / "again") == results(place / "apart")
    assert not (place / "apart/embeddings").exists()


def test_a_file_in_the_place_of_the_folder(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (place / "file").touch()
    ended = run(capfd, place, *ARGUMENTS, "run_dir=other", "evaluate.embeddings=file")
    assert ended.code == 2
    assert "evaluate.embeddings=file: a file stands there; name a folder" in ended.err


@pytest.mark.parametrize("victim", ["documents/*/000001.npy", "queries/*/000000.json"])
def test_a_folder_in_the_place_of_a_file(
    place: Path, capfd: pytest.CaptureFixture[str], victim: str
) -> None:
    given = (*ARGUMENTS, "run_dir=folders", "evaluate.embeddings=folders")
    assert run(capfd, place, *given).code == 0
    (file,) = place.glob(f"folders/{victim}")
    file.unlink()
    file.mkdir()
    ended = run(capfd, place, *given, "trainer.resume=never")
    assert ended.code == 2
    assert_one_message(ended, r"a folder is in the place of this file; remove it\n$")
    assert str(file.relative_to(place)) in ended.err
    assert len(ended.err.splitlines()) == 1
    file.rmdir()


def test_progress_names_what_is_encoded(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In words, of the set; folders of embeddings are named by a hash."""
    assert run(capfd, place, *ARGUMENTS, "run_dir=progress").code == 0
    log = (place / "progress/tdro_lightning.log").read_text()
    done = [f"encoding 30,000 passages of made, {100 * i // 8} %" for i in range(8)]
    assert [line in log for line in done] == [True] * 8
    assert "encoding 20 queries of made, 0 %" in log
    assert re.search(r"encoding .*[0-9a-f]{32}", log) is None
