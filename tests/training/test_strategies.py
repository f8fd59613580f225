"""Two real processes against one: the same losses, domain weights and parameters."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from torch.distributed.tensor import DTensor

from tdro_lightning.data.domains import load_domains
from tdro_lightning.distributed import collectives as distributed
from tdro_lightning.distributed.processes import process_group
from tdro_lightning.errors import ConfigError
from tdro_lightning.losses.contrastive import LOSSES
from tdro_lightning.losses.sparsity import Sparsity
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.head import DenseShape, Head
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.sparse_head import SparseShape
from tdro_lightning.training.strategies import (
    DataParallel,
    FullyShardedParallel,
    OneDevice,
    strategy,
)
from tests.command import free_port
from tests.fixtures.training import OPTIMISATION, Parts
from tests.made_up import (
    TDRO,
    tiny_model,
    unrounded_norms,
    write_domains,
    write_inputs,
)
from tests.models.test_sparse_encoder import write_llama
from tests.nightly import nightly_but
from tests.processes import Started, in_processes

STAGES = {"tdro": "heterogeneous", "finetune": "homogeneous"}
FLOPS = Sparsity("flops", queries=0.3, passages=0.2, ramp_steps=3)
DF_FLOPS = Sparsity("df_flops", queries=0.3, passages=0.2, ramp_steps=0)
CASES: dict[str, dict] = {
    "whole batch": {"chunk_tokens": 10_000},
    "chunks": {"chunk_tokens": 200},
    "kept chunks": {"chunk_tokens": 200, "kept_tokens": 500},
    "lora": {"chunk_tokens": 200, "lora": Lora(r=2, alpha=4, dropout=0.0)},
    "lora, kept chunks": {"chunk_tokens": 60, "kept_tokens": 300, "lora": Lora(2, 4, 0.0)},
    "activation checkpointing": {"chunk_tokens": 200, "activation_checkpointing": True},
    "equal texts": {"chunk_tokens": 200, "kept_tokens": 300},
    **{
        f"sparse, {kind}": {
            **{"chunk_tokens": 200, "kept_tokens": 500, "temperature": 1.0, "sparse": shape},
            **{"model": model, "optimisation": replace(OPTIMISATION, sparsity=sparsity)},
            **more,
        }
        for kind, model, shape, sparsity, more in (
            ("tied", "tied", SparseShape("quarter"), FLOPS, {}),
            ("tied, trained", "tied", SparseShape(pooled="no_special", trained=True), DF_FLOPS, {}),
            ("untied", "untied", SparseShape(), DF_FLOPS, {"activation_checkpointing": True}),
            ("untied, trained", "untied", SparseShape("quarter", trained=True), FLOPS, {}),
            ("adapter", "tied", SparseShape(), FLOPS, {"lora": Lora(2, 4, 0.0)}),
            ("no regulariser", "untied", SparseShape(), None, {"lora": Lora(2, 4, 0.0)}),
        )
    },
    "float32": {"chunk_tokens": 200, "optimisation": replace(OPTIMISATION, lr=1e-4)},
}
PAIRS = [(stage, case) for stage in STAGES for case in CASES]
OFTEN = [
    ("tdro", "kept chunks"),
    ("finetune", "lora, kept chunks"),
    ("finetune", "equal texts"),
    ("tdro", "sparse, tied"),
    ("finetune", "sparse, tied, trained"),
]
REFUSED = "sparse, untied, trained"  # by fsdp
LOADED = {"pooling": "last", "query_tokens": 24, "passage_tokens": 24}


class Recorder(Callback):
    """Loss and gradients of every step, gathered where they are sharded."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, module: LightningModule, optimizer
    ) -> None:
        self.steps.append({n: p.grad for n, p in whole(module) if p.grad is not None})

    def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
        self.steps[-1]["loss"] = trainer.callback_metrics["loss"]


