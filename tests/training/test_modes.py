"""What trains is in train mode from the first step, what is frozen is not, layers run twice."""

import pytest
import torch
from lightning import Callback
from transformers.modeling_layers import GradientCheckpointingLayer


class Modes(Callback):
    """Notes the modes of both models in every step."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bool]] = []

    def on_train_batch_end(self, trainer, pl_module, *rest) -> None:
        proxy, reference = pl_module.proxy.modules(), pl_module.reference.modules()
        self.seen.append((all(m.training for m in proxy), any(m.training for m in reference)))


def test_the_proxy_trains_and_the_reference_does_not(parts, fit) -> None:
    module, modes = parts.tdro(), Modes()
    module.proxy.eval()  # as models arrive
    module.reference.train()
    fit(module, parts.heterogeneous(module.proxy), callbacks=[modes])
    assert modes.seen == [(True, False)] * 6


@pytest.mark.parametrize(("wanted", "times"), [(True, 2), (False, 1)])
def test_layers_run_again_where_activations_are_checkpointed(parts, fit, wanted, times) -> None:
    module = parts.tdro(activation_checkpointing=wanted)
    (layer,) = (m for m in module.proxy.modules() if isinstance(m, GradientCheckpointingLayer))
    calls: list[bool] = []
    layer.self_attn.register_forward_pre_hook(lambda *given: calls.append(torch.is_grad_enabled()))
    fit(module, parts.heterogeneous(module.proxy), steps=1)
    assert sum(calls) == times  # the whole batch is one chunk
