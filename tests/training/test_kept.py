"""What is kept of the best step: a copy that later steps do not touch, also where it is sharded."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from tdro_lightning.data.domains import load_domains
from tdro_lightning.distributed.processes import process_group
from tdro_lightning.dro.weights import DomainWeights
from tdro_lightning.models.adapter import Lora
from tdro_lightning.training.callbacks.validation import BestStep, BestStepKept
from tdro_lightning.training.checkpoint import read_checkpoint
from tdro_lightning.training.kept import KeptParameters, KeptWeights
from tdro_lightning.training.strategies import strategy
from tests.command import free_port
from tests.fixtures.training import Parts
from tests.made_up import tiny_model, write_domains
from tests.processes import in_processes


class Scripted:
    """Stands for dev sets: given scores, one after the other, and a look at the encoder's mode."""

    def __init__(self, *values: float) -> None:
        self.values = [*values]
        self.modes: list[bool] = []

    def __call__(self, encoder: Any, device: torch.device) -> dict[str, float]:
        self.modes.append(encoder.training)
        return {"ndcg@10": self.values.pop(0)}


class Snapshots(Callback):
    """Whole trained parameters after each step."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: object) -> None:
        whole = trainer.strategy.lightning_module_state_dict()
        self.after[trainer.global_step] = {name: v.clone() for name, v in whole.items()}


def parameters(module: LightningModule) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in module.named_parameters() if p.requires_grad}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("lora", [None, Lora(r=2, alpha=4, dropout=0.5)])
def test_the_best_step_comes_back_and_the_training_is_the_same(
    parts: Parts, fit: Callable[..., Trainer], tmp_path: Path, lora: Lora | None
) -> None:
    """With dropout too: scoring draws nothing at random, and leaves the encoder in train mode."""
    plain, seen = parts.finetune(lora=lora), Snapshots()
    fit(plain, parts.homogeneous(plain.encoder), callbacks=[seen])
    module, scored = parts.finetune(lora=lora), Scripted(0.2, 0.5, 0.5)
    kept = BestStepKept(scored, KeptParameters(module), 2, "ndcg@10")
    trainer = fit(module, parts.homogeneous(module.encoder), callbacks=[kept])
    assert scored.modes == [False] * 3
    assert module.encoder.training
    assert kept.best == BestStep(step=4, value=0.5, waited=1)  # an equal one is not better
    assert_same(parameters(module), seen.after[6])
    trainer.save_checkpoint(tmp_path / "step-0000006")
    state = read_checkpoint(tmp_path / "step-0000006")
    assert_same(state["validation"]["kept"], seen.after[4])
    assert_same(state["state_dict"], seen.after[6])
    kept.end_with_best()
    assert_same(parameters(module), seen.after[4])


def test_patience_ends_the_training_and_a_resume_knows_it(
    parts: Parts, fit: Callable[..., Trainer], tmp_path: Path
) -> None:
    def trained(path: Path | None, *values: float) -> tuple[Trainer, BestStepKept, dict[str, Any]]:
        module = parts.finetune()
        scored = Scripted(*values)
        kept = BestStepKept(scored, KeptParameters(module), 1, "ndcg@10", patience=2)
        data = parts.homogeneous(module.encoder)
        trainer = fit(module, data, callbacks=[kept], ckpt_path=path)
        assert not scored.values
        trainer.save_checkpoint(tmp_path / f"step-{trainer.global_step:07d}")
        kept.end_with_best()
        return trainer, kept, parameters(module)

    trainer, kept, first = trained(None, 0.1, 0.3, 0.2, 0.3)
    assert (trainer.global_step, kept.best.step) == (4, 2)
    trainer, kept, second = trained(tmp_path / "step-0000004")
    assert (trainer.global_step, kept.best) == (4, BestStep(2, 0.3, 2))
    assert_same(first, second)


def test_a_lower_loss_is_better() -> None:
    best = BestStep()
    taken = [best.takes(s, v, higher=False) for s, v in ((1, 3.0), (2, 2.0), (3, 2.5), (4, 1.0))]
    assert taken == [True, True, False, True]
    assert best == BestStep(4, 1.0, 0)


def test_weights_come_back_with_mean_average_and_counters() -> None:
    weights = DomainWeights(["a", "b"], learning_rate=0.5)
    kept = KeptWeights(weights)
    weights.step(torch.tensor([1.0, 0.0]))
    before = weights.state_dict()
    kept.take()
    weights.step(torch.tensor([0.0, float("nan")]))
    again = KeptWeights(weights)
    again.load_state_dict(kept.state_dict())
    assert weights.updates == 2
    again.put_back()
    for key, value in before.items():
        assert torch.equal(getattr(weights, key), value) if torch.is_tensor(value) else True
    assert weights.updates == 1


def trained_sharded(folder: Path, kind: str, start: Path | None = None) -> dict[str, Any]:
    """Five steps of which the third is the best; they begin at a checkpoint, if there is one."""
    torch.set_num_threads(1)
    domains = load_domains(write_domains(folder), root=str(folder), hub=None, only=None)
    parts = Parts(domains, str(folder / "proxy"), str(folder / "proxy"))
    module = parts.finetune(chunk_tokens=200)

    def scored(encoder: Any, device: torch.device) -> dict[str, float]:
        # Scores are of the validation; the forward pass leaves a sharded encoder partly whole.
        with torch.no_grad():
            encoder(encoder.tokenizer(["red stone", "a small green bird at night"], 20))
        return {"ndcg@10": {1: 0.1, 2: 0.2, 3: 0.9, 4: 0.3, 5: 0.4}[module.global_step]}

    kept = BestStepKept(scored, KeptParameters(module), 1, "ndcg@10")
    seen = Snapshots()
    trainer = Trainer(
        max_steps=5, max_epochs=-1, accelerator="cpu", strategy=strategy(kind, 2), logger=False,
        devices=2, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, callbacks=[kept, seen],
    )  # fmt: skip
    trainer.fit(module, parts.homogeneous(module.encoder), ckpt_path=start)
    last = trainer.strategy.lightning_module_state_dict()
    trainer.save_checkpoint(folder / kind / f"step-{trainer.global_step:07d}")
    kept.end_with_best()
    best = trainer.strategy.lightning_module_state_dict()
    return {"last": last, "best": {n: v.clone() for n, v in best.items()}, "after": seen.after}


def work(number: int, folder: Path, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    with process_group():
        for kind in ("ddp", "fsdp"):
            found = [trained_sharded(folder, kind)]
            found.append(trained_sharded(folder, kind, folder / kind / "step-0000005"))
            if number == 0:
                torch.save(found, folder / f"{kind}.pt")


def test_two_processes_keep_their_shards_of_the_best_step(tmp_path: Path) -> None:
    """And again from a checkpoint, whose training is over."""
    tiny_model(tmp_path / "proxy", layers=2)
    in_processes(2, work, tmp_path, free_port())
    for kind in ("ddp", "fsdp"):
        first, resumed = torch.load(tmp_path / f"{kind}.pt")
        assert_same(first["best"], first["after"][3])
        assert not torch.equal(*(next(iter(first["after"][s].values())) for s in (3, 5)))
        state = read_checkpoint(tmp_path / kind / "step-0000005")
        assert_same(state["state_dict"], first["after"][5])
        assert_same(state["validation"]["kept"], first["after"][3])
        assert_same(resumed["best"], first["after"][3])
