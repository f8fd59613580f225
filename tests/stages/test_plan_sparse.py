"""The stage `plan` of sparse vectors, as a user runs it."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from transformers import ViTConfig

from tdro_lightning.config.shipped import conf_folder
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.sparse_head import SparseShape
from tests.command import run
from tests.fixtures.plans import FAST, Planned, write_town
from tests.made_up import tiny_model
from tests.models.test_sparse_encoder import write_bert, write_llama
from tests.nightly import nightly_but

EXPERIMENTS = conf_folder() / "experiment"
VOCABULARY, WIDTH = 151_936, 1024  # of Qwen1.5-0.5B, the model of the shipped experiments


def sparse_experiments() -> list[str]:
    """Names of the shipped experiments whose own file sets a sparse head."""
    files = {
        str(p.relative_to(EXPERIMENTS).with_suffix("")): p for p in EXPERIMENTS.rglob("*.yaml")
    }
    return sorted(
        name
        for name, file in files.items()
        if OmegaConf.select(OmegaConf.load(file), "model.head") == "sparse"
        and not file.name.startswith("_")
    )


def test_there_is_a_sparse_experiment() -> None:
    assert "finetune_sparse" in sparse_experiments()


@pytest.mark.parametrize("name", sparse_experiments())
def test_every_sparse_experiment_is_planned(plan: Planned, name: str) -> None:
    ended, content = plan(name, FAST)
    assert ended.code == 0, ended.err
    assert content["shape"]["output"]["terms"] > 0
    assert not content["trial"]["whole"]
    assert "terms active, as they may be" in ended.out


def test_the_numbers_of_a_fine_tuning_by_hand(plan: Planned) -> None:
    given = ("model=qwen05b", "trainer.devices=8", "data.batch_size=800", "benchmark=beir15", FAST)
    _, dense = plan("finetune_uniform", *given)
    ended, sparse = plan("finetune_sparse", *given)
    assert ended.code == 0, ended.err
    # Qwen1.5-0.5B's head is its embeddings, which the backbone has.
    output = {"terms": VOCABULARY, "values": 0, "tied": True, "trained": False, "stored_bytes": 4}
    assert sparse["shape"] == dense["shape"] | {"output": output}
    # The last layer's feed-forward block runs for all tokens now, forward and backward.
    block = 4 * 3 * WIDTH * 2816
    head = 2 * VOCABULARY * WIDTH
    assert sparse["flops_per_token"] == dense["flops_per_token"] + block + head
    assert sparse["cost"]["flops"] == 1000 * sparse["cost"]["tokens"] * sparse["flops_per_token"]
    for case, before in zip(sparse["cases"], dense["cases"], strict=True):
        devices, own = case["devices"], 800 // case["devices"] * 3
        everyone = 0 if devices == 1 else 800 * 2
        texts = min(own, 16384 // 128)
        vectors = (4 * own + 2 * everyone) * VOCABULARY * 4
        pooled = texts * VOCABULARY * 4
        added = vectors + 5 * pooled - 2 * 4 * WIDTH * (own + everyone)
        assert case["bytes"]["activations"] - before["bytes"]["activations"] == added
        gathered = 4 * VOCABULARY * WIDTH if case["strategy"] == "fsdp" else 0
        assert case["bytes"]["parameters"] - before["bytes"]["parameters"] == gathered
    found, before = sparse["evaluation"], dense["evaluation"]
    assert (found["documents"], found["terms"]) == (before["documents"], 400)
    assert before["terms"] is None
    postings = 400 * found["documents"]
    assert found["bytes"] == pytest.approx(2 * 8 * postings + 8 * found["documents"], rel=0.01)
    words = " ".join(ended.out.split())
    assert "for sparse embeddings and their inverted indexes until its end" in words
    assert "with 400 active terms a document (assumed;" in words
    assert max(map(len, ended.out.partition("Not on this machine")[0].splitlines())) <= 80


def test_the_time_of_a_head_is_counted_by_its_kernels(plan: Planned) -> None:
    """The head of a model in float32 multiplies in float32, whatever the precision of the run."""
    speed = {
        name: plan(name, "model=qwen05b")[1]["cost"]["tokens_per_second"]
        for name in ("finetune_uniform", "finetune_sparse")
    }
    seconds = 1 / speed["finetune_sparse"] - 1 / speed["finetune_uniform"]
    products = 2 * VOCABULARY * WIDTH / (0.6 * 66.9e12)  # an H100's float32
    # Of a step all but the kept tokens run forward twice, and a tile's logits move memory.
    assert 1.9 * products < seconds < 3 * products


def test_an_untied_head_that_learns_is_held_and_saved(plan: Planned) -> None:
    head = 151_936 * 2048  # of Qwen1.5-1.8B
    given = ("model=qwen18b", FAST, "trainer.checkpoint_every=500")
    frozen, learning = (
        plan("finetune_sparse", *given, f"model.sparse.trained={value}")[1]
        for value in ("false", "true")
    )
    assert frozen["shape"]["output"]["values"] == learning["shape"]["output"]["values"] == head
    before, after = (content["cases"][0]["bytes"] for content in (frozen, learning))
    assert before["parameters"] == after["parameters"] > 2 * (1_836_828_672 - head) + 2 * head
    assert after["gradients"] - before["gradients"] == 2 * 2 * head
    assert after["optimiser"] - before["optimiser"] == 2 * 2 * head
    # The encoder, and two checkpoints with both moments.
    assert learning["kept_bytes"] - frozen["kept_bytes"] == 2 * head * (1 + 2 * 3)
    assert {case["strategy"] for case in learning["cases"]} == {"single", "ddp"}
    assert {case["strategy"] for case in frozen["cases"]} == {"single", "ddp", "fsdp"}


def test_what_a_run_refuses_a_plan_refuses(plan: Planned, tmp_path: Path) -> None:
    sharded = ("model=qwen18b", "strategy=fsdp", "trainer.devices=8", FAST)
    ended, content = plan("finetune_sparse", *sharded, "model.sparse.trained=true")
    assert (ended.code, content) == (2, {})
    assert "strategy=fsdp does not shard the head of this model" in ended.err
    ViTConfig().save_pretrained(tmp_path / "vit")
    ended, content = plan("finetune_sparse", "model.path=vit", FAST)
    assert (ended.code, content) == (2, {})
    assert "model.head=sparse needs a language model, and model.path=vit is a vit" in ended.err


def test_a_regulariser_keeps_tdro_from_one_pass(plan: Planned) -> None:
    """It depends on all rows, so no domain has a gradient of its own."""
    given = ("model=llama8b", "model.head=sparse", "module.temperature=1", FAST)
    _, plain = plan("tdro_qwen05b", *given)
    kind = "module.sparsity={kind: flops, queries: 0.05, passages: 0.04, ramp: 0.33}"
    ended, regularised = plan("tdro_qwen05b", *given, kind)
    assert ended.code == 0, ended.err
    adapter = 4 * 20_971_520
    first, second = (content["cases"][0]["bytes"] for content in (plain, regularised))
    assert first["gradients"] - second["gradients"] == 25 * adapter
    head = 128_256 * 4096
    assert plain["shape"]["output"]["values"] == head
    # On one device the reference is an adapter on the proxy's base, with the proxy's head.
    assert first["reference"] == adapter
    assert plain["cases"][4]["bytes"]["reference"] > 2 * head


@pytest.mark.parametrize(
    "write", [lambda f: write_llama(f, False), write_bert], ids=["llama", "bert"]
)
def test_whole_steps_are_tried_and_a_run_follows(
    plan: Planned, made: tuple[str, ...], capfd: pytest.CaptureFixture[str], tmp_path: Path, write
) -> None:
    write(tmp_path / "model")
    ended, content = plan("finetune_sparse", *made, "model.pooling=mean")
    assert ended.code == 0, ended.err
    assert content["trial"]["whole"]
    assert content["trial"]["steps"] >= 2
    assert content["here"]["process_gb"] > 0
    ended = run(capfd, tmp_path, *made, "+experiment=finetune_sparse", "run_dir=run")
    assert ended.code == 0, ended.err
    # What is saved is counted: weights and a little beside them.
    saved = sum(p.stat().st_size for p in (tmp_path / "run/encoder").glob("*.safetensors"))
    assert content["kept_bytes"] == pytest.approx(saved, rel=0.2)


def test_the_folder_of_an_encoder_says_its_head(
    plan: Planned, made: tuple[str, ...], tmp_path: Path
) -> None:
    """As a run reads it, whatever is asked for."""
    write_llama(tmp_path / "lm", tied=False)
    limits = {"query_tokens": 40, "passage_tokens": 24}
    for name, shape in (("sparse", SparseShape()), ("dense", None)):
        encoder = load_encoder(str(tmp_path / "lm"), pooling="mean", sparse=shape, **limits)
        encoder.save(tmp_path / name)
    _, found = plan("finetune_uniform", *made, "model.path=sparse", FAST)
    assert found["shape"]["output"]["values"] == 300 * 16
    _, found = plan("finetune_sparse", *made, "model.path=dense", FAST)
    assert found["shape"]["output"] is None


def test_an_evaluation_of_sparse_encoders_is_planned(
    plan: Planned, made: tuple[str, ...], tmp_path: Path
) -> None:
    write_town(tmp_path)
    write_llama(tmp_path / "model", tied=False)
    sets = ("+benchmark.layout=beir", "+benchmark.root=sets", "+benchmark.depth=10")
    sets = (*sets, "+benchmark.sets.town.folder=town", "+evaluate.encoders.one=model")
    ended, content = plan("evaluate", *made, *sets, "model.head=sparse", FAST)
    assert ended.code == 0, ended.err
    found = content["evaluation"]
    assert found["terms"] == 300, "a document has no more terms than the vocabulary"
    assert found["bytes"] == 30 * (2 * 8 * 300 + 8) + 8 * 301
    dense = plan("evaluate", *made, *sets, FAST)[1]
    assert content["memory_bytes"] - dense["memory_bytes"] == 4 * 300 * 16


@pytest.mark.parametrize(
    "name",
    nightly_but(
        ["modernbert_base"],
        [
            *("modernbert_base", "eurobert_210m", "bge_m3", "mpnet", "nomic", "arctic_m"),
            *("llama32_1b", "qwen3_06b", "mistral7b", "smollm2_135m", "harrier_270m"),
        ],
    ),
)
def test_families_of_language_models_are_planned(plan: Planned, name: str) -> None:
    """From their shapes alone; the small trial sees that their logits are those of the head."""
    ended, content = plan("finetune_sparse", f"model={name}")
    assert ended.code == 0, ended.err
    assert content["shape"]["output"]["terms"] > 30_000


def test_a_model_without_a_head_of_its_own_is_still_dense(
    plan: Planned, made: tuple[str, ...], tmp_path: Path
) -> None:
    tiny_model(tmp_path / "model")
    ended, content = plan("finetune_uniform", *made, FAST)
    assert ended.code == 0, ended.err
    assert content["shape"]["output"] is None
    assert "terms active" not in ended.out
