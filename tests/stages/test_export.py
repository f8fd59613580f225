"""The export as a user runs it, read back by this project, sentence-transformers, PEFT and MTEB."""

import contextlib
import io
import json
import logging
import multiprocessing
import re
import time
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tests.command import Ended, run
from tests.evaluation.judged_set import mteb_task, write_judged_set
from tests.made_up import WORDS, tiny_model, write_domain_option, write_domains

PROMPT = "Find the `red` passage | <b>now</b>"
QUERY_TOKENS = 160
FIT = (
    "--config-dir=conf", "domains=made", "model.path=model", "data.batch_size=12",
    f"data.query_tokens={QUERY_TOKENS}", "data.passage_tokens=192", "data.workers=0",
    "data.negatives=1",
    "trainer.steps=3", "trainer.precision=32-true", "logger.wandb=disabled",
    "optimiser.lr=0.05", "optimiser.warmup_steps=0", "+experiment=finetune_uniform",
    "benchmark=made", "name='a <b>|tuned|</b> model'", "run_dir=tuned",
)  # fmt: skip
EXPORT = ("+experiment=export", "export.encoder=tuned/encoder", "run_dir=out")
COSINE = re.compile(r"  (.+): cosine ([\d.]+) or more, components differ by (\S+) at most")

# What libraries do while they are imported and run is their own affair.
pytestmark = pytest.mark.filterwarnings("ignore")


class Streams:
    """What a command prints, for a fixture that several tests share."""

    def __init__(self) -> None:
        self.out, self.err = io.StringIO(), io.StringIO()

    def readouterr(self) -> "Streams":
        return self


