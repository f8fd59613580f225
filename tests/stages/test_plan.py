"""The stage `plan` as a user runs it; the models are the published ones, without weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.memory import Memory
from tests.command import Ended, run
from tests.made_up import tiny_model

Planned = Callable[..., tuple[Ended, dict[str, Any]]]


@pytest.fixture
def plan(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Planned:
    """Run `stage=plan` and read its file."""

    def planned(experiment: str, *overrides: str) -> tuple[Ended, dict[str, Any]]:
        given = (f"+experiment={experiment}", "stage=plan", "run_dir=plan", *overrides)
        ended = run(capfd, tmp_path, *given)
        file = tmp_path / "plan" / "plan.json"
        return ended, json.loads(file.read_text()) if file.exists() else {}

    return planned


def test_a_tdro_stage_without_a_reference_yet(plan: Planned, tmp_path: Path) -> None:
    ended, content = plan("tdro_qwen05b", "model=llama8b")
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
    assert "single           1   no                    15.1" in ended.out
    assert "7,525.9 M parameters, 21.0 M of them trained (LoRA)" in ended.out
    record = json.loads((tmp_path / "plan" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["inputs"] == {}
    assert "plan.json" in record["outputs"]


def test_all_weights_need_16_bytes_each(plan: Planned) -> None:
    ended, content = plan("finetune_top70", "model=full/llama8b", "trainer.precision=32-true")
    assert ended.code == 0, ended.err
    single = content["cases"][0]["bytes"]
    held = single["parameters"] + single["gradients"] + single["optimiser"]
    assert held == 16 * 7_504_924_672
    assert single["reference"] == 0
    assert content["cases"][0]["cards"] == []
    assert "none" in ended.out


def test_the_configuration_s_devices_and_tokens_are_used(plan: Planned) -> None:
    small = ("trainer.chunk_tokens=2000", "trainer.kept_tokens=3000", "data.batch_size=64")
    _, content = plan("tdro_qwen05b", "trainer.devices=4", *small)
    assert [case["devices"] for case in content["cases"]] == [1, 1, 4, 4, 4, 4]
    assert {case["tokens"] for case in content["cases"]} == {3000}
    short = ("data.query_tokens=1", "data.passage_tokens=2", "data.negatives=2")
    _, content = plan("tdro_qwen05b", "trainer.devices=4", *small, *short)
    assert [case["tokens"] for case in content["cases"]] == [448, 448, 112, 112, 112, 112]


def test_no_reference_is_counted_where_the_measurement_needs_none(plan: Planned) -> None:
    ended, content = plan("tdro_qwen05b", "module=group_dro")
    assert ended.code == 0, ended.err
    assert {case["bytes"]["reference"] for case in content["cases"]} == {0}


def test_fine_tuning_holds_the_passages_of_all_devices(plan: Planned) -> None:
    cases = plan("finetune_uniform", "data.batch_size=800")[1]["cases"]
    single, ddp = cases[0]["bytes"], cases[2]["bytes"]
    vectors = {1: 800 * 3, 8: 100 * 3 + 800 * 2}
    difference = 2 * 4 * 1024 * (vectors[1] - vectors[8])
    assert single["activations"] - ddp["activations"] == difference


def test_a_local_model_s_own_shape_is_counted(plan: Planned, tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    overrides = ("model=tiny", "model.path=model", "data.batch_size=6")
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
