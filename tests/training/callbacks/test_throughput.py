import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from torch.utils.flop_counter import FlopCounterMode

from tdro_lightning.data.collator import Batch
from tdro_lightning.losses.reference_cache import ReferenceLosses, row_keys
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.sparse_head import SparseShape
from tdro_lightning.training.callbacks.throughput import Throughput, useful_flops
from tdro_lightning.training.history import History
from tests.models.test_sparse_encoder import write_bert, write_llama

# The tiny Qwen2: width 16, one layer with an MLP of 32, a norm after it.
MLP = 3 * 16 * 32
DENSE = 4 * 16 * 16 + 3 * 16 + MLP + 2 * 16 + 16


def lengths_run(batch: Batch) -> list[int]:
    """Lengths of the texts that an encoder runs, longest first: each once, however often it is."""
    parts = batch.texts.ids.split(batch.texts.lengths.tolist())
    return sorted(map(len, {tuple(part.tolist()) for part in parts}), reverse=True)


def test_every_step_has_its_figures(parts, fit, tmp_path: Path) -> None:
    module = parts.tdro(chunk_tokens=200)
    data = parts.heterogeneous(module.proxy)
    throughput = Throughput(module.proxy, module.reference)
    fit(module, data, steps=3, logger=History(tmp_path), callbacks=[throughput])
    lines = [line.split(",") for line in (tmp_path / "history.csv").read_text().splitlines()[1:]]
    logged = {(int(s), m.removeprefix("speed/")): float(v) for s, m, v in lines if "speed/" in m}
    data = parts.heterogeneous(module.proxy)
    for step, batch in zip(range(3), data.train_dataloader(), strict=False):
        lengths = sorted(batch.texts.lengths.tolist(), reverse=True)
        run = lengths_run(batch)
        padded, rest = 0, run
        while rest:  # chunks by hand
            rows = max(1, 200 // rest[0])
            padded += len(rest[:rows]) * rest[0]
            rest = rest[rows:]
        assert logged[step, "padding"] == pytest.approx(1 - sum(run) / padded)
        assert logged[step, "at_limit"] == pytest.approx(lengths.count(24) / (12 * 5))
        assert lengths.count(24) > 0
        assert 0 < logged[step, "data_wait"] < 1
        ratio = logged[step, "tokens_per_second"] / logged[step, "passages_per_second"]
        assert ratio == pytest.approx(sum(lengths) / (12 * 4))
        assert math.isfinite(ratio)


class Flops(Callback):
    """What a run's `Throughput` has counted in each step."""

    def __init__(self, throughput: Throughput) -> None:
        self.throughput = throughput
        self.seen: list[int] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.seen.append(self.throughput.flops)


def test_a_reference_counts_for_the_rows_it_is_run_for(parts, fit, tmp_path: Path) -> None:
    """Of the first step every other loss is cached, of the second none, of the third all."""
    cache = ReferenceLosses(tmp_path, "5d" * 32, 0.002)
    module = parts.tdro(reference_cache=cache)
    batches = list(parts.heterogeneous(module.proxy, steps=3).train_dataloader())
    missing = [torch.arange(1, 12, 2), torch.arange(12), torch.tensor([], dtype=torch.long)]
    for batch, rows in zip(batches, missing, strict=True):
        keys = row_keys(batch.queries, batch.passages, cache.fingerprint)
        cache.add([key for i, key in enumerate(keys) if i not in rows], torch.ones(12 - len(rows)))
    throughput = Throughput(module.proxy, module.reference)
    flops = Flops(throughput)
    fit(module, parts.heterogeneous(module.proxy), steps=3, callbacks=[throughput, flops])
    lengths = [sum(lengths_run(batch)) for batch in batches]
    assert lengths[0] < batches[0].texts.lengths.sum()  # some texts are equal
    pairs = zip(batches, missing, strict=True)
    run = [sum(lengths_run(batch.select(rows))) if len(rows) else 0 for batch, rows in pairs]
    assert 0 < run[0] < run[1] == lengths[1]
    assert run[2] == 0
    expected = [(DENSE - MLP) * (6 * n + 2 * r) for n, r in zip(lengths, run, strict=True)]
    assert flops.seen == expected


@pytest.mark.parametrize(
    ("lora", "references", "each"), [(None, 0, 6), (None, 1, 8), (Lora(r=2), 0, 4), (Lora(), 1, 6)]
)
def test_useful_flops_by_hand(parts, lora: Lora | None, references: int, each: int) -> None:
    encoder = parts.encoder(parts.proxy_path, lora=lora)
    assert useful_flops(encoder, references) == each * (DENSE - MLP)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("write", "transform"), [(write_llama, 0), (write_bert, 16 * 16)])
def test_flops_of_a_sparse_head_are_those_that_run(
    tmp_path: Path, write: Callable[..., str], transform: int, trained: bool
) -> None:
    """PyTorch's own count of a head's products; those of norms and biases it leaves out."""
    path = write(tmp_path, False) if write is write_llama else write(tmp_path)
    sparse = load_encoder(
        path, pooling="mean", query_tokens=16, passage_tokens=16,
        sparse=SparseShape(trained=trained),
    )  # fmt: skip
    dense = Encoder(sparse.backbone, sparse.tokenizer, "mean", 16, 16)
    states, mask = torch.randn(3, 7, 16, requires_grad=True), torch.ones(3, 7)
    with FlopCounterMode(display=False) as forward:
        vectors = sparse.head(states, mask)
    with FlopCounterMode(display=False) as backward:
        vectors.sum().backward()
    of_head = [useful_flops(sparse, n) - useful_flops(dense, n) for n in (0, 1)]
    parameters = sum(p.numel() for p in sparse.head.transform.parameters())
    left_out = parameters - transform
    passes = 4 + 2 * trained
    assert of_head[1] - of_head[0] == forward.get_total_flops() / 21 + 2 * left_out
    total = forward.get_total_flops() + backward.get_total_flops()
    assert of_head[0] == total / 21 + passes * left_out
    assert of_head[0] == 2 * 16 * sparse.dimensions + passes * parameters


def test_what_is_done_between_two_steps_is_in_no_step(parts, fit, tmp_path, monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    module = parts.finetune()
    throughput = Throughput(module.encoder)

    class Between(Callback):
        def on_train_batch_end(self, *args: object) -> None:
            nonlocal now
            now += 1000.0
            throughput.restart_clock()

        def on_train_batch_start(self, *args: object) -> None:
            nonlocal now
            now += 2.0

    data = parts.homogeneous(module.encoder)
    fit(module, data, steps=3, logger=History(tmp_path), callbacks=[throughput, Between()])
    lines = [line.split(",") for line in (tmp_path / "history.csv").read_text().splitlines()]
    speeds = [float(value) for _, metric, value in lines if metric == "speed/passages_per_second"]
    assert speeds == [12 * 2 / 2.0] * 3
