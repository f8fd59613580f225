"""The memory estimate against numbers worked out by hand, and against what autograd keeps."""

from dataclasses import replace

import pytest
import torch

from tdro_lightning.distributed.collectives import BUCKET
from tdro_lightning.models.adapter import Lora, attach_lora
from tdro_lightning.models.shapes import from_architecture
from tdro_lightning.planning.memory import (
    Model,
    activation_bytes,
    cards_that_hold,
    estimate,
)
from tdro_lightning.planning.model import model_shape

# Llama-3-8B without its head: 32 layers of 218,112,000 and 525,340,672 outside.
LAYER = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096
OUTSIDE = 128256 * 4096 + 4096
PARAMETERS = 32 * LAYER + OUTSIDE
ADAPTER = 8 * 32 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336))

FULL = Model(
    layers=32,
    hidden=4096,
    inner=14336,
    queries=4096,
    keys=1024,
    heads=32,
    layer_values=LAYER,
    frozen=0,
    trained=PARAMETERS,
    frozen_bytes=0,
    trained_bytes=4,
)
LORA = replace(
    FULL,
    layer_values=LAYER + ADAPTER // 32,
    frozen=PARAMETERS,
    trained=ADAPTER,
    frozen_bytes=2,
    trained_bytes=4,
)
STEP = {"tokens": 8192, "vectors": 512, "mixed": True, "checkpointing": True}
SMALL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


def test_the_hand_made_sizes_are_those_of_llama_3_8b() -> None:
    assert PARAMETERS == 7_504_924_672
    assert ADAPTER == 20_971_520
    assert FULL.outside == LORA.outside == OUTSIDE


def test_full_adamw_holds_16_bytes_a_parameter() -> None:
    found = estimate(FULL, **STEP | {"mixed": False})
    assert found.parameters == found.gradients == 4 * PARAMETERS == 30_019_698_688
    assert found.optimiser == 8 * PARAMETERS
    assert found.parameters + found.gradients + found.optimiser == 120_078_794_752
    assert found.reference == 0


def test_mixed_precision_keeps_a_half_copy_of_trained_layers() -> None:
    plain, mixed = (estimate(FULL, **STEP | {"mixed": mixed}) for mixed in (False, True))
    assert mixed.parameters - plain.parameters == 2 * 32 * LAYER
    assert estimate(LORA, **STEP).parameters == 2 * PARAMETERS + 4 * ADAPTER


def test_a_lora_holds_its_frozen_base_and_little_else() -> None:
    found = estimate(LORA, **STEP, reference=True)
    assert found.parameters == found.reference == 2 * PARAMETERS + 4 * ADAPTER == 15_093_735_424
    assert found.gradients == 4 * ADAPTER
    assert found.optimiser == 2 * found.gradients == 167_772_160


def test_a_shared_base_is_held_once_and_domains_have_gradients() -> None:
    alone = estimate(LORA, **STEP)
    found = estimate(LORA, **STEP, reference=True, shared=True, domains=25)
    assert found.reference == 4 * ADAPTER == 83_886_080
    assert found.gradients == 26 * 4 * ADAPTER
    assert found.total - alone.total == 26 * 4 * ADAPTER


def test_several_devices_lay_some_gradients_flat_for_their_sum() -> None:
    single, ddp = (estimate(FULL, **STEP, devices=devices) for devices in (1, 8))
    assert ddp.gradients == single.gradients + 4 * BUCKET
    single, ddp = (estimate(LORA, **STEP, devices=devices) for devices in (1, 8))
    assert ddp.gradients == 2 * single.gradients


def test_fsdp_divides_all_that_is_held_and_gathers_two_layers() -> None:
    found = estimate(FULL, **STEP, devices=8, parameter_shards=8, reference=True)
    gathered = 2 * (2 * LAYER + OUTSIDE)
    assert found.parameters == 4 * PARAMETERS // 8 + gathered
    assert found.gradients == 4 * PARAMETERS // 8 + 4 * OUTSIDE
    assert found.optimiser == PARAMETERS
    assert found.reference == 4 * PARAMETERS // 8 + 2 * OUTSIDE
    adapter = estimate(LORA, **STEP, devices=8, parameter_shards=8)
    assert adapter.gradients == 4 * ADAPTER // 8 + 4 * ADAPTER


