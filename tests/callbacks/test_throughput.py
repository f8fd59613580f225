import math
from pathlib import Path

import pytest

from tdro_lightning.callbacks.history import History
from tdro_lightning.callbacks.throughput import Throughput, useful_flops
from tdro_lightning.retrieval.adapter import Lora

# The tiny Qwen2: width 16, one layer with an MLP of 32, a norm after it.
MLP = 3 * 16 * 32
DENSE = 4 * 16 * 16 + 3 * 16 + MLP + 2 * 16 + 16


def test_every_step_has_its_figures(parts, fit, tmp_path: Path) -> None:
    module = parts.tdro(chunk_tokens=200)
    data = parts.heterogeneous(module.proxy)
    fit(module, data, steps=3, logger=History(tmp_path), callbacks=[Throughput(module.proxy, 1)])
    lines = [line.split(",") for line in (tmp_path / "history.csv").read_text().splitlines()[1:]]
    logged = {(int(s), m.removeprefix("speed/")): float(v) for s, m, v in lines if "speed/" in m}
    data = parts.heterogeneous(module.proxy)
    for step, batch in zip(range(3), data.train_dataloader(), strict=False):
        lengths = sorted(batch.texts.lengths.tolist(), reverse=True)
        padded, rest = 0, lengths
        while rest:  # chunks by hand
            rows = max(1, 200 // rest[0])
            padded += len(rest[:rows]) * rest[0]
            rest = rest[rows:]
        assert logged[step, "padding"] == pytest.approx(1 - sum(lengths) / padded)
        assert 0 < logged[step, "data_wait"] < 1
        ratio = logged[step, "tokens_per_second"] / logged[step, "passages_per_second"]
        assert ratio == pytest.approx(sum(lengths) / (12 * 4))
        assert math.isfinite(ratio)


@pytest.mark.parametrize(
    ("lora", "references", "each"), [(None, 0, 6), (None, 1, 8), (Lora(r=2), 0, 4), (Lora(), 1, 6)]
)
def test_useful_flops_by_hand(parts, lora: Lora | None, references: int, each: int) -> None:
    encoder = parts.encoder(parts.proxy_path, lora=lora)
    assert useful_flops(encoder, references) == each * (DENSE - MLP)
