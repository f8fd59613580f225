from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tdro_lightning.data.samplers import HeterogeneousBatches
from tdro_lightning.dro.measurement import Measurement
from tdro_lightning.dro.weights import DomainWeights
from tdro_lightning.losses import domain_gradients as gradients
from tdro_lightning.models.adapter import Lora
from tdro_lightning.training.checkpoint import read_checkpoint
from tdro_lightning.training.history import History
from tests.fixtures.training import NAMES, OPTIMISATION

WHOLE = 1_000_000  # tokens: more than a batch has


def state(module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.proxy.state_dict().items()}


def assert_equal_runs(one, other, tolerance: float) -> None:
    torch.testing.assert_close(one.weights.last, other.weights.last, rtol=0, atol=tolerance)
    torch.testing.assert_close(one.weights.mean, other.weights.mean, rtol=0, atol=tolerance)
    theirs = state(other)
    for name, value in state(one).items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=tolerance, msg=name)


def infonce(queries: np.ndarray, passages: np.ndarray, temperature: float):
    """Eq. 2 and its gradients with respect to both sides, in float64."""
    scores = np.einsum("bd,bnd->bn", queries, passages) / temperature
    exponential = np.exp(scores - scores.max(1, keepdims=True))
    softmax = exponential / exponential.sum(1, keepdims=True)
    losses = -np.log(softmax[:, 0])
    slope = softmax.copy()
    slope[:, 0] -= 1
    slope /= temperature
    return losses, np.einsum("bn,bnd->bd", slope, passages), slope[..., None] * queries[:, None]


def test_one_step_equals_numpy(parts, fit) -> None:
    """Eq. 2, 5, 4 and 6 and AdamW by hand; only the backbone's Jacobian comes from torch."""
    module = parts.tdro(dtype="float64")
    data = parts.heterogeneous(module.proxy)
    fit(module, data, steps=1)

    twin = parts.tdro(dtype="float64")
    batch = next(iter(parts.heterogeneous(twin.proxy).train_dataloader()))
    domain, size = batch.domain.numpy(), len(batch)
    queries, passages = twin.proxy(batch.queries), twin.proxy(batch.passages)
    q, p = queries.detach().numpy(), passages.detach().numpy().reshape(size, -1, 16)
    losses, slope_q, slope_p = infonce(q, p, 0.05)
    with torch.no_grad():
        rq = twin.reference(batch.queries).numpy()
        rp = twin.reference(batch.passages).numpy().reshape(size, -1, 16)
    reference, _, _ = infonce(rq, rp, 0.05)

    means = np.array([reference[domain == g].mean() for g in range(3)])
    measured = np.array([losses[domain == g].mean() for g in range(3)])
    measured /= np.maximum(means, 0.5 * np.median(means))
    measured *= min(1, 1 / np.linalg.norm(measured))
    alpha = np.exp(0.1 * measured) / np.exp(0.1 * measured).sum()
    np.testing.assert_allclose(module.weights.last, alpha, atol=1e-12)

    share = (alpha / np.bincount(domain))[domain]
    parameters = dict(twin.proxy.named_parameters())
    gradients = torch.autograd.grad(
        [queries, passages],
        list(parameters.values()),
        [
            torch.from_numpy(share[:, None] * slope_q),
            torch.from_numpy((share[:, None, None] * slope_p).reshape(-1, 16)),
        ],
    )
    grads = {n: g.numpy() for n, g in zip(parameters, gradients, strict=True)}
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    lr = OPTIMISATION.lr / 2  # first of two warm-up steps
    trained = dict(module.proxy.named_parameters())
    for name, parameter in parameters.items():
        gradient = grads[name] * min(1, 1 / (norm + 1e-6))
        decay = 0.1 if parameter.ndim > 1 else 0.0
        # AdamW's first step: both moments are bias-corrected to the gradient itself.
        expected = parameter.detach().numpy() * (1 - lr * decay)
        expected = expected - lr * gradient / (np.abs(gradient) + 1e-8)
        got = trained[name].detach().numpy()
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("dtype", "lr", "tolerance"), [("float64", 1e-2, 1e-10), ("float32", 1e-4, 1e-5)]
)
@pytest.mark.parametrize("rows", [24, 16, 5])
def test_chunks_change_nothing(parts, fit, rows: int, dtype: str, lr: float, tolerance: float):
    """Chunks of so many rows' texts, all run twice but one; 16 is a quarter of the batch of 61."""
    plan = replace(OPTIMISATION, lr=lr)
    whole = parts.tdro(dtype=dtype, optimisation=plan, chunk_tokens=WHOLE)
    chunked = parts.tdro(dtype=dtype, optimisation=plan, chunk_tokens=rows * 5 * 24)
    fit(whole, parts.heterogeneous(whole.proxy, batch_size=61))
    fit(chunked, parts.heterogeneous(chunked.proxy, batch_size=61))
    assert whole.weights.updates == chunked.weights.updates == 6
    assert_equal_runs(whole, chunked, tolerance)


