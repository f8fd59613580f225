"""One pass against two: the same losses and gradients, with half the forward passes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tdro_lightning.data.collator import Batch
from tdro_lightning.losses.contrastive import hard_negative_losses
from tdro_lightning.losses.domain_gradients import (
    OnePass,
    TwoPasses,
    one_pass_groups,
    row_gradients,
)
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.tokens import Tokens

LORA = Lora(r=2, alpha=4, dropout=0.0)
DOMAINS, ROWS, EACH = 4, 40, 4


@pytest.fixture(scope="module")
def batch() -> Batch:
    """40 rows of 3 of 4 domains, in mixed order, with texts of 2 to 30 tokens."""
    draw = torch.Generator().manual_seed(0)

    def texts(count: int) -> Tokens:
        lengths = torch.randint(2, 31, (count,), generator=draw)
        return Tokens(torch.randint(3, 300, (int(lengths.sum()),), generator=draw), lengths)

    domain = torch.randint(0, DOMAINS - 1, (ROWS,), generator=draw)
    domain[domain == 1] = DOMAINS - 1
    return Batch(texts(ROWS), texts(ROWS * EACH), domain, tuple(map(str, range(ROWS))))


def encoder(folder: Path, lora: Lora | None = LORA, **settings: Any) -> Encoder:
    torch.manual_seed(3)
    made = load_encoder(
        str(folder), pooling="last", query_tokens=32, passage_tokens=32, lora=lora, **settings
    )
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)  # it starts at zero, and then lora_A has no gradient
    return made.train()


def losses(vectors: torch.Tensor, count: int) -> torch.Tensor:
    queries, passages = vectors.tensor_split([count])
    return hard_negative_losses(queries, passages.view(count, EACH, -1), 0.05)


def forwards(made: Encoder) -> list[int]:
    """Padded tokens of every forward pass from now on."""
    seen: list[int] = []
    made.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return seen


def gradients(made: Encoder) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kept_tokens", [400, 700, 2000])
def test_one_pass_gives_the_gradient_of_two(
    tiny_folder: Path, batch: Batch, kept_tokens: int, float64_norms: None
) -> None:
    """Coefficients are chosen after the losses, another one for each domain."""
    settings: dict[str, Any] = {"dtype": "float64", "chunk_tokens": 300}
    two = encoder(tiny_folder, **settings, kept_tokens=kept_tokens)
    one = encoder(tiny_folder, **settings, kept_tokens=kept_tokens)
    groups = one_pass_groups(one, batch)
    assert groups is not None
    assert sorted(torch.cat(groups).tolist()) == list(range(ROWS))
    assert all(len(batch.domain[rows].unique()) == 1 for rows in groups)
    expected = TwoPasses(two, batch, losses, (1,), torch.Tensor.backward)
    found = row_gradients(one, batch, losses, (1,), torch.Tensor.backward)
    assert isinstance(found, OnePass)
    torch.testing.assert_close(found.losses, expected.losses, rtol=0, atol=1e-12)
    assert gradients(one) == {}
    coefficients = found.losses.new_tensor([0.3, 9.0, 0.02, 0.7])[batch.domain]
    expected.backward(coefficients)
    found.backward(coefficients)
    assert gradients(one).keys() == gradients(two).keys() != set()
    for name, gradient in gradients(two).items():
        torch.testing.assert_close(gradients(one)[name], gradient, rtol=1e-12, atol=1e-12)


def test_nothing_runs_twice(tiny_folder: Path, batch: Batch) -> None:
    made = encoder(tiny_folder, chunk_tokens=300, kept_tokens=700)
    seen = forwards(made)
    found = row_gradients(made, batch, losses, (1,), torch.Tensor.backward)
    tokens = int(batch.texts.lengths.sum())
    after = sum(seen)
    assert tokens < after < 1.5 * tokens  # what is more is padding
    found.backward(torch.ones(ROWS))
    assert sum(seen) == after


def test_activations_of_one_group_are_held_at_a_time(tiny_folder: Path, batch: Batch) -> None:
    made = encoder(tiny_folder, chunk_tokens=300, kept_tokens=700)
    groups = one_pass_groups(made, batch)
    assert groups is not None
    for rows in groups:
        lengths = batch.lengths_and_keys[0][rows].flatten()
        chunks = made.chunks(lengths)
        assert made.kept_chunks(lengths, chunks) == len(chunks)


def test_two_passes_where_one_does_not_pay(tiny_folder: Path, batch: Batch) -> None:
    settings: dict[str, Any] = {"chunk_tokens": 300}
    assert one_pass_groups(encoder(tiny_folder, **settings, kept_tokens=700), batch) is not None
    everything = encoder(tiny_folder, **settings, kept_tokens=10**6)
    assert one_pass_groups(everything, batch) is None  # nothing would run twice
    full = encoder(tiny_folder, **settings, lora=None, kept_tokens=700)
    assert one_pass_groups(full, batch) is None
    nearly = encoder(tiny_folder, **settings, kept_tokens=4500)  # little would run twice
    assert one_pass_groups(nearly, batch) is None
    found = row_gradients(full, batch, losses, (1,), torch.Tensor.backward)
    assert isinstance(found, TwoPasses)


def test_dropout_is_a_function_of_the_seed(tiny_folder: Path, batch: Batch, tmp_path: Path) -> None:
    found = []
    for seed in ((1, 0), (1, 0), (1, 1)):
        made = encoder(
            tiny_folder, Lora(r=2, alpha=4, dropout=0.5), chunk_tokens=300, kept_tokens=700
        )
        torch.rand(len(found))  # dropout must not depend on what was drawn before
        one = row_gradients(made, batch, losses, seed, torch.Tensor.backward)
        assert isinstance(one, OnePass)
        found.append(one.losses)
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-3)
