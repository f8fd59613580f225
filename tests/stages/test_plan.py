"""The stage `plan` as a user runs it; the models are the published ones, without weights."""

import json
import re
from pathlib import Path

import pytest

from tdro_lightning.config.schema import ModelConfig
from tdro_lightning.errors import ConfigError
from tdro_lightning.planning.memory import Memory
from tdro_lightning.planning.model import resized_model
from tests.command import run
from tests.fixtures.plans import FAST, Planned
from tests.made_up import tiny_model


def test_a_tdro_stage_without_a_reference_yet(plan: Planned, tmp_path: Path) -> None:
    ended, content = plan("tdro_qwen05b", "model=llama8b", FAST)
    assert ended.code == 0, ended.err
    assert content["model"] == "meta-llama/Meta-Llama-3-8B"
    assert content["module"] == "tdro"
    assert content["shape"]["frozen"] == 7_504_924_672
    assert content["shape"]["trained"] == 20_971_520
    ways = [(c["strategy"], c["devices"], c["activation_checkpointing"]) for c in content["cases"]]
    assert ways == [
        (strategy, devices, checkpointing)
        for strategy, devices in (("single", 1), ("ddp", 8), ("fsdp", 8))
        for checkpointing in (False, True)
    ]
    for case in content["cases"]:
        parts = dict(case["bytes"])
        total = parts.pop("total")
        assert total == Memory(**parts).total
        assert f"{total / 1e9:.1f}" in ended.out
        assert case["tokens"] == 16384
        # An adapter beside the proxy's, but under FSDP a model of its own.
        shares = case["strategy"] == "fsdp"
        assert parts["reference"] == 4 * 20_971_520 or shares
        assert parts["reference"] > 2 * 7_504_924_672 / 8 or not shares
        assert parts["gradients"] >= 26 * 4 * 20_971_520 or shares  # 25 domains, and their sum
    assert re.search(r"^parameters +15\.1 +15\.1 ", ended.out, re.MULTILINE)
    assert "7,525.9 M parameters, 21.0 M of them trained (LoRA)" in ended.out
    assert not (tmp_path / "plan" / "run.json").exists(), "a plan is no run"


def test_all_weights_need_16_bytes_each(plan: Planned) -> None:
    ended, content = plan("finetune_top70", "model=full/llama8b", "trainer.precision=32-true", FAST)
    assert ended.code == 0, ended.err
    single = content["cases"][0]["bytes"]
    held = single["parameters"] + single["gradients"] + single["optimiser"]
    assert held == 16 * 7_504_924_672
    assert single["reference"] == 0
    assert content["cases"][0]["cards"] == []
    assert "none" in ended.out


def test_the_configuration_s_devices_and_tokens_are_used(plan: Planned) -> None:
    small = ("trainer.chunk_tokens=2000", "trainer.kept_tokens=3000", "data.batch_size=64", FAST)
    _, content = plan("tdro_qwen05b", "trainer.devices=4", *small)
    assert [case["devices"] for case in content["cases"]] == [1, 1, 4, 4, 4, 4]
    assert {case["tokens"] for case in content["cases"]} == {3000}
    short = ("data.query_tokens=2", "data.passage_tokens=2", "data.negatives=2")
    _, content = plan("tdro_qwen05b", "trainer.devices=4", *small, *short)
    assert [case["tokens"] for case in content["cases"]] == [512, 512, 128, 128, 128, 128]


def test_no_reference_is_counted_where_the_measurement_needs_none(plan: Planned) -> None:
    ended, content = plan("tdro_qwen05b", "module=group_dro", FAST)
    assert ended.code == 0, ended.err
    assert {case["bytes"]["reference"] for case in content["cases"]} == {0}


def test_fine_tuning_holds_the_passages_of_all_devices(plan: Planned) -> None:
    cases = plan("finetune_uniform", "data.batch_size=800", FAST)[1]["cases"]
    single, ddp = cases[0]["bytes"], cases[2]["bytes"]
    vectors = {1: 800 * 3, 8: 100 * 3 + 800 * 2}
    difference = 2 * 4 * 1024 * (vectors[1] - vectors[8])
    assert single["activations"] - ddp["activations"] == difference


