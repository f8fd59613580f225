"""One pass or two, one base model or two: the same weights and parameters after six steps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from tdro_lightning.losses import domain_gradients as gradients
from tdro_lightning.losses.reference_cache import ReferenceLosses
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.fingerprint import encoder_fingerprint
from tdro_lightning.models.loading import load_on_shared_base
from tdro_lightning.training.checkpoint import read_checkpoint
from tdro_lightning.training.history import History
from tdro_lightning.training.tdro import TDROModule
from tests.fixtures.training import Parts
from tests.made_up import tiny_model
from tests.training.test_tdro import assert_equal_runs

LORA = Lora(r=2, alpha=4, dropout=0.0)
STEPS = 6


def one_pass_steps(folder: Path) -> list[float]:
    lines = (line.split(",") for line in (folder / "history.csv").read_text().splitlines())
    return [float(value) for _, metric, value in lines if metric == "one_pass"]


def test_one_pass_and_two_train_the_same(
    parts: Parts,
    fit: Callable[..., Trainer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    float64_norms: None,
) -> None:
    changes: dict[str, Any] = {"dtype": "float64", "lora": LORA, "chunk_tokens": 200}
    for name in ("one", "whole"):
        (tmp_path / name).mkdir()
    one, two, whole = (parts.tdro(**changes, kept_tokens=n) for n in (400, 400, 10**6))
    fit(one, parts.heterogeneous(one.proxy, batch_size=60), logger=History(tmp_path / "one"))
    fit(whole, parts.heterogeneous(whole.proxy, batch_size=60), logger=History(tmp_path / "whole"))
    monkeypatch.setattr(gradients, "one_pass_groups", lambda encoder, batch: None)
    fit(two, parts.heterogeneous(two.proxy, batch_size=60))
    # The cheaper way is chosen for each batch; of most it is one pass.
    assert sum(one_pass_steps(tmp_path / "one")) >= STEPS - 1
    assert one_pass_steps(tmp_path / "whole") == [0] * STEPS
    assert_equal_runs(one, two, 1e-9)
    assert_equal_runs(one, whole, 1e-9)


@pytest.fixture(scope="module")
def adapter(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A trained adapter of other sizes on the proxy's base model."""
    folder = tmp_path_factory.mktemp("adapter")
    encoder = parts.encoder(parts.proxy_path, lora=Lora(r=3, alpha=5, dropout=0.2))
    torch.manual_seed(1)
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    encoder.save(folder)
    return str(folder)


def with_adapters(parts: Parts, adapter: str, *, shared: bool, **changes: Any) -> TDROModule:
    """A tDRO module whose proxy and reference are adapters of one base model."""
    module = parts.tdro(dtype="float64", lora=Lora(r=2, alpha=4, dropout=0.3), **changes)
    module.reference = beside(module.proxy, adapter) if shared else alone(parts, adapter)
    return module


def alone(parts: Parts, adapter: str) -> Encoder:
    return parts.encoder(adapter, dtype="float64").freeze()


def beside(proxy: Encoder, adapter: str) -> Encoder:
    loaded = load_on_shared_base(proxy, adapter)
    assert loaded is not None
    return loaded.freeze()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "activation checkpointing"])
def test_a_shared_and_a_separate_base_train_the_same(
    parts: Parts, fit: Callable[..., Trainer], adapter: str, checkpointing: bool
) -> None:
    changes = {"chunk_tokens": 200, "activation_checkpointing": checkpointing}
    shared, separate = (
        with_adapters(parts, adapter, shared=value, **changes) for value in (True, False)
    )
    trained = [n for n, p in shared.named_parameters() if p.requires_grad]
    for module in (shared, separate):
        fit(module, parts.heterogeneous(module.proxy))
    assert [n for n, p in shared.named_parameters() if p.requires_grad] == trained
    assert shared.proxy.training
    torch.testing.assert_close(shared.weights.last, separate.weights.last, rtol=0, atol=1e-9)
    assert not torch.allclose(shared.weights.last, shared.weights.last.mean(), atol=1e-4)
    found = dict(shared.proxy.named_parameters())
    for name, value in separate.proxy.named_parameters():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9, msg=name)
    base = sum(p.numel() for p in separate.reference.parameters())
    assert sum(p.numel() for p in shared.parameters()) == sum(
        p.numel() for p in separate.parameters()
    ) - (base - sum(p.numel() for n, p in separate.reference.named_parameters() if "lora_" in n))


def test_a_shared_reference_stays_what_it_was(
    parts: Parts, fit: Callable[..., Trainer], adapter: str, tmp_path: Path
) -> None:
    """Neither training nor a checkpoint touches it, and a cache of its losses serves both ways."""
    module = with_adapters(parts, adapter, shared=True)
    known = encoder_fingerprint(module.reference)
    assert known == encoder_fingerprint(alone(parts, adapter))
    assert known != encoder_fingerprint(module.proxy)
    module.reference_cache = ReferenceLosses(tmp_path, known, module.temperature)
    trainer = fit(module, parts.heterogeneous(module.proxy))
    assert encoder_fingerprint(module.reference) == known
    assert len(ReferenceLosses(tmp_path, known, module.temperature)) == STEPS * 12
    trainer.save_checkpoint(tmp_path / "step-0000006")
    saved = read_checkpoint(tmp_path / "step-0000006")["state_dict"]
    assert all(".default." in name for name in saved)


def test_only_an_adapter_of_the_same_base_is_put_beside(
    parts: Parts, adapter: str, tmp_path: Path
) -> None:
    proxy = parts.encoder(parts.proxy_path, lora=LORA)
    assert load_on_shared_base(proxy, parts.reference_path) is None  # a whole model
    other = parts.encoder(tiny_model(tmp_path / "other", seed=5), lora=LORA)
    assert load_on_shared_base(other, adapter) is None
    assert (
        load_on_shared_base(parts.encoder(parts.proxy_path), adapter) is None
    )  # no adapter to change
    texts = ["red stone", "a longer text of seven words"]
    before = proxy.embed_passages(texts)
    reference = load_on_shared_base(proxy, adapter)
    assert reference is not None
    expected = parts.encoder(adapter).embed_passages(texts)
    assert (reference.embed_passages(texts) == expected).all()
    assert (proxy.embed_passages(texts) == before).all()