def whole(module: LightningModule) -> Iterator[tuple[str, torch.Tensor]]:
    """Trained parameters with their gradients, both as whole tensors."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            full = torch.nn.Parameter(unsharded(parameter.detach()))
            full.grad = None if parameter.grad is None else unsharded(parameter.grad)
            yield name, full


def unsharded(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def trained(folder: Path, stage: str, case: str, plan: Strategy) -> dict:
    """Three float64 steps of a stage under a strategy: what they gave."""
    torch.set_num_threads(1)
    equal = case == "equal texts"
    rows = folder / "equal" if equal else folder
    catalogue = write_domains(rows, share=3 if equal else None)
    domains = load_domains(catalogue, root=str(rows), hub=None, only=None)
    settings = dict(CASES[case])
    place = folder / settings.pop("model", ".")
    parts = Parts(domains, str(place / "proxy"), str(place / "reference"))
    dtype = "float32" if case == "float32" else "float64"
    masked = {"mask_duplicates": True} if equal and stage == "finetune" else {}
    module = getattr(parts, stage)(dtype=dtype, **masked, **settings)
    encoder = module.proxy if stage == "tdro" else module.encoder
    recorder = Recorder()
    trainer = Trainer(
        max_steps=3, max_epochs=-1, accelerator="cpu", strategy=plan, logger=False,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        callbacks=[recorder],
    )  # fmt: skip
    penalties: list[dict[str, torch.Tensor]] = []
    penalise = Sparsity.penalise

    def noted(self: Sparsity, *given: Any) -> dict[str, float]:
        logged = penalise(self, *given)
        penalties.append({name: torch.tensor(value) for name, value in logged.items()})
        return logged

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sparsity, "penalise", noted)
        with nullcontext() if case == "float32" else unrounded_norms():
            trainer.fit(module, getattr(parts, STAGES[stage])(encoder))
    if stage == "finetune" and isinstance(plan, FullyShardedParallel):
        encoder.save(folder / "saved" / case)
    weights = module.weights.state_dict() if stage == "tdro" else {}
    parameters = {name: value.detach() for name, value in whole(module)}
    assert len(penalties) == (3 if module.optimisation.sparsity else 0)
    found = {"parameters": parameters, "weights": weights, "steps": recorder.steps}
    return found | {"penalties": penalties}


def five_hundred_batches(folder: Path) -> list[tuple[list[int], tuple[str, ...]]]:
    """Domains and query ids of this rank's batches, read by two loader processes."""
    domains = load_domains(write_domains(folder), root=str(folder), hub=None, only=None)
    parts = Parts(domains, str(folder / "proxy"), str(folder / "reference"))
    encoder = parts.encoder(parts.proxy_path)
    data = parts.homogeneous(encoder, workers=2, steps=500)
    return [(batch.domain.tolist(), batch.query_ids) for batch in data.train_dataloader()]


def compared(folder: Path, plan: Strategy) -> tuple[torch.Tensor, ...]:
    """What the first step's loss compares: queries, all passages, index of each positive."""
    seen: list[tuple[torch.Tensor, ...]] = []
    losses = LOSSES["infonce"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOSSES, "infonce", lambda *given: seen.append(given[:3]) or losses(*given))
        trained(folder, "finetune", "chunks", plan)
    return tuple(value.detach() for value in seen[0])


def work(number: int, folder: Path, kind: str, port: int, pairs: list[tuple[str, str]]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    distributed.BUCKET = 500  # several collectives a step, also for a small model
    with process_group():
        if kind == "ddp" and pairs == OFTEN:
            torch.save(five_hundred_batches(folder), folder / f"batches {number}.pt")
            torch.save(compared(folder, strategy(kind, 2)), folder / f"compared {number}.pt")
        for stage, case in pairs:
            if (kind, case) == ("fsdp", REFUSED):
                continue
            found = trained(folder, stage, case, strategy(kind, 2))
            torch.save(found, folder / f"{kind} {stage} {case} {number}.pt")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spread")
    tiny_model(folder / "proxy", seed=0, layers=2)
    tiny_model(folder / "reference", seed=1)
    for place in ("tied", "untied"):
        for name, seed in (("proxy", 5), ("reference", 6)):
            write_llama(folder / place / name, place == "tied", seed, std=0.4)
    return folder


def spread(folder: Path, pairs: list[tuple[str, str]]) -> Path:
    """What these stages and cases gave in two processes, under both strategies."""
    for kind in ("ddp", "fsdp"):
        in_processes(2, work, folder, kind, free_port(), pairs)
    return folder


@pytest.fixture(scope="module")
def two_processes(models: Path) -> Path:
    return spread(models, OFTEN)


@pytest.fixture(scope="module")
def others(models: Path) -> Path:
    return spread(models, [pair for pair in PAIRS if pair not in OFTEN])


@pytest.mark.parametrize(("stage", "case"), nightly_but(OFTEN, PAIRS))
def test_two_processes_equal_one(request: pytest.FixtureRequest, stage: str, case: str) -> None:
    """Losses, gradients, parameters, domain weights, and penalties of sparse vectors."""
    place = "two_processes" if (stage, case) in OFTEN else "others"
    two_processes: Path = request.getfixturevalue(place)
    alone = trained(two_processes, stage, case, OneDevice("cpu"))
    assert len(alone["steps"]) == 3
    kinds = ("ddp",) if case == REFUSED else ("ddp", "fsdp")
    if stage == "finetune" and "fsdp" in kinds:
        saved = load_encoder(str(two_processes / "saved" / case), **LOADED, dtype="float64")
        found = {f"encoder.{n}": p.detach() for n, p in saved.named_parameters()}
        for name, value in alone["parameters"].items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, check_dtype=False)
    for kind in kinds:
        for number in range(2):
            theirs = torch.load(two_processes / f"{kind} {stage} {case} {number}.pt")
            tolerance = 1e-5 if case == "float32" else 1e-9
            assert_equal(alone, theirs, f"{kind}, rank {number}", tolerance)


