"""Training by masked next-token prediction: it learns, resumes, and spreads over processes."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.strategies import Strategy

from tdro_lightning.data.domains import load_domains
from tdro_lightning.data.masking import Masking, MaskingCollator
from tdro_lightning.data.passages import PassageDataset
from tdro_lightning.distributed.processes import process_group
from tdro_lightning.errors import NonFiniteError
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.sparse_head import SparseShape
from tdro_lightning.training.datamodules import PassageDataModule
from tdro_lightning.training.history import History
from tdro_lightning.training.mntp import MNTPModule
from tdro_lightning.training.optim import Optimisation
from tdro_lightning.training.strategies import OneDevice, checkpoint_activations, strategy
from tests.command import free_port
from tests.fixtures.training import NAMES
from tests.made_up import write_domains
from tests.models.test_sparse_encoder import write_llama
from tests.nightly import nightly_but
from tests.processes import in_processes
from tests.training.test_strategies import whole

OPTIMISATION = Optimisation(
    steps=20, lr=3e-2, warmup_steps=0, min_lr_ratio=0.0, weight_decay=0.0, clip_norm=1.0,
    schedule="linear",
)  # fmt: skip
LORA = Lora(2, 4, 0.0)
CASES: dict[str, dict[str, Any]] = {
    "lora": {"lora": LORA, "chunk_tokens": 60},
    "whole model": {"chunk_tokens": 60},
    "trained head": {"sparse": SparseShape(trained=True), "chunk_tokens": 10_000},
    "activation checkpointing": {"lora": LORA, "checkpointing": True},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Domains and language models with a tied and with an own head."""
    folder = tmp_path_factory.mktemp("mntp")
    write_domains(folder)
    write_llama(folder / "tied", True)
    write_llama(folder / "untied", False)
    return folder


def made(folder: Path, model: str = "tied", **settings: Any) -> tuple[MNTPModule, Any]:
    """A module on a fresh model, and its batches of 12 passages."""
    domains = load_domains(write_domains(folder), root=str(folder), hub=None, only=None)
    checkpointing = settings.pop("checkpointing", False)
    given = {"query_tokens": 24, "passage_tokens": 24, "bidirectional": True, "dtype": "float64"}
    given |= {"sparse": SparseShape(), **settings}
    torch.manual_seed(7)
    encoder = load_encoder(str(folder / model), pooling="mean", **given)
    if checkpointing:
        checkpoint_activations(encoder)
    masking = Masking(0.2, encoder.tokenizer.mask_id(), 300)
    data = PassageDataModule(
        PassageDataset(domains, 3),
        MaskingCollator(encoder.tokenizer, 24, masking, 3),
        batch_size=12,
        steps=20,
        seed=3,
        workers=0,
    )
    return MNTPModule(encoder, NAMES, OPTIMISATION, 3), data


def losses(folder: Path) -> list[float]:
    lines = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()]
    return [float(value) for _, name, value in lines if name == "loss"]


def test_the_loss_falls(place: Path, tmp_path: Path, fit: Any) -> None:
    module, data = made(place, lora=Lora(4, 8, 0.05), dtype="float32")
    fit(module, data, steps=20, logger=History(tmp_path))
    found = losses(tmp_path)
    assert len(found) == 20
    assert sum(found[-4:]) / 4 < 0.8 * sum(found[:4]) / 4
    text = (tmp_path / "history.csv").read_text()
    assert "0,masked_tokens," in text
    assert "19,lr," in text


def test_a_resumed_run_equals_an_uninterrupted_one(place: Path, tmp_path: Path, fit: Any) -> None:
    """With dropout, whose noise is a function of the step."""
    own = {"lora": Lora(2, 4, 0.3), "chunk_tokens": 60}
    undisturbed, data = made(place, **own)
    fit(undisturbed, data, steps=5)
    first, data = made(place, **own)
    fit(first, data, steps=3).save_checkpoint(tmp_path / "step-0000003")
    second, data = made(place, **own)
    data.step = 3
    fit(second, data, steps=5, ckpt_path=tmp_path / "step-0000003")
    theirs = dict(second.encoder.named_parameters())
    moved = 0
    for name, parameter in undisturbed.encoder.named_parameters():
        assert torch.equal(parameter, theirs[name]), name
        moved += not torch.equal(parameter, dict(first.encoder.named_parameters())[name])
    assert moved == 28  # matrices of the adapter: 2 for each of 7 kinds in 2 layers


def test_a_loss_that_is_nan_names_the_row(place: Path, fit: Any) -> None:
    module, data = made(place)
    module.encoder.backbone.embed_tokens.weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"language model losses are not finite.*(easy|hard)-"):
        fit(module, data, steps=1)


def trained(folder: Path, case: str, model: str, plan: Strategy) -> dict[str, torch.Tensor]:
    """Parameters and loss after three float64 steps under a strategy."""
    torch.set_num_threads(1)
    module, data = made(folder, model, **CASES[case])
    trainer = Trainer(
        max_steps=3, max_epochs=-1, accelerator="cpu", strategy=plan, logger=False,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, data)
    found = {name: value.detach() for name, value in whole(module)}
    return found | {"loss": torch.as_tensor(trainer.callback_metrics["loss"])}


def work(number: int, folder: Path, port: int, runs: list[tuple[str, str, str]]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    with process_group():
        for kind, case, model in runs:
            found = trained(folder, case, model, strategy(kind, 2))
            torch.save(found, folder / f"{kind} {case} {model} {number}.pt")


RUNS = [
    (kind, case, model)
    for kind in ("ddp", "fsdp")
    for case in CASES
    for model in ("tied", "untied")
    if (kind, case) != ("fsdp", "trained head")  # refused there
]


@pytest.mark.parametrize(
    "runs", nightly_but([[("ddp", "lora", "untied"), ("fsdp", "lora", "tied")]],
                        [[("ddp", "lora", "untied"), ("fsdp", "lora", "tied")], RUNS])
)  # fmt: skip
def test_two_processes_train_as_one(place: Path, runs: list[tuple[str, str, str]]) -> None:
    in_processes(2, work, place, free_port(), runs)
    for kind, case, model in runs:
        alone = trained(place, case, model, OneDevice("cpu"))
        for number in (0, 1):
            found = torch.load(place / f"{kind} {case} {model} {number}.pt")
            assert found.keys() == alone.keys()
            for name, value in alone.items():
                torch.testing.assert_close(
                    found[name].double(), value.double(), rtol=1e-9, atol=1e-9
                )
