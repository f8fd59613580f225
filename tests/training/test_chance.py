"""Training in which all vectors are equal: the loss stays at ln(candidates), with a warning."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer

from tdro_lightning.console.output import collect_warnings
from tdro_lightning.data.domains import load_domains
from tdro_lightning.training.finetune import FinetuneModule
from tdro_lightning.training.strategies import strategy
from tests.fixtures.evaluation import in_two_processes
from tests.fixtures.training import OPTIMISATION, Parts
from tests.made_up import tiny_model, write_domains

STEPS = 22
STILL = dataclasses.replace(OPTIMISATION, steps=STEPS, lr=0.0)
Fit = Callable[..., Trainer]


def equal_vectors(module: LightningModule) -> LightningModule:
    """The module with every token embedded alike, so that every text has the same vector."""
    encoder = module.encoder if isinstance(module, FinetuneModule) else module.proxy
    embedding = encoder.backbone.embed_tokens.weight
    embedding.data[:] = embedding.data[0].clone()
    return module


@pytest.fixture(params=["finetune", "tdro"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(parts: Parts, kind: str, steps: int = STEPS) -> tuple[LightningModule, object]:
    if kind == "finetune":
        module: LightningModule = parts.finetune(optimisation=STILL)
        return module, parts.homogeneous(module.encoder, steps=steps)
    module = parts.tdro(optimisation=STILL)
    return module, parts.heterogeneous(module.proxy, steps=steps)


def test_equal_vectors_are_warned_of(parts: Parts, fit: Fit, kind: str) -> None:
    """Eq. 7 has all 24 passages of the batch as candidates, Eq. 2 the row's own 4."""
    module, data = made(parts, kind)
    with collect_warnings() as found:
        trainer = fit(equal_vectors(module), data, steps=STEPS)
    candidates = {"finetune": 24, "tdro": 4}[kind]
    chance = torch.log(torch.tensor(float(candidates)))
    assert float(trainer.callback_metrics["loss"]) == pytest.approx(float(chance), rel=1e-5)
    assert len(found) == 1
    assert f"ln({candidates}) = {chance:.3f} for 20 steps, up to step 20," in found[0]
    for cause in ("optimiser.lr=0", "optimiser.warmup_steps=2", "module.temperature=0.05"):
        assert cause in found[0]


def test_a_model_that_learns_is_not(parts: Parts, fit: Fit, kind: str) -> None:
    module, data = made(parts, kind)
    module.optimisation = dataclasses.replace(OPTIMISATION, steps=STEPS)
    with collect_warnings() as found:
        fit(module, data, steps=STEPS)
    assert found == []


def test_a_resumed_run_warns_as_one_left_alone(
    parts: Parts, fit: Fit, kind: str, tmp_path: Path
) -> None:
    module, data = made(parts, kind)
    with collect_warnings() as found:
        trainer = fit(equal_vectors(module), data, steps=15)
        trainer.save_checkpoint(tmp_path / "step-0000015")
        assert found == []
        module, data = made(parts, kind)
        trainer = fit(module, data, steps=STEPS, ckpt_path=tmp_path / "step-0000015")
        trainer.save_checkpoint(tmp_path / "step-0000022")
    with collect_warnings() as again:
        module, data = made(parts, kind, steps=24)
        fit(module, data, steps=24, ckpt_path=tmp_path / "step-0000022")
    assert len(found) == 1
    assert "up to step 20," in found[0]
    assert again == found


def two(folder: Path) -> None:
    """The fine-tuning as one of two processes; its warnings are written."""
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    domains = load_domains(write_domains(folder), root=str(folder), hub=None, only=None)
    module, data = made(Parts(domains, str(folder / "model"), ""), "finetune")
    trainer = Trainer(
        max_steps=STEPS, max_epochs=-1, accelerator="cpu", strategy=strategy("ddp", 2), devices=2,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder,
    )  # fmt: skip
    with collect_warnings() as found:
        trainer.fit(equal_vectors(module), data)
    (folder / f"warnings {os.environ['RANK']}").write_text("\n".join(found))


def test_two_processes_count_the_candidates_of_both(tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    in_two_processes(two, tmp_path)
    for number in range(2):
        assert "of ln(24) = 3.178" in (tmp_path / f"warnings {number}").read_text()