def test_a_local_model_s_own_shape_is_counted(plan: Planned, tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    overrides = ("model=tiny", "model.path=model", "data.batch_size=25")
    ended, content = plan("tdro_qwen05b", *overrides)
    assert ended.code == 0, ended.err
    assert content["shape"]["hidden"] == 16
    assert content["shape"]["layers"] == 1
    ended, content = plan("tdro_qwen05b", "model.path=model", "model.lora=null")
    assert content["shape"]["hidden"] == 16, "the folder that a run would load goes first"


def test_without_a_shape_the_key_is_named(plan: Planned) -> None:
    ended, _ = plan("tdro_qwen05b", "model.architecture=null")
    assert ended.code == 2
    assert "error: model.architecture is not set, and model.path=Qwen/Qwen1.5-0.5B" in ended.err


def test_a_misspelt_field_of_the_shape_is_refused(plan: Planned) -> None:
    ended, _ = plan("tdro_qwen05b", "+model.architecture.hiden_size=8")
    assert ended.code == 2
    assert "model.architecture.hiden_size is not a field of qwen2; did you mean hid" in ended.err


def test_training_still_needs_its_reference(plan: Planned) -> None:
    ended, _ = plan("tdro_qwen05b", "stage=fit")
    assert ended.code == 2
    assert "module.reference is not set" in ended.err


def test_the_paper_s_run_in_epochs_hours_and_money(plan: Planned) -> None:
    ended, content = plan("tdro_qwen05b", "trainer.devices=8", "plan.price=3", "plan.mfu=0.4")
    assert ended.code == 0, ended.err
    share = content["domains"]["agnews"]
    assert share["epochs"] == pytest.approx(1000 * 2048 / 25 / 1_157_745, rel=1e-3)
    assert sum(one["drawn"] for one in content["domains"].values()) == 1000 * 2048
    tokens = 2048 * (128 + 8 * 512)
    # An adapter trains beside frozen weights (4 a token), a reference runs (2); neither the
    # embeddings nor the last layer's feed-forward block see every token.
    flops = 6 * (content["shape"]["frozen"] - 151936 * 1024 - 3 * 1024 * 2816)
    hours = 1000 * tokens * flops / (8 * 0.4 * 989e12) / 3600
    cost = content["cost"]
    assert content["flops_per_token"] == flops
    assert cost["tokens"] == tokens
    assert cost["hours"] == pytest.approx(hours)
    assert cost["price"] == pytest.approx(hours * 8 * 3)
    assert f"{hours:.3g} hours on 8 devices" in ended.out
    for key in ("domains.hub=", "model.path=Qwen/Qwen1.5-0.5B", "module.reference is not set"):
        assert f"Not on this machine: {key}" in ended.out
    assert not content["trial"]["whole"]
    ended, content = plan("tdro_qwen05b", "trainer.devices=8", "plan.tokens_per_second=1e6")
    assert content["cost"]["hours"] == pytest.approx(1000 * tokens / 8e6 / 3600)


def test_the_speed_of_a_small_lora_model_is_counted_by_bytes(plan: Planned) -> None:
    """Bytes of Qwen1.5-0.5B's 24 layers a token, as its operations moved them when run on a CPU."""
    ended, content = plan("tdro_qwen05b")
    assert ended.code == 0, ended.err
    cost = content["cost"]
    moved = 24 * (774e3 - 143e3 + 980e3 + 298e3)  # forward less two kernels of dropout, backward,
    slowest = 1 / (moved / (0.9 * 3.35e12))  # and reference, at an H100's bandwidth
    assert 0.7 * slowest < cost["tokens_per_second"] < 1.0 * slowest
    assert cost["mfu"] == pytest.approx(
        content["flops_per_token"] * cost["tokens_per_second"] / 989e12
    )
    assert cost["hours"] == pytest.approx(
        1000 * cost["tokens"] / cost["tokens_per_second"] / 3600, rel=1e-9
    )
    for words in (
        f"{cost['tokens_per_second']:,.0f} tokens a second and device, {cost['mfu']:.1%} of its",
        "Counted, not measured",
        "60% of the data sheet's FLOPs and 90% of its bandwidth (assumed)",
    ):
        assert words in ended.out
    _, assumed = plan("tdro_qwen05b", FAST)
    assert 2.5 < cost["hours"] / assumed["cost"]["hours"] < 5


def test_what_runs_twice_takes_time(plan: Planned) -> None:
    """A part of a step is run again without room for its activations, or to save their room."""
    small = ("data.batch_size=16", "trainer.chunk_tokens=4096", "model=full/qwen05b")
    room = "trainer.kept_tokens=100000"
    speed = {
        changes: plan("finetune_uniform", *small, *changes)[1]["cost"]["tokens_per_second"]
        for changes in (
            (room,), ("trainer.kept_tokens=0",), (room, "strategy.activation_checkpointing=true"),
        )
    }  # fmt: skip
    whole, cached, checkpointed = (1 / value for value in speed.values())
    tokens = 16 * (128 + 2 * 512)
    assert (cached - whole) / (checkpointed - whole) == pytest.approx(1 - 4096 / tokens)
    # Of a forward and a backward pass (twice as long, or a little more) one is run again.
    assert 0.25 < (checkpointed - whole) / whole < 0.4


def test_kernels_that_cannot_be_counted_are_named(plan: Planned) -> None:
    kind = "model.architecture.model_type=qwen3_moe"
    ended, _ = plan("finetune_uniform", "model=full/qwen05b", kind)
    assert ended.code == 2
    assert "stage=plan cannot count the kernels of a qwen3_moe (" in ended.err
    assert "give plan.mfu or plan.tokens_per_second" in ended.err


def test_layers_inside_a_section_of_their_own_are_refused() -> None:
    """Models of texts and images nest their shapes."""
    text = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "head_dim": 8}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 300_000}
    shape = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 144}}
    model = ModelConfig("", "last", "float32", "auto", architecture=shape)
    with pytest.raises(ConfigError, match="cannot count the layers of a gemma3"):
        resized_model(model, {"num_hidden_layers": 2}, "meta")