def test_the_order_of_rows_inside_a_domain_changes_nothing(parts, fit, monkeypatch) -> None:
    straight = parts.tdro(dtype="float64")
    shuffled = parts.tdro(dtype="float64", chunk_tokens=500)
    fit(straight, parts.heterogeneous(straight.proxy))
    in_order = HeterogeneousBatches.global_batch

    def reversed_domains(self, step: int):
        draws = in_order(self, step)
        return [d for g in range(3) for d in reversed([x for x in draws if x.domain == g])]

    monkeypatch.setattr(HeterogeneousBatches, "global_batch", reversed_domains)
    fit(shuffled, parts.heterogeneous(shuffled.proxy))
    assert_equal_runs(straight, shuffled, 1e-10)


def test_chunks_replay_dropout(parts, fit, monkeypatch) -> None:
    """The loss that is weighted is the one that was measured, with its graph kept or not."""
    monkeypatch.setattr(gradients, "one_pass_groups", lambda encoder, batch: None)
    changes = {"lora": Lora(r=2, alpha=4, dropout=0.5), "chunk_tokens": 200, "dtype": "float64"}
    kept, replayed = (parts.tdro(**changes, kept_tokens=tokens) for tokens in (WHOLE, 0))
    fit(kept, parts.heterogeneous(kept.proxy))
    fit(replayed, parts.heterogeneous(replayed.proxy))
    assert_equal_runs(kept, replayed, 1e-12)
    other = parts.tdro(**changes, seed=1)
    fit(other, parts.heterogeneous(other.proxy))
    assert not torch.allclose(other.weights.last, kept.weights.last, rtol=0, atol=1e-6)


def test_data_workers_change_nothing(parts, fit) -> None:
    alone, helped = parts.tdro(), parts.tdro()
    fit(alone, parts.heterogeneous(alone.proxy, workers=0))
    fit(helped, parts.heterogeneous(helped.proxy, workers=2))
    assert_equal_runs(alone, helped, 0.0)


def test_a_resumed_run_equals_an_uninterrupted_one(parts, fit, tmp_path: Path) -> None:
    whole = parts.tdro()
    fit(whole, parts.heterogeneous(whole.proxy))
    first = parts.tdro()
    trainer = fit(first, parts.heterogeneous(first.proxy), steps=2)
    trainer.save_checkpoint(tmp_path / "step-0000002")
    saved = read_checkpoint(tmp_path / "step-0000002")
    assert not any(key.startswith("reference.") for key in saved["state_dict"])
    second = parts.tdro()
    fit(second, parts.heterogeneous(second.proxy), ckpt_path=tmp_path / "step-0000002")
    assert second.weights.updates == 6
    assert torch.equal(second.weights.log_weights, whole.weights.log_weights)
    assert_equal_runs(whole, second, 0.0)


def test_the_reference_stays_as_it_was(parts, fit) -> None:
    module = parts.tdro()
    before = {k: v.clone() for k, v in module.reference.state_dict().items()}
    fit(module, parts.heterogeneous(module.proxy))
    assert module.proxy.backbone.training
    assert not any(m.training for m in module.reference.modules())
    for name, value in module.reference.state_dict().items():
        assert torch.equal(value, before[name]), name
    trained = {id(p) for g in module.optimizers().param_groups for p in g["params"]}
    assert trained == {id(p) for p in module.proxy.parameters()}


