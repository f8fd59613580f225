"""A decoder is adapted, and its adapter is trained on, as a user does it by commands."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tdro_lightning.files import fingerprint
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.training.finetune import FinetuneModule
from tdro_lightning.training.tdro import TDROModule
from tests.command import Ended, assert_one_message, run
from tests.made_up import write_domain_option, write_domains
from tests.models.test_sparse_encoder import write_llama
from tests.processes import Started

SMALL = (
    "--config-dir=conf", "domains=made", "model=tiny", "model.path=model", "data.workers=0",
    "logger.wandb=disabled", "trainer.precision=32-true", "seed=1", "data.passage_tokens=24",
)  # fmt: skip
LORA = "model.lora={r: 4, alpha: 32, dropout: 0.05}"
ADAPT = (*SMALL, "+experiment=adapt", "data.batch_size=12", LORA, "optimiser.lr=0.01")
TUNE = ("data.batch_size=6", "data.query_tokens=40", "data.negatives=2", "optimiser.warmup_steps=1")
ADAPTED = "model.path=adapted/encoder"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Domains, an evaluation set and a language model, and the one that was adapted from it."""
    folder = tmp_path_factory.mktemp("adapt")
    write_domain_option(folder, write_domains(folder / "rows"))
    write_llama(folder / "model", tied=True)
    lines = [json.loads(line) for line in (folder / "rows/easy.jsonl").read_text().splitlines()]
    town = folder / "sets/town"
    (town / "qrels").mkdir(parents=True)
    documents = [row["positive_passages"][0]["text"] for row in lines]
    for name, texts in (("corpus", documents), ("queries", [row["query"] for row in lines[:8]])):
        content = [json.dumps({"_id": f"{name[0]}{i}", "text": t}) for i, t in enumerate(texts)]
        (town / f"{name}.jsonl").write_text("\n".join(content) + "\n")
    rows = "".join(f"q{i}\tc{i}\t1\n" for i in range(8))
    (town / "qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    (folder / "conf/benchmark").mkdir()
    (folder / "conf/benchmark/town.yaml").write_text(
        "root: sets\nlayout: beir\ndepth: 10\nsets:\n  town: {folder: town, prompt: Find it}\n"
    )
    process = Started(folder, *ADAPT, "trainer.steps=10", "run_dir=adapted")
    assert process.wait() == 0, process.printed
    return folder


def commanded(capfd: pytest.CaptureFixture[str], place: Path, *arguments: str) -> Ended:
    ended = run(capfd, place, *SMALL, *arguments)
    assert ended.code == 0, ended.err
    return ended


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    assert [path.name for path in folder.glob("*.safetensors")] == ["adapter_model.safetensors"]
    return load_file(folder / "adapter_model.safetensors")


def test_an_adapted_model_is_its_adapter_and_leaves_the_reading_open(place: Path) -> None:
    described = json.loads((place / "adapted/encoder/encoder.json").read_text())
    assert described.keys() == {"adapted", "bidirectional", "sha256"}
    record = json.loads((place / "adapted/encoder/adapter_config.json").read_text())
    assert (record["base_model_name_or_path"], record["r"]) == ("model", 4)
    kinds = {name.rpartition(".")[2] for name in record["target_modules"]}
    assert kinds == {f"{one}_proj" for one in ("q", "k", "v", "o", "gate", "up", "down")}
    values = adapter(place / "adapted/encoder")
    assert all(value.any() for name, value in values.items() if "lora_B" in name)  # were zeros
    made, given = (
        json.loads((place / f"{name}/tokenizer.json").read_text())
        for name in ("adapted/encoder", "model")
    )
    assert made | {"truncation": None} == given  # no end token, whatever pooling follows
    usage = json.loads((place / "adapted/data_usage.json").read_text())
    assert sum(one["drawn"] for one in usage.values()) == 120


@pytest.mark.parametrize("kind", ["sparse", "dense", "tdro"])
def test_training_begins_with_the_adapted_adapter_and_moves_it(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    base = fingerprint(place / "model")
    start = adapter(place / "adapted/encoder")
    seen: list[dict[str, torch.Tensor]] = []
    cls = TDROModule if kind == "tdro" else FinetuneModule

    def note(self: TDROModule | FinetuneModule) -> None:
        encoder, _ = self.encoders()
        assert isinstance(encoder, Encoder)
        assert not encoder.causal
        assert len(encoder.backbone.peft_config) == 1
        seen.append({n: v.detach().clone() for n, v in encoder.named_parameters()})

    monkeypatch.setattr(cls, "on_fit_start", note)
    stage = ("+experiment=tdro_qwen05b", "module.measurement=plain", "module.reference=null")
    chosen = stage if kind == "tdro" else (f"+experiment=lion/{kind}",)
    lora = () if kind == "tdro" else ("model.lora.r=8",)
    saved: list[dict[str, torch.Tensor]] = []
    end = {"on_train_end": lambda self: saved.append(dict(self.encoders()[0].named_parameters()))}
    monkeypatch.setattr(cls, "on_train_end", end["on_train_end"])
    path = ("model.path=adapted/encoder", "trainer.steps=3", f"run_dir={kind}")
    ended = commanded(capfd, place, *chosen, *TUNE, *lora, *path)
    if lora:
        assert "its adapter, of r 4, alpha 32 and dropout 0.05, is trained on" in ended.out
    names = {name: name.replace(".weight", ".default.weight") for name in start}
    for name, own in names.items():
        assert torch.equal(seen[0][f"backbone.{own}"], start[name]), name
    for name, value in seen[0].items():
        adapted = "lora_" in name
        assert torch.equal(saved[0][name], value) != adapted, name
    if kind != "tdro":
        after = adapter(place / kind / "encoder")
        assert after.keys() == start.keys()
        for name in start:
            assert torch.equal(after[name], saved[0][f"backbone.{names[name]}"])
    assert fingerprint(place / "model") == base


def test_a_tuned_folder_says_that_tokens_see_both_sides(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base's config, which is not in the folder, does not; without it vectors would differ."""
    monkeypatch.chdir(place)  # the adapter names its base as the command did
    limits = {"query_tokens": 40, "passage_tokens": 24}
    folder = str(place / "adapted/encoder")
    encoder = load_encoder(folder, pooling="mean", normalized=False, **limits).eval()
    encoder.save(tmp_path / "saved")
    again = load_encoder(str(tmp_path / "saved"), pooling="last", **limits).eval()
    assert (encoder.causal, again.causal) == (False, False)
    texts = ["red stone river", "night"]
    vectors = encoder.embed_passages(texts)
    assert (vectors == again.embed_passages(texts)).all()
    assert abs((vectors**2).sum(1) - 1).min() > 1e-3  # of no unit length
    one_way = load_encoder(folder, pooling="mean", bidirectional=False, **limits).eval()
    assert one_way.causal
    assert abs(one_way.embed_passages(texts) - vectors).max() > 1e-3


@pytest.mark.parametrize("kind", ["sp", "ds"])
def test_the_workflow_adapts_tunes_and_evaluates(
    place: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    given = (
        f"+experiment=lion_{kind}", *TUNE, "trainer.steps=2", "domains.only=null",
        "~chain.for_each.benchmark.beir", 'chain.for_each.benchmark.trec_dl=["benchmark=town"]',
        f"run_dir=lion_{kind}",
    )  # fmt: skip
    commanded(capfd, place, *given)
    folder = place / f"lion_{kind}"
    content = json.loads((folder / "trec_dl/metrics.json").read_text())
    assert set(content["retrievers"]) == {"bm25", f"lion_{kind}"}
    described = json.loads((folder / "tuned/encoder/encoder.json").read_text())
    head = described["head"]
    assert described["templates"]["query"] == "{text}"
    assert (head["scale"] == "quarter") if kind == "sp" else (head["normalized"] is False)
    record = json.loads((folder / "tuned/run.json").read_text())
    path = record["config"]["model"]["path"]
    assert path == f"lion_{kind}/adapt/encoder"  # not that of the command line
    assert adapter(folder / "tuned/encoder").keys() == adapter(folder / "adapt/encoder").keys()
    assert (folder / "report/report.md").is_file()


def test_a_killed_adaptation_ends_with_the_same_bits(place: Path, tmp_path: Path) -> None:
    for name in ("rows", "conf", "model"):
        shutil.copytree(place / name, tmp_path / name)
    length = ("trainer.steps=60", "trainer.checkpoint_every=2", "optimiser.warmup_steps=3")
    whole = Started(tmp_path, *ADAPT, *length, "run_dir=whole")
    killed = Started(tmp_path, *ADAPT, *length, "run_dir=killed")
    killed.send_when(signal.SIGKILL, lambda: any(tmp_path.glob("killed/checkpoints/step-*[468]")))
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/encoder").exists()
    again = Started(tmp_path, *ADAPT, *length, "run_dir=killed")
    assert (whole.wait(), again.wait()) == (0, 0), again.printed
    assert json.loads((tmp_path / "killed/run.json").read_text())["previous"] == "running"
    ours, theirs = (adapter(tmp_path / name / "encoder") for name in ("killed", "whole"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    histories = [
        [line for line in (tmp_path / name / "history.csv").open() if "speed/" not in line]
        for name in ("killed", "whole")
    ]
    assert histories[0] == histories[1]


def test_a_whole_model_can_be_adapted(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without an adapter, what follows trains all its weights, or a fresh adapter."""
    given = ("+experiment=adapt", "data.batch_size=6", "model.lora=null", "trainer.steps=2")
    commanded(capfd, place, *given, "run_dir=full")
    config = json.loads((place / "full/encoder/config.json").read_text())
    assert config["is_causal"] is False
    tune = ("+experiment=lion/sparse", *TUNE, "model.path=full/encoder", "trainer.steps=2")
    commanded(capfd, place, *tune, "run_dir=full_tuned")
    assert adapter(place / "full_tuned/encoder")


WRONG = {
    "one side": (("model.bidirectional=null",), "those of model.path=model see one; set model.bid"),
    "dense": (
        ("model.path=other/encoder", "model.lora=null"),
        "is an encoder with a dense head",
    ),
    "validation": (("validation=held_out",), "validation is for training with queries"),
    "plan": (("stage=plan",), "stage=plan does not count module=mntp yet"),
    "share": (("module.masked=1.5",), "module.masked=1.5 must be above 0 and below 1"),
    "schedule": (("optimiser.schedule=step",), "optimiser.schedule='step' must be one of cosine"),
    "temperature": (("module.temperature=1",), "it is of module=tdro, finetune"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_does_not_fit_is_refused_by_one_message(
    place: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    if not (place / "other").exists():
        limits = {"query_tokens": 40, "passage_tokens": 24}
        load_encoder(str(place / "model"), pooling="mean", **limits).save(place / "other/encoder")
    overrides, message = WRONG[kind]
    ended = run(capfd, place, *ADAPT, *overrides, "run_dir=wrong")
    assert ended.code == 2
    assert_one_message(ended, message)