def test_every_rank_is_on_the_same_domain_at_every_step(two_processes: Path) -> None:
    alone = five_hundred_batches(two_processes)
    ranks = [torch.load(two_processes / f"batches {number}.pt") for number in range(2)]
    assert len(alone) == len(ranks[0]) == len(ranks[1]) == 500
    for (domain, ids), *shares in zip(alone, *ranks, strict=True):
        assert {d for theirs, _ in shares for d in theirs} == set(domain)
        assert len(set(domain)) == 1
        assert sorted(i for _, theirs in shares for i in theirs) == sorted(ids)
        assert len(set(ids)) == 12
    assert len({domain[0] for domain, _ in alone}) == 3


def test_negatives_are_all_other_passages_of_the_global_batch_once(two_processes: Path) -> None:
    queries, passages, positive = compared(two_processes, OneDevice("cpu"))
    assert passages.shape == (24, 16)
    assert len(torch.unique(passages, dim=0)) == 24
    ranks = [torch.load(two_processes / f"compared {number}.pt") for number in range(2)]
    assert torch.equal(ranks[0][1], ranks[1][1])
    distance = torch.cdist(ranks[0][1], passages)
    place = distance.argmin(dim=1)  # where each of their passages stands in ours
    assert distance.min(dim=1).values.max() < 1e-9
    assert sorted(place.tolist()) == list(range(24))
    for number, (theirs, _, index) in enumerate(ranks):
        torch.testing.assert_close(theirs, queries[number::2], rtol=0, atol=1e-9)
        assert torch.equal(place[index], positive[number::2])


def assert_equal(one: Any, other: Any, where: str, tolerance: float) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            assert_equal(value, other[key], f"{where}, {key}", tolerance)
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for step, value in enumerate(one):
            assert_equal(value, other[step], f"{where}, step {step}", tolerance)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(other, one, rtol=0, atol=tolerance, equal_nan=True, msg=where)
    else:
        assert one == other, where


ARGUMENTS = [*TDRO, "trainer.steps=4"]
SPREAD = ["strategy=ddp", "trainer.devices=2"]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tDRO run with one process, and the same run that starts two by itself."""
    folder = tmp_path_factory.mktemp("launched")
    write_inputs(folder)
    one = Started(folder, *ARGUMENTS, "run_dir=one")
    two = subprocess.run(
        [sys.executable, "-m", "tdro_lightning", *ARGUMENTS, *SPREAD, "run_dir=two"],
        cwd=folder, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    assert one.wait() == 0, one.printed
    return folder


def test_two_devices_write_one_run_with_the_same_weights(launched: Path) -> None:
    one, two = (json.loads((launched / d / "weights.json").read_text()) for d in ("one", "two"))
    for key in ("domain_weights", "mean_weights", "ema_weights"):
        assert two[key] == pytest.approx(one[key], abs=1e-5)
    assert two["size"] == one["size"]
    names = [{p.name for p in (launched / d).iterdir()} for d in ("one", "two")]
    assert names[1] - names[0] == {"rank-1.log"}
    assert names[0] <= names[1]
    histories = [(launched / d / "history.csv").read_text().splitlines() for d in ("one", "two")]
    assert len(histories[0]) == len(histories[1])


def test_processes_and_configuration_must_agree(monkeypatch) -> None:
    assert isinstance(strategy("single", 1), OneDevice)
    with pytest.raises(ConfigError, match=r"trainer\.devices=2; use strategy=ddp"):
        strategy("single", 2)
    with pytest.raises(ConfigError, match=r"torchrun --nproc-per-node 2"):
        strategy("ddp", 2)
    with pytest.raises(ConfigError, match="cpu_offload=true needs a GPU"):
        strategy("fsdp", None, cpu_offload=True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for devices in (2, None):
        assert isinstance(strategy("ddp", devices), DataParallel)
        assert isinstance(strategy("fsdp", devices), FullyShardedParallel)
    with pytest.raises(ConfigError, match="strategy=single is one process"):
        strategy("single", None)


@pytest.mark.nightly
def test_a_run_that_starts_several_processes_tells_that_one_failed(shared: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tdro_lightning", *ARGUMENTS, *SPREAD, "run_dir=uneven",
         "model.path=rows"],
        cwd=shared, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert ended.returncode != 0
    assert "model.path=rows: not a model folder" in ended.stderr
    assert "the 2 processes of uneven ended with an error" in ended.stderr


def test_dense_layers_that_train_are_not_sharded(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "model")
    encoder = load_encoder(path, pooling="mean", query_tokens=8, passage_tokens=8)
    encoder.head = Head([DenseShape(16, 4)])
    plan = strategy("fsdp", None)
    assert isinstance(plan, FullyShardedParallel)
    with pytest.raises(ConfigError, match="strategy=fsdp does not shard the head"):
        plan.shard(encoder)