def run_captured(folder: Path, *arguments: str) -> Ended:
    streams = Streams()
    with contextlib.redirect_stdout(streams.out), contextlib.redirect_stderr(streams.err):
        ended = run(streams, folder, *arguments)  # type: ignore[arg-type]
    return Ended(ended.code, ended.out.getvalue(), ended.err.getvalue())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fine-tuned adapter, evaluated on a set of 60 queries."""
    folder = tmp_path_factory.mktemp("export")
    catalogue = write_domains(folder / "rows")
    write_domain_option(folder, catalogue)
    write_judged_set(folder, PROMPT)
    tiny_model(folder / "model", layers=2)
    # A rotary base that transformers 4 would not guess.
    config = json.loads((folder / "model/config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    (folder / "model/config.json").write_text(json.dumps(config))
    ended = run_captured(folder, *FIT)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture(scope="module")
def ended(place: Path) -> Ended:
    """An export that was killed while it wrote, and the same command again."""
    killed = multiprocessing.get_context("fork").Process(target=run_captured, args=(place, *EXPORT))
    killed.start()
    began = time.monotonic()
    while not list(place.glob("out/.export.*.tmp/model.safetensors")):
        assert killed.is_alive()
        assert time.monotonic() - began < 120
        time.sleep(0.005)
    killed.kill()
    killed.join()
    assert list(place.glob("out/.export.*.tmp"))
    assert not (place / "out/export").exists()
    ended = run_captured(place, *EXPORT)
    assert ended.code == 0, ended.err
    assert not list(place.glob("out/.export.*"))
    return ended


@pytest.fixture
def export(place: Path, ended: Ended) -> Path:
    return place / "out/export"


@pytest.fixture
def encoder(place: Path, monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.chdir(place)  # the adapter names its base model as `model`
    return load_encoder("tuned/encoder", pooling="mean", query_tokens=1, passage_tokens=1)


def texts(place: Path) -> tuple[list[str], list[str]]:
    lines = [(place / f"data/made/{name}.jsonl").open() for name in ("queries", "corpus")]
    queries, documents = [[json.loads(line)["text"] for line in file] for file in lines]
    return [*queries, *WORDS], [*documents, "red " * 300]


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return (ours.astype(float) * theirs.astype(float)).sum(1)


def test_every_library_reads_the_encoder_s_embeddings(ended: Ended) -> None:
    found = {way: (float(c), float(d)) for way, c, d in COSINE.findall(ended.out)}
    assert len(found) == 4
    assert [way.split()[0].rstrip(",") for way in found] == [
        *("sentence-transformers", "sentence-transformers", "transformers", "peft")
    ]
    assert all(cosine >= 0.99999 and difference < 1e-5 for cosine, difference in found.values())
    assert "Export: out/export (model card in README.md, scores of 1 sets)" in ended.out
    assert "export.base=NAME" in ended.out


def test_sentence_transformers_gives_our_embeddings(
    place: Path, export: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import SentenceTransformer

    prompt = "Given a web search query, retrieve relevant passages that answer the query"
    queries, documents = texts(place)
    monkeypatch.chdir(export / "adapter")  # whose base model is named relative to it
    for folder in (str(export), "."):
        model = SentenceTransformer(folder, device="cpu")
        theirs = model.encode_document(documents)
        assert cosines(encoder.embed_passages(documents), theirs).min() > 0.99999
        model.max_seq_length = QUERY_TOKENS
        theirs = model.encode_query(queries)
        assert np.abs(encoder.embed_queries(queries, prompt) - theirs).max() < 1e-5
        theirs = model.encode(queries, prompt_name="made-query")
        assert np.abs(encoder.embed_queries(queries, PROMPT) - theirs).max() < 1e-5


def test_the_project_reads_its_export(place: Path, export: Path, encoder: Encoder) -> None:
    queries, documents = texts(place)
    ours = encoder.embed_queries(queries, PROMPT), encoder.embed_passages(documents)
    for folder in (export, export / "adapter"):
        again = load_encoder(str(folder), pooling="mean", query_tokens=1, passage_tokens=1)
        assert np.abs(again.embed_queries(queries, PROMPT) - ours[0]).max() < 1e-5
        assert np.abs(again.embed_passages(documents) - ours[1]).max() < 1e-5


def test_nothing_in_it_is_of_this_machine(place: Path, export: Path) -> None:
    for path in export.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            assert str(place) not in path.read_text(), path
    adapter = json.loads((export / "adapter/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "../../../model"
    assert adapter["target_modules"] == sorted(adapter["target_modules"])


def test_the_card_shows_mix_scores_and_prompts(place: Path, export: Path) -> None:
    loaded = ModelCard.load(export / "README.md")
    metrics = json.loads((place / "tuned/metrics.json").read_text())["retrievers"]
    expected = metrics["uniform"]["sets"]["made"]
    assert loaded.data.model_name == "a <b>|tuned|</b> model"
    assert {r.metric_type: r.metric_value for r in loaded.data.eval_results} == {
        name.replace("@", "_at_"): pytest.approx(value, abs=1e-5)
        for name, value in expected.items()
        if name != "queries"
    }
    text = loaded.text
    assert "# a &lt;b&gt;\\|tuned\\|&lt;/b&gt; model" in text
    assert "Find the \\`red\\` passage \\| &lt;b&gt;now&lt;/b&gt;" in text
    usage = json.loads((place / "tuned/data_usage.json").read_text())
    for domain, used in usage.items():
        assert f"| {domain} | 33.33 | 40 | {used['epochs']:.2f} | Find it |" in text
    assert f"| made | {100 * expected['ndcg@10']:.2f} |" in text
    assert ModelCard.load(export / "adapter/README.md").data.library_name == "peft"


def test_the_code_on_the_card_runs(
    export: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (export / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(export)
    names: dict[str, object] = {}
    printed = []
    whole = 'model = AutoModel.from_pretrained(".").eval()\n'
    assert whole in blocks[1]
    for block in (blocks[0], blocks[1], blocks[2] + blocks[1].replace(whole, "")):
        exec(compile(block, "card", "exec"), names)
        printed.append(capsys.readouterr().out)
    values = [float(re.search(r"[-\d.]+", text.partition("[[")[2])[0]) for text in printed]
    assert values == pytest.approx([values[0]] * 3, abs=1e-4)


def test_mteb_finds_the_same_scores(
    place: Path, export: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, logger="mteb")
    import mteb
    from mteb.models import SentenceTransformerEncoderWrapper
    from mteb.results import TaskResult
    from sentence_transformers import SentenceTransformer

    ours = TaskResult.from_disk(export / "mteb/made.json")
    metrics = json.loads((place / "tuned/metrics.json").read_text())["retrievers"]
    assert ours.task_name == "made"
    assert ours.dataset_revision == "local"
    assert ours.get_score() == metrics["uniform"]["sets"]["made"]["ndcg@10"]

    model = SentenceTransformer(str(export), device="cpu")
    prompts = {"query": model.prompts["made-query"], "document": ""}
    wrapper = SentenceTransformerEncoderWrapper(model, model_prompts=prompts)
    results = mteb.evaluate(
        wrapper, mteb_task(place), cache=None, co2_tracker=False, show_progress_bar=False
    )
    (theirs,) = results.task_results[0].scores["test"]
    (written,) = ours.scores["test"]
    assert 0.05 < written["ndcg_at_10"] < 0.95
    for name in ("ndcg_at_10", "recall_at_100", "mrr_at_10", "main_score"):
        assert theirs[name] == pytest.approx(written[name], abs=1e-4), name


def test_scores_of_another_encoder_are_refused(place: Path, ended: Ended) -> None:
    ended = run_captured(
        place, "+experiment=export", "export.encoder=model", "export.metrics=tuned", "run_dir=no"
    )
    assert ended.code == 3
    assert "export.metrics=tuned: it evaluated uniform, and none of them is model" in ended.err


def test_a_run_folder_is_not_its_encoder(place: Path) -> None:
    ended = run_captured(place, "+experiment=export", "export.encoder=tuned", "run_dir=no")
    assert ended.code == 2
    assert (
        "export.encoder=tuned is a run folder; its model is in export.encoder=tuned/enc"
        in ended.err
    )