@pytest.mark.parametrize("model", [FULL, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_more_devices_never_need_more_of_each(model: Model, reference: bool, mixed: bool) -> None:
    totals = [
        estimate(
            model,
            **STEP | {"mixed": mixed, "vectors": 4096 // devices},
            devices=devices,
            parameter_shards=devices,
            reference=reference,
        ).total
        for devices in (1, 2, 3, 4, 8, 16, 64, 512)
    ]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize("model", [FULL, LORA], ids=["full", "lora"])
def test_checkpointing_and_fewer_tokens_need_less(model: Model) -> None:
    kept = estimate(model, **STEP | {"checkpointing": False})
    assert estimate(model, **STEP).activations < kept.activations / 10
    fewer = estimate(model, **STEP | {"checkpointing": False, "tokens": 4096, "vectors": 256})
    assert fewer.activations == kept.activations / 2


def test_embeddings_and_their_gradients_are_float32() -> None:
    none, some = (estimate(LORA, **STEP | {"vectors": count}) for count in (0, 2048 * 9))
    assert some.activations - none.activations == 2 * 4 * 4096 * 2048 * 9


def test_activations_of_a_token_by_hand() -> None:
    """LoRA in bfloat16: 62.5 bytes for each of the 4096 of the width, and 4 for each head."""
    attention, mlp, inputs, norms = 2 * 2.5, 2 * 4 * 3.5, 2 * 5, 2 * 4
    adapter = 2 * 1 + 5 + 1 + 3.5
    token = 4096 * (attention + mlp + inputs + norms + adapter) + 4 * 32
    assert token == 4096 * 62.5 + 128
    found = activation_bytes(LORA, 100, mixed=True, checkpointing=False, sharded=False)
    assert found == 32 * 100 * token
    found = activation_bytes(LORA, 100, mixed=True, checkpointing=True, sharded=False)
    assert found == 100 * token + 32 * 100 * 4096 * 2


def kept_bytes(backbone: torch.nn.Module, tokens: int, mixed: bool) -> int:
    """Bytes of the tensors that autograd keeps of a forward pass, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    kept: dict[int, int] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    ids = torch.arange(tokens).reshape(-1, 64) % 100
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value),
        torch.autocast("cpu", torch.bfloat16, enabled=mixed),
    ):
        states = backbone(input_ids=ids).last_hidden_state
    assert states.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("dtype", "mixed", "lora"),
    [
        (torch.bfloat16, True, True),
        (torch.float32, True, True),
        (torch.float32, False, True),
        (torch.float32, True, False),
        (torch.float32, False, False),
    ],
)
def test_a_layer_keeps_what_autograd_really_keeps(
    dtype: torch.dtype, mixed: bool, lora: bool, checkpointing: bool
) -> None:
    tokens, found, expected = 2048, [], []
    for layers in (2, 5):
        architecture = SMALL | {"num_hidden_layers": layers}
        backbone = from_architecture(architecture, "cpu", dtype)
        model = attach_lora(backbone, Lora(r=2)) if lora else backbone
        if checkpointing:
            backbone.gradient_checkpointing_enable({"use_reentrant": False})
        found.append(kept_bytes(model.train(), tokens, mixed))
        shape = model_shape(model)
        options = {"mixed": mixed, "checkpointing": checkpointing, "sharded": False}
        expected.append(activation_bytes(shape, tokens, **options))
        if lora and not checkpointing:  # a dropout mask has a byte on a GPU, four on a CPU
            expected[-1] += 3 * layers * tokens * (5 * 64 + 64 + 176)
    # The difference of two depths leaves out what the model keeps around its layers.
    assert found[1] - found[0] == pytest.approx(expected[1] - expected[0], rel=0.04)


def test_a_card_keeps_a_tenth_free() -> None:
    assert cards_that_hold(0) == (24, 40, 80, 141)
    assert cards_that_hold(36 * 10**9) == (40, 80, 141)
    assert cards_that_hold(36 * 10**9 + 1) == (80, 141)
    assert cards_that_hold(127 * 10**9) == ()