def test_an_unknown_gpu_is_refused(plan: Planned) -> None:
    ended, _ = plan("tdro_qwen05b", "plan.gpu=H1000")
    assert ended.code == 2
    assert "plan.gpu='H1000' must be one of H200, H100" in ended.err


def test_a_plan_foretells_a_run(
    plan: Planned, made: tuple[str, ...], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ended, content = plan("finetune_uniform", *made)
    assert ended.code == 0, ended.err
    assert "Not on this machine" not in ended.out
    assert content["trial"]["whole"]
    ended = run(capfd, tmp_path, *made, "+experiment=finetune_uniform", "run_dir=run")
    assert ended.code == 0, ended.err
    usage = json.loads((tmp_path / "run" / "data_usage.json").read_text())
    for name, share in content["domains"].items():
        assert {key: share[key] for key in usage[name]} == usage[name]
        assert share["passages"] == 40 * 8
        assert sum(share["passage_lengths"]) == 40 * 2
    lines = (tmp_path / "run" / "history.csv").read_text().splitlines()[1:]
    logged: dict[str, list[float]] = {}
    for _, metric, value in (line.split(",") for line in lines):
        logged.setdefault(metric, []).append(float(value))
    passages, tokens = (logged[f"speed/{what}_per_second"] for what in ("passages", "tokens"))
    assert content["cost"]["tokens"] == pytest.approx(24 * tokens[0] / passages[0], rel=0.1)
    # The first step waits for the loader; the machine of a test may be busy now and not then.
    seconds = sum(24 / speed for speed in passages[1:]) * 12 / 11
    assert seconds / 5 < content["here"]["seconds"] < 5 * seconds
    peak = max(logged["speed/peak_process_gb"])
    assert content["here"]["process_gb"] == pytest.approx(peak, rel=0.3)


def test_tables_and_words_fit_80_columns(
    plan: Planned, made: tuple[str, ...], tmp_path: Path
) -> None:
    """With and without rows; names that are longer are broken."""
    option = tmp_path / "conf/domains/made.yaml"
    name = "stackexchange_duplicate_questions_title-body_title-body"
    option.write_text(option.read_text().replace("easy:", f"{name}:"))
    for given in (made, (*made, "domains.root=nowhere"), ("--config-dir=conf", "domains=paper25")):
        ended, content = plan("finetune_uniform", *given)
        assert ended.code == 0, ended.err
        lines = ended.out.splitlines()
        written = [line for line in lines if not line.startswith("Not on this machine")]
        assert max(map(len, written)) <= 80, max(written, key=len)
        total = content["cases"][0]["bytes"]["total"]
        assert re.search(rf"^total +{total / 1e9:.1f} ", ended.out, re.MULTILINE)
        names = [line.split("  ")[0].strip() for line in lines]
        assert all(domain in "".join(names) for domain in content["domains"])


def test_prompts_and_limits_that_cannot_be_are_refused(
    plan: Planned, made: tuple[str, ...]
) -> None:
    ended, content = plan("finetune_uniform", *made, "data.query_tokens=30")
    assert (ended.code, content) == (2, {})
    assert "data.query_tokens=30: the prompt 'Find it' of domain easy takes 24" in ended.err
    ended, content = plan("finetune_uniform", *made, "data.passage_tokens=513")
    assert (ended.code, content) == (2, {})
    assert "data.passage_tokens=513: model.path=model has positions for 512" in ended.err


def test_a_bad_row_is_found_before_paying(
    plan: Planned, made: tuple[str, ...], tmp_path: Path
) -> None:
    with (tmp_path / "rows" / "hard.jsonl").open("a") as stream:
        stream.write('{"query_id": "x"}\n')
    ended, content = plan("finetune_uniform", *made)
    assert ended.code == 3
    assert "hard.jsonl:41: " in ended.err
    assert not content


@pytest.mark.parametrize(
    "given",
    [["demo/harvest"], ["export", "export.encoder=model"], ["validate"]],
    ids=lambda given: given[0],
)
def test_what_trains_nothing_is_checked_only(
    given: list[str], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ended = run(capfd, tmp_path, f"+experiment={given[0]}", *given[1:], "stage=plan", "run_dir=p")
    assert ended.code == 0, ended.err
    assert "trains nothing" in ended.out


def test_weights_of_other_rows_are_found_before_paying(
    plan: Planned, made: tuple[str, ...], tmp_path: Path
) -> None:
    """As a run refuses them."""
    weights = {"easy": 0.2, "middle": 0.3, "hard": 0.5}
    content = {"domain_weights": weights, "size": {"easy": 40, "middle": 40, "hard": 39}}
    (tmp_path / "weights.json").write_text(json.dumps(content))
    ended, content = plan("finetune_top70", *made, "transfer.weights=weights.json")
    assert ended.code == 3
    assert "learned on other rows of hard (39 rows then, 40 now)" in ended.err
    assert not content
    ended, content = plan(
        "finetune_top70", *made, "transfer.weights=weights.json", "transfer.same_data=false"
    )
    assert ended.code == 0, ended.err
    assert content["domains"]["hard"]["probability"] == 0.5
