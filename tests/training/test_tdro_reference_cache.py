"""Cached and fresh reference losses: the same domain weights and parameters after six steps."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from tdro_lightning.data.collator import Batch
from tdro_lightning.data.domains import load_domains
from tdro_lightning.dro.measurement import Measurement
from tdro_lightning.dro.weights import DomainWeights
from tdro_lightning.losses.reference_cache import ReferenceLosses, row_keys
from tdro_lightning.models.adapter import Lora
from tdro_lightning.training.datamodules import RetrievalDataModule
from tdro_lightning.training.history import History
from tdro_lightning.training.strategies import strategy
from tdro_lightning.training.tdro import TDROModule
from tests.fixtures.evaluation import in_two_processes
from tests.fixtures.training import NAMES, Parts
from tests.made_up import tiny_model, unrounded_norms, write_domains
from tests.training.test_strategies import assert_equal, whole
from tests.training.test_tdro import WHOLE, assert_equal_runs

KNOWN = "5d" * 32
STEPS, ROWS = 6, 12


def cache(folder: Path) -> ReferenceLosses:
    return ReferenceLosses(folder, KNOWN, 0.002)


def passes(module: TDROModule) -> list[int]:
    """Rows of every forward pass that the reference's backbone will make."""
    rows: list[int] = []
    module.reference.backbone.register_forward_hook(
        lambda _, inputs, kwargs, output: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return rows


def distinct(parts: Parts, module: TDROModule) -> int:
    """Texts of all steps, those once that equal another one of their batch."""
    batches = parts.heterogeneous(module.proxy).train_dataloader()
    return sum(len(batch.texts.distinct[0]) for batch in batches)


def shares(history: Path) -> list[float]:
    lines = (line.split(",") for line in (history / "history.csv").read_text().splitlines())
    return [float(value) for _, metric, value in lines if metric == "reference_cached"]


@pytest.mark.parametrize(("solved", "messages"), [({"easy", "middle"}, 1), ({"easy"}, 0)])
def test_a_reference_that_has_solved_half_of_the_domains_is_told(
    parts: Parts, fit: Callable[..., Trainer], tmp_path: Path, caplog: Any,
    solved: set[str], messages: int,
) -> None:  # fmt: skip
    known = cache(tmp_path)
    module = parts.tdro(reference_cache=known)
    for batch in parts.heterogeneous(module.proxy, steps=12).train_dataloader():
        losses = torch.tensor([0.001 if NAMES[d] in solved else 1.0 for d in batch.domain])
        known.add(row_keys(batch.queries, batch.passages, KNOWN), losses)
    fit(module, parts.heterogeneous(module.proxy, steps=12), steps=12)
    warned = [r.getMessage() for r in caplog.records if r.name == "tdro_lightning.console.output"]
    assert len(warned) == messages
    assert all("has solved half of the domains" in one for one in warned)


@pytest.mark.parametrize("chunk_tokens", [WHOLE, 200])
@pytest.mark.parametrize("lora", [None, Lora(r=2, alpha=4, dropout=0.5)])
def test_a_second_run_makes_no_reference_pass(
    parts: Parts, fit: Callable[..., Trainer], tmp_path: Path, chunk_tokens: int, lora: Lora | None
) -> None:
    changes: dict[str, Any] = {"dtype": "float64", "chunk_tokens": chunk_tokens, "lora": lora}
    fresh = parts.tdro(**changes)
    first, second = (parts.tdro(**changes, reference_cache=cache(tmp_path)) for _ in range(2))
    for module in (fresh, first, second):
        module.reference.chunk_tokens = chunk_tokens
    asked = passes(fresh), passes(first)
    fit(fresh, parts.heterogeneous(fresh.proxy))
    fit(first, parts.heterogeneous(first.proxy), logger=History(tmp_path))
    assert shares(tmp_path) == [0] * STEPS
    assert asked[0] == asked[1]
    assert sum(asked[0]) == distinct(parts, first) <= STEPS * ROWS * 5
    assert (len(asked[0]) > STEPS) == (chunk_tokens != WHOLE)
    second.reference_cache = cache(tmp_path)
    none = passes(second)
    fit(second, parts.heterogeneous(second.proxy), logger=History(tmp_path))
    assert none == []
    assert shares(tmp_path) == [1] * STEPS
    for module in (first, second):  # all rows or none were run: not even rounding differs
        assert module.weights.updates == STEPS
        assert_equal_runs(fresh, module, 0.0)


def test_float32_losses_pass_through_the_cache_unchanged(parts, fit, tmp_path: Path) -> None:
    fresh, first = parts.tdro(), parts.tdro(reference_cache=cache(tmp_path))
    fit(fresh, parts.heterogeneous(fresh.proxy))
    fit(first, parts.heterogeneous(first.proxy))
    second = parts.tdro(reference_cache=cache(tmp_path))
    fit(second, parts.heterogeneous(second.proxy))
    for module in (first, second):
        assert_equal_runs(fresh, module, 0.0)


def test_other_measurements_and_weight_rates_use_the_same_losses(parts, fit, tmp_path) -> None:
    def other(**changes: Any) -> TDROModule:
        weights = DomainWeights(NAMES, learning_rate=0.3)
        return parts.tdro(
            dtype="float64", measurement=Measurement("released"), weights=weights, **changes
        )

    first = parts.tdro(dtype="float64", reference_cache=cache(tmp_path))
    fit(first, parts.heterogeneous(first.proxy))
    fresh, second = other(), other(reference_cache=cache(tmp_path))
    none = passes(second)
    fit(fresh, parts.heterogeneous(fresh.proxy))
    fit(second, parts.heterogeneous(second.proxy))
    assert none == []
    assert_equal_runs(fresh, second, 0.0)
    assert not torch.allclose(first.weights.last, second.weights.last, rtol=0, atol=1e-3)


@pytest.mark.parametrize("chunk_tokens", [WHOLE, 200])
def test_a_run_that_overlaps_partly_is_completed(
    parts: Parts, fit: Callable[..., Trainer], tmp_path: Path, chunk_tokens: int
) -> None:
    """Rows that another order of the data brought to the same step are known, others are not."""

    def ordered(module: TDROModule, seed: int) -> RetrievalDataModule:
        return RetrievalDataModule(**{**parts._data(module.proxy, 3, 0), "seed": seed})

    filling = parts.tdro(dtype="float64", reference_cache=cache(tmp_path))
    fit(filling, ordered(filling, seed=4))
    fresh = parts.tdro(dtype="float64")
    mixed = parts.tdro(dtype="float64", reference_cache=cache(tmp_path))
    for module in (fresh, mixed):
        module.reference.chunk_tokens = chunk_tokens
    run = passes(mixed)
    fit(fresh, ordered(fresh, seed=3))
    fit(mixed, ordered(mixed, seed=3), logger=History(tmp_path))
    assert 0 < sum(shares(tmp_path)) < 3
    assert any(0 < share < 1 for share in shares(tmp_path))
    assert 0 < sum(run) <= (STEPS - sum(shares(tmp_path))) * ROWS * 5 + 1e-6
    assert_equal_runs(fresh, mixed, 1e-9)


def test_a_nan_loss_of_the_reference_is_told_and_not_kept(parts, fit, tmp_path: Path) -> None:
    module = parts.tdro(reference_cache=cache(tmp_path))
    module.reference.backbone.embed_tokens.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="reference losses are not finite"):
        fit(module, parts.heterogeneous(module.proxy), steps=1)
    assert len(cache(tmp_path)) == 0


