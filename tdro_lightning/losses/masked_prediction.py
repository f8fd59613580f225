"""Masked next-token prediction: a masked token is predicted from the token before it.

So a decoder's own head is used as it was trained, with tokens that see both sides (LLM2Vec, arXiv
2404.05961). Logits are made for the chosen tokens alone, some at a time. Legend: B texts of this
process, C chosen tokens, H hidden size, V terms.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tdro_lightning.data.masking import MaskedBatch
from tdro_lightning.losses.gradient_cache import seed_generators
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.sparse_head import SparseHead

LOGITS = 2**26  # values of logits that are held at a time


def token_losses(states: Tensor, targets: Tensor, head: SparseHead, logits: int = LOGITS) -> Tensor:
    """The cross-entropy of tokens, from states that the language model's head reads.

    Logits are computed in the dtype of the head's weights, the rest in float32, or in float64 for
    such weights, whatever the autocast. The backward pass makes the logits again.

    Args:
        states: [C, H] of the tokens before them.
        targets: [C] the tokens.
        head: of the language model; one that is not trained gets no gradient.
        logits: values of them held at a time, one token's at least.

    Returns:
        [C] losses.
    """
    weight, bias = head.parts
    if not head.trained:
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    at_once = max(1, logits // len(weight))
    with torch.autocast(states.device.type, enabled=False):
        states = head.transform(states.to(weight.dtype))
        parts = [
            checkpoint(
                _cross_entropy, part, weight, bias, tokens,
                use_reentrant=False, preserve_rng_state=False,
            )
            for part, tokens in zip(states.split(at_once), targets.split(at_once), strict=True)
        ]  # fmt: skip
    return torch.cat(parts)


def backward_through_texts(
    encoder: Encoder,
    batch: MaskedBatch,
    count: float,
    seed: tuple[int, ...],
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> Tensor:
    """Add the gradient of the mean loss to the gradients of the model's parameters.

    Texts are run in chunks, each forward and backward, so that one chunk's activations are held.

    Args:
        encoder: with a sparse head, which is the language model's.
        batch: of this process.
        count: chosen tokens of the global batch, by which losses are divided.
        seed: integers that the dropout of this batch depends on.
        backward: runs the backward pass of a scalar; called once a chunk.

    Returns:
        [B] losses of each text's chosen tokens, summed, without gradient.
    """
    tokens, head = batch.passages, encoder.head
    assert isinstance(head, SparseHead), "a language model's head is needed"
    device = tokens.ids.device
    summed = torch.zeros(len(batch), dtype=torch.float64)  # a GPU would add up in any order
    chunks = encoder.chunks(tokens.lengths)
    for number, chunk in enumerate(chunks):
        places = torch.full((len(batch),), -1).index_copy(0, chunk, torch.arange(len(chunk)))
        here = (places[batch.rows] >= 0).nonzero().flatten()
        rows, columns = batch.rows[here], batch.columns[here]
        with seed_generators(*seed, number):
            states = encoder.token_states(*tokens.padded(chunk))
            before = states[places[rows].to(device), (columns - 1).to(device)]
            losses = token_losses(before, batch.targets[here.to(device)], head)
        encoder.reduce_gradients(last=number == len(chunks) - 1)
        backward(losses.sum() / max(1.0, count))
        summed.index_add_(0, rows, losses.detach().to(torch.float64).cpu())
    return summed.to(device)


def _cross_entropy(states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    logits = F.linear(states, weight, bias)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, targets, reduction="none")