def test_a_proxy_equal_to_its_reference_moves_no_weight_under_eq_5(parts, fit) -> None:
    module = parts.tdro(measurement=Measurement("ratio", floor=0.0), dtype="float64")
    module.reference.load_state_dict(module.proxy.state_dict())
    fit(module, parts.heterogeneous(module.proxy), steps=1)
    torch.testing.assert_close(module.weights.last, torch.full((3,), 1 / 3, dtype=torch.float64))


def test_a_nan_loss_stops_before_either_update(parts, fit) -> None:
    module = parts.tdro(weights=DomainWeights(NAMES, learning_rate=0.1))
    module.proxy.backbone.embed_tokens.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"proxy losses are not finite.*easy:easy-\d+"):
        fit(module, parts.heterogeneous(module.proxy), steps=1)
    assert module.weights.updates == 0
    assert module.weights.last.tolist() == pytest.approx([1 / 3] * 3)


def test_every_curve_is_logged(parts, fit, tmp_path: Path) -> None:
    module = parts.tdro()
    fit(module, parts.heterogeneous(module.proxy), steps=2, logger=History(tmp_path))
    lines = [line.split(",") for line in (tmp_path / "history.csv").read_text().splitlines()]
    logged = {(step, metric): float(value) for step, metric, value in lines[1:]}
    assert len(logged) == len(lines) - 1
    for step in ("0", "1"):
        for title in ("weights", "measurement", "loss/proxy", "loss/reference", "guarded"):
            assert {(step, f"{title}/{name}") for name in NAMES} <= set(logged)
        weights = [logged[step, f"weights/{name}"] for name in NAMES]
        assert sum(weights) == pytest.approx(1, abs=1e-6)
        assert {(step, name) for name in ("loss", "lr", "grad_norm")} <= set(logged)


def test_a_domain_absent_from_a_step_has_no_curve_there(parts, fit, tmp_path, monkeypatch) -> None:
    """Only its weight continues; a repeated measurement or loss would look like a measured one."""
    in_order = HeterogeneousBatches.global_batch

    def without_the_easy(self, step: int):
        drawn = in_order(self, step)
        return [d._replace(domain=1, row=n) if step and not d.domain else d
                for n, d in enumerate(drawn)]  # fmt: skip

    monkeypatch.setattr(HeterogeneousBatches, "global_batch", without_the_easy)
    module = parts.tdro()
    fit(module, parts.heterogeneous(module.proxy), steps=3, logger=History(tmp_path))
    lines = (tmp_path / "history.csv").read_text().splitlines()
    easy = [tuple(line.split(",")[:2]) for line in lines if "/easy," in line]
    curves = ("measurement", "loss/proxy", "loss/reference", "guarded")
    assert {name for step, name in easy if step == "0"} >= {f"{c}/easy" for c in curves}
    assert {(step, name) for step, name in easy if step != "0"} <= {
        (step, f"{title}/easy") for step in "12" for title in ("weights", "measurement", "guarded")
    }


def test_without_a_reference_the_plain_loss_drives_the_weights(parts, fit) -> None:
    """GroupDRO: the same weights with and without a reference model in memory."""
    arguments = {"measurement": Measurement("plain")}
    without = parts.tdro(**arguments)
    without.reference = None
    given = parts.tdro(**arguments)
    fit(without, parts.heterogeneous(without.proxy))
    fit(given, parts.heterogeneous(given.proxy))
    assert_equal_runs(without, given, 0.0)


@pytest.mark.parametrize("name", ["ratio", "released", "difference", "plain"])
def test_an_all_solved_batch_moves_no_weight(parts, fit, name: str) -> None:
    module = parts.tdro(measurement=Measurement(name))
    module.losses = lambda vectors, count: 0 * vectors[:count].sum(1)
    fit(module, parts.heterogeneous(module.proxy), steps=2)
    torch.testing.assert_close(module.weights.last, torch.full((3,), 1 / 3, dtype=torch.float64))
    for parameter in module.proxy.parameters():
        assert torch.isfinite(parameter).all()
