from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tdro_lightning.data.domains import load_domains
from tdro_lightning.training.finetune import FinetuneModule
from tdro_lightning.training.history import History
from tdro_lightning.training.optim import Optimisation
from tests.fixtures.training import NAMES
from tests.made_up import unrounded_norms, write_domains


def test_the_loss_is_over_all_passages_of_the_batch(parts, fit) -> None:
    module = parts.finetune()
    trainer = fit(module, parts.homogeneous(module.encoder), steps=1)

    twin = parts.finetune()
    batch = next(iter(parts.homogeneous(twin.encoder).train_dataloader()))
    assert len(set(batch.domain.tolist())) == 1
    with torch.no_grad():
        q = twin.encoder(batch.queries).double().numpy()
        p = twin.encoder(batch.passages).double().numpy()
    scores = q @ p.T / 0.05
    positive = np.arange(len(q)) * 2
    logsumexp = np.log(np.exp(scores - scores.max()).sum(1)) + scores.max()
    by_hand = (logsumexp - scores[np.arange(len(q)), positive]).mean()
    assert float(trainer.callback_metrics["loss"]) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_passages_equal_to_the_positive_are_masked(
    parts, fit, tmp_path: Path, monkeypatch, masked: bool
) -> None:
    """Loss and gradient of a batch in which three rows each share a positive, from each text run
    by itself in float64."""
    catalogue = write_domains(tmp_path / "rows", share=3)
    domains = load_domains(catalogue, root=str(tmp_path / "rows"), hub=None, only=None)
    own = replace(parts, domains=domains)
    with unrounded_norms():
        module = own.finetune(
            dtype="float64", chunk_tokens=100, kept_tokens=200, mask_duplicates=masked
        )
        batch = next(iter(own.homogeneous(module.encoder).train_dataloader()))
        gradients: dict[str, torch.Tensor] = {}
        update = Optimisation.update

        def note(self: Optimisation, *given: Any) -> dict[str, float]:
            gradients.update(taken(module))
            return update(self, *given)

        monkeypatch.setattr(Optimisation, "update", note)
        trainer = fit(module, own.homogeneous(module.encoder), steps=1)

        twin = own.finetune(dtype="float64")
        q = twin.encoder(batch.queries)
        p = torch.cat([twin.encoder(batch.passages.chosen(torch.tensor([i]))) for i in range(24)])
        texts = [tuple(batch.passages.chosen(torch.tensor([i])).ids.tolist()) for i in range(24)]
        assert len(set(texts)) < 22
        losses = []
        for row in range(len(q)):
            negatives = [
                i for i in range(24)
                if i != 2 * row and not (masked and texts[i] == texts[2 * row])
            ]  # fmt: skip
            scores = q[row] @ p[[2 * row, *negatives]].T / 0.05
            losses.append(scores.logsumexp(0) - scores[0])
        loss = torch.stack(losses).mean()
        loss.backward()
    logged = float(trainer.callback_metrics["loss"])  # in float32
    assert logged == pytest.approx(float(loss.detach()), abs=1e-6)
    expected = taken(twin)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-9)


def taken(module: FinetuneModule) -> dict[str, torch.Tensor]:
    named = module.encoder.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def test_training_lowers_the_loss(parts, fit) -> None:
    module = parts.finetune()
    data = parts.homogeneous(module.encoder)
    batch = next(iter(data.train_dataloader()))

    def loss() -> float:
        with torch.no_grad():
            scores = module.encoder(batch.queries) @ module.encoder(batch.passages).T / 0.05
        return torch.nn.functional.cross_entropy(scores, torch.arange(len(batch)) * 2).item()

    before = loss()
    fit(module, data)
    assert loss() < before - 0.1


def test_loss_scale_zero_freezes_a_domain(parts, fit) -> None:
    """With scale 0 everywhere only weight decay moves the matrices, and vectors stay."""
    module = parts.finetune(loss_scale=[0.0, 0.0, 0.0])
    before = {n: p.detach().clone() for n, p in module.encoder.named_parameters()}
    fit(module, parts.homogeneous(module.encoder), steps=1)
    lr = module.optimisation.lr_at(0)
    for name, parameter in module.encoder.named_parameters():
        decay = lr * 0.1 if parameter.ndim > 1 else 0.0
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - decay))


def test_loss_scale_scales_the_gradient(parts, fit) -> None:
    norms = []
    for scale in (1.0, 3.0):
        module = parts.finetune(loss_scale=[scale] * 3)
        trainer = fit(module, parts.homogeneous(module.encoder), steps=1)
        norms.append(float(trainer.callback_metrics["grad_norm"]))
    assert norms[1] == pytest.approx(3 * norms[0], rel=1e-5)


def test_a_resumed_run_equals_an_uninterrupted_one(parts, fit, tmp_path) -> None:
    whole = parts.finetune()
    fit(whole, parts.homogeneous(whole.encoder))
    first = parts.finetune()
    trainer = fit(first, parts.homogeneous(first.encoder), steps=4)
    trainer.save_checkpoint(tmp_path / "step-0000004")
    second = parts.finetune()
    fit(second, parts.homogeneous(second.encoder), ckpt_path=tmp_path / "step-0000004")
    theirs = dict(second.encoder.named_parameters())
    for name, parameter in whole.encoder.named_parameters():
        assert torch.equal(parameter, theirs[name]), name


def test_a_nan_loss_stops_and_names_the_row(parts, fit) -> None:
    module = parts.finetune()
    module.encoder.backbone.embed_tokens.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="retriever losses are not finite"):
        fit(module, parts.homogeneous(module.encoder), steps=1)


def test_each_step_logs_the_loss_of_its_own_domain_only(parts, fit, tmp_path) -> None:
    module = parts.finetune()
    data = parts.homogeneous(module.encoder)
    fit(module, data, logger=History(tmp_path))
    lines = [line.split(",") for line in (tmp_path / "history.csv").read_text().splitlines()[1:]]
    of_domains = [(int(step), name) for step, name, _ in lines if name.startswith("loss/")]
    assert of_domains == [(s, f"loss/{NAMES[d]}") for s, d in enumerate(data.sampler().domains)]