KEPT = {  # which rows of a step's global batch are known; rank 0 holds the even ones
    0: range(0),
    1: range(0, ROWS, 2),
    2: range(ROWS),
    3: range(1, ROWS, 2),
    4: [5],
    5: range(ROWS - 1),
}


def spread(folder: Path) -> None:
    """The run of two processes, once in copies and once in shards."""
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    domains = load_domains(write_domains(folder), root=str(folder), hub=None, only=None)
    parts = Parts(domains, str(folder / "proxy"), str(folder / "reference"))
    for kind in ("ddp", "fsdp"):
        module = parts.tdro(dtype="float64", reference_cache=cache(folder / kind))
        module.reference.chunk_tokens = 200
        run = passes(module)
        trainer = Trainer(
            max_steps=STEPS, max_epochs=-1, accelerator="cpu", strategy=strategy(kind, 2),
            devices=2, logger=History(folder / kind), log_every_n_steps=1,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False,
        )  # fmt: skip
        with unrounded_norms():
            trainer.fit(module, parts.heterogeneous(module.proxy))
        trained = {name: value.detach() for name, value in whole(module)}
        place = folder / f"{kind} {os.environ['RANK']}.pt"
        torch.save((trained, module.weights.state_dict(), run), place)


def test_two_processes_that_know_different_rows(fit, tmp_path: Path) -> None:
    """A pass of a sharded reference is a collective: all make it, however few rows they lack."""
    domains = load_domains(write_domains(tmp_path), root=str(tmp_path), hub=None, only=None)
    tiny_model(tmp_path / "proxy", seed=0, layers=2)
    parts = Parts(domains, str(tmp_path / "proxy"), tiny_model(tmp_path / "reference", seed=1))
    alone = parts.tdro(dtype="float64", reference_cache=cache(tmp_path / "alone"))
    with unrounded_norms():
        fit(alone, parts.heterogeneous(alone.proxy))
    batches: list[Batch] = list(parts.heterogeneous(alone.proxy).train_dataloader())
    for kind in ("ddp", "fsdp"):
        part = cache(tmp_path / kind)
        for step, rows in KEPT.items():
            keys = row_keys(batches[step].queries, batches[step].passages, KNOWN)
            losses, missing = alone.reference_cache.look_up(keys)
            assert len(missing) == 0
            part.add([keys[row] for row in rows], losses[list(rows)])
    in_two_processes(spread, tmp_path)
    for kind in ("ddp", "fsdp"):
        assert shares(tmp_path / kind) == pytest.approx([len(KEPT[s]) / ROWS for s in range(STEPS)])
        for number in range(2):
            trained, weights, run = torch.load(tmp_path / f"{kind} {number}.pt")
            expected = {name: value.detach() for name, value in whole(alone)}
            assert_equal(expected, trained, f"{kind}, rank {number}", 1e-9)
            assert_equal(alone.weights.state_dict(), weights, f"{kind}, rank {number}", 1e-9)
            missing = [ROWS // 2 - len([r for r in KEPT[s] if r % 2 == number]) for s in KEPT]
            others = [ROWS - len(KEPT[s]) - n for s, n in enumerate(missing)]
            most = missing if kind == "ddp" else map(max, zip(missing, others, strict=True))
            assert 0 < sum(run) <= 5 * sum(most)  # equal texts run once
    assert len(cache(tmp_path / "fsdp")) == STEPS * ROWS
