"""Counted kernels against numbers worked out by hand, and against the same model really run."""

from collections import Counter

import pytest
import torch
from torch import nn

from tdro_lightning.models.adapter import Lora, attach_lora
from tdro_lightning.models.language_model import KINDS, sparse_head
from tdro_lightning.models.shapes import architecture_config, from_architecture, from_config
from tdro_lightning.models.sparse_head import SparseShape
from tdro_lightning.training.roofline import (
    ACTIVE,
    FREE_ON_A_GPU,
    GPUS,
    Kernel,
    Kernels,
    Rates,
    head_passes,
    passes,
    seconds,
)
from tests.planning.test_memory import SMALL

RATES = Rates(half=8.0, single=2.0, memory=4.0)


def test_a_linear_layer_by_hand() -> None:
    layer, given = nn.Linear(30, 50), torch.randn(7, 30)
    with Kernels() as counted:
        layer(given)
    (kernel,) = counted.kernels
    assert kernel.flops == 2 * 7 * 30 * 50
    assert kernel.bytes == 4 * (7 * 30 + 30 * 50 + 50 + 7 * 50)
    assert not kernel.half


def test_views_and_what_is_not_read_move_nothing() -> None:
    table = nn.Embedding(1000, 8)
    rows = torch.zeros(3, 2, dtype=torch.long)
    with Kernels() as counted:
        table(rows).view(6, 8).t()[:4]
    assert [(k.name, k.bytes) for k in counted.kernels] == [("embedding", 2 * 4 * 6 * 8)]


def test_a_kernel_takes_the_longer_of_arithmetic_and_traffic() -> None:
    kernels = [Kernel("mm", 80, 4, True), Kernel("mm", 80, 4, False), Kernel("add", 0, 20, True)]
    assert seconds(kernels, RATES) == 80 / 8 + 80 / 2 + 20 / 4


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("lora", [None, Lora(r=4, alpha=8, dropout=0.1)], ids=["full", "lora"])
def test_counting_sees_the_kernels_of_a_real_pass(lora: Lora | None, mixed: bool) -> None:
    made = {}
    for device in ("cpu", "meta"):
        backbone = from_architecture(SMALL, device)
        made[device] = backbone if lora is None else attach_lora(backbone, lora)
    forward, backward = passes(made["meta"].train(), 3, 30, mixed=mixed)
    ids = torch.zeros(3, 30, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed), Kernels(FREE_ON_A_GPU) as real:
        states = made["cpu"].train()(input_ids=ids).last_hidden_state
    products = Counter(k for k in forward if k.flops)
    assert products == Counter(k for k in real.kernels if k.flops)
    # Without values to look at, transformers makes a mask that a real pass goes without.
    assert moved(forward) == pytest.approx(moved(real.kernels), rel=0.1)
    with Kernels(FREE_ON_A_GPU) as real:
        states.sum().backward()
    assert sum(k.flops for k in backward) == sum(k.flops for k in real.kernels) > 0
    assert moved(backward) == pytest.approx(moved(real.kernels), rel=0.1)


@pytest.mark.parametrize("trained", [False, True])
def test_the_head_of_sparse_vectors_is_counted_as_it_runs(trained: bool) -> None:
    """Forward kernel by kernel; backward what its active terms multiply."""
    shape = SparseShape(trained=trained)
    made = {
        device: from_config(
            architecture_config(SMALL | {"vocab_size": 3000}), device, kind=KINDS["causal"]
        )
        for device in ("cpu", "meta")
    }
    real_head, head = (sparse_head(made[device], shape) for device in ("cpu", "meta"))
    forward, backward = head_passes(head, 3, 30)
    states = torch.randn(3, 30, 64, requires_grad=True)
    with Kernels(FREE_ON_A_GPU) as real:
        real_head(states, torch.ones(3, 30))
    assert Counter(k for k in forward if k.flops) == Counter(k for k in real.kernels if k.flops)
    assert sum(k.flops for k in forward) == 2 * 90 * 64 * 3000
    assert moved(forward) == pytest.approx(moved(real.kernels), rel=0.02)
    assert sum(k.flops for k in backward) == 2 * 3 * ACTIVE * 64 * (1 + trained)
    assert 0 < seconds(backward, RATES) < 0.4 * seconds(forward, RATES)


def moved(kernels: list[Kernel]) -> int:
    return sum(kernel.bytes for kernel in kernels)


def test_a_reference_has_no_backward_pass() -> None:
    backbone = from_architecture(SMALL, "meta").requires_grad_(False).eval()
    forward, backward = passes(backbone, 3, 9, mixed=True)
    assert backward == []
    assert sum(kernel.flops for kernel in forward) > 0


def test_the_dropout_of_attention_moves_nothing() -> None:
    """On a GPU it is inside the kernel; a CPU would write the scores of all pairs of tokens."""
    shape = SMALL | {"model_type": "bert", "hidden_dropout_prob": 0.0}
    del shape["num_key_value_heads"]
    moves = []
    for share in (0.0, 0.1):
        backbone = from_architecture(shape | {"attention_probs_dropout_prob": share}, "meta")
        moves.append(passes(backbone.train(), 3, 30, mixed=False))
    assert moves[0] == moves[1]


def test_known_gpus_have_a_memory_that_feeds_few_operations() -> None:
    for name, gpu in GPUS.items():
        assert gpu.half > gpu.single > gpu.memory, name
        assert 100 < gpu.half / gpu.memory < 500, name
