"""From token states to sparse vectors: one weight for each term of the vocabulary.

The weight of a term is log(1 + relu(scale * z)), where z is the largest of its logits over a text's
tokens; some published models take the logarithm of 1 + that once more. The logits of a batch,
[R, L, V], are never held: see `tiled_max`. Legend: R texts, L tokens a text, H hidden size,
V terms.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Partial
from transformers import PreTrainedModel

from tdro_lightning.errors import ConfigError
from tdro_lightning.models.tiled_max import TILE, sparse_vectors

# The parts between the last hidden states and the output layer of masked language models, by the
# name of that layer: names of submodules, or a function. Others, decoders among them, have none.
TRANSFORMS: dict[str, tuple[str | type[nn.Module], ...]] = {
    "cls.predictions.decoder": ("cls.predictions.transform",),  # BERT
    "lm_head.decoder": ("lm_head.dense", nn.GELU, "lm_head.layer_norm"),  # RoBERTa, XLM-R
    "vocab_projector": ("vocab_transform", "activation", "vocab_layer_norm"),  # DistilBERT
    "decoder": ("head",),  # ModernBERT
}


def quarter_scale(hidden: int) -> float:
    """H ** -0.25, by which Lion-SP multiplies logits (Zeng et al. 2025, arXiv 2502.15526)."""
    return float(hidden**-0.25)


def all_tokens(ids: Tensor, mask: Tensor, special: Tensor) -> Tensor:
    """All tokens of a text."""
    return mask.bool()


def text_tokens(ids: Tensor, mask: Tensor, special: Tensor) -> Tensor:
    """Those that are not special."""
    return mask.bool() & ~torch.isin(ids, special.to(ids))


# What logits are multiplied by, from the hidden size H.
SCALES: dict[str, Callable[[int], float]] = {"one": lambda hidden: 1.0, "quarter": quarter_scale}

# Which tokens count, from ids [R, L], mask [R, L] and ids of special tokens [S], to [R, L].
POOLED: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "all": all_tokens,
    "no_special": text_tokens,
}

# What becomes of log(1 + relu(scale * z)), by the names of sentence-transformers.
SATURATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda weights: weights,
    "log1p_relu": torch.log1p,
}


@dataclass(frozen=True)
class SparseShape:
    """A sparse head without its weights.

    Args:
        scale: of `SCALES`.
        pooled: of `POOLED`.
        trained: whether the head learns.
        language_model: kind of the language model whose head it was; None takes what the model's
            configuration says.
        saturation: of `SATURATIONS`; published folders have others than the first.
    """

    scale: str = "one"
    pooled: str = "all"
    trained: bool = False
    language_model: str | None = None
    saturation: str = "relu"

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"scale={self.scale!r} must be one of {', '.join(SCALES)}")
        if self.pooled not in POOLED:
            raise ValueError(f"pooled={self.pooled!r} must be one of {', '.join(POOLED)}")
        if self.saturation not in SATURATIONS:
            allowed = ", ".join(SATURATIONS)
            raise ValueError(f"saturation={self.saturation!r} must be one of {allowed}")


class SparseHead(nn.Module):
    """The head of a language model, with its logits pooled to one weight for each term.

    Args:
        output: the layer that gives logits, with a `weight` [V, H] and perhaps a `bias` [V].
        transform: what token states pass before it, H to H; None is nothing.
        embedding: the backbone's, where the output layer has its weight. It is then saved, moved,
            sharded and frozen there; the head registers the bias alone.
        scale: what logits are multiplied by, above 0: see `quarter_scale`.
        pooled: tokens that count, of `POOLED`: all of a text, or those that are not special.
        tile: terms whose logits are held at a time; it changes memory and speed, not results.
        trained: whether the head learns. If not, it gives its weight no gradient, whether the
            embedding that it is tied to trains or not.
    """

    embedding: Any
    output: Any
    bias: Tensor | None
    shape: SparseShape  # what it was made of, for an encoder's folder
    prefixes: tuple[int, ...] = ()
    normalized = False  # vectors have no unit length
    saturation: str = "relu"  # of `SATURATIONS`

    def __init__(
        self,
        output: nn.Module,
        transform: nn.Module | None = None,
        embedding: nn.Module | None = None,
        *,
        scale: float = 1.0,
        pooled: str = "all",
        tile: int = TILE,
        trained: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < scale < float("inf"):
            raise ConfigError(f"scale={scale} of a sparse head: must be a number above 0")
        if pooled not in POOLED:
            raise ConfigError(f"pooled={pooled!r} of a sparse head: must be {' or '.join(POOLED)}")
        if tile < 1:
            raise ConfigError(f"tile={tile} of a sparse head: must be at least 1")
        self.transform = nn.Identity() if transform is None else transform
        if embedding is None:
            self.output = output
        else:  # a submodule of the backbone only, so that no parameter is found twice
            self.bias = getattr(output, "bias", None)
            self.__dict__["embedding"] = embedding
        self.tied = embedding is not None
        self.scale, self.pooled, self.tile = scale, pooled, tile
        self.trained = trained
        if not trained:
            self.requires_grad_(False)

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        *,
        scale: float = 1.0,
        pooled: str = "all",
        tile: int = TILE,
        trained: bool = False,
    ) -> Self:
        """The head of a causal or masked language model, sharing its modules and weights.

        Args:
            model: a `...ForCausalLM` or `...ForMaskedLM` of transformers. It is run once, on three
                tokens, to see that the head gives its logits, unless it is on `meta`.
            scale, pooled, tile, trained: as for the class.

        Raises:
            ConfigError: it has no such head, or one that does more than is known here.
        """
        output = model.get_output_embeddings()
        if not isinstance(getattr(output, "weight", None), Tensor):
            raise ConfigError(
                f"{type(model).__name__} ({model.name_or_path or 'no path'}) has no "
                "language-model head, which sparse vectors need; load it as a causal or masked "
                "language model, or take another model"
            )
        name = next(name for name, module in model.named_modules() if module is output)
        parts = [
            model.get_submodule(part) if isinstance(part, str) else part()
            for part in TRANSFORMS.get(name, ())
        ]
        embedding: Any = model.get_input_embeddings()
        head = cls(
            output,
            nn.Sequential(*parts) if parts else None,
            embedding if embedding.weight is output.weight else None,
            scale=scale,
            pooled=pooled,
            tile=tile,
            trained=trained,
        )
        if model.device.type != "meta":
            _require_its_logits(model, head)
        return head

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Sparse vectors of texts.

        The transform and the logits are computed in the dtype of the head's weights, whatever the
        autocast; the rest in float32, or in float64 for such weights.

        Args:
            states: [R, L, H] last hidden states.
            mask: [R, L] true where a token counts, see `counted`; a text without any gets zeros.

        Returns:
            [R, V], at least 0.
        """
        weight, bias = self.parts
        if not self.trained:
            weight, bias = weight.detach(), None if bias is None else bias.detach()
        with torch.autocast(states.device.type, enabled=False):
            states = self.transform(states.to(weight.dtype))
            vectors = sparse_vectors(states, weight, bias, mask, self.scale, self.tile)
            return SATURATIONS[self.saturation](vectors)

    def counted(self, ids: Tensor, mask: Tensor, special: Tensor) -> Tensor:
        """The mask for `forward`.

        Args:
            ids: [R, L] token ids.
            mask: [R, L] true where a token stands.
            special: ids of the special tokens.

        Returns:
            [R, L] true where a token stands and counts.
        """
        return POOLED[self.pooled](ids, mask, special)

    @property
    def terms(self) -> int:
        """Values of a vector, V."""
        return len((self.embedding if self.tied else self.output).weight)

    def size(self, hidden: int) -> int:
        """Values of an embedding, whatever the hidden size is."""
        return self.terms

    def describe(self) -> dict[str, Any]:
        """What a folder says of it; its weights are the language model's, or lie beside."""
        return {"kind": "sparse", **asdict(self.shape)}

    @property
    def parts(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, H] and bias [V] of the output layer, collected where they are sharded."""
        weight = (self.embedding if self.tied else self.output).weight
        bias = self.bias if self.tied else getattr(self.output, "bias", None)
        return _whole(weight), None if bias is None else _whole(bias)


def to_csr(vectors: Tensor) -> csr_matrix:
    """Sparse vectors [R, V] as a matrix of their nonzero values, float32 or float64."""
    vectors = vectors.detach()
    rows, terms = vectors.nonzero(as_tuple=True)
    values = vectors[rows, terms].to(torch.promote_types(vectors.dtype, torch.float32))
    starts = np.zeros(len(vectors) + 1, dtype=np.int64)
    starts[1:] = (vectors != 0).sum(1).cumsum(0).cpu().numpy()
    parts = (values.cpu().numpy(), terms.to(torch.int32).cpu().numpy(), starts)
    return csr_matrix(parts, shape=tuple(vectors.shape))


def from_csr(matrix: csr_matrix) -> Tensor:
    """Sparse vectors [R, V] of a matrix of their nonzero values, in its dtype, on the CPU."""
    return torch.from_numpy(matrix.toarray())


def _whole(weight: Any) -> Tensor:
    """A parameter, collected where it is spread over processes; its gradient is then summed."""
    if not isinstance(weight, DTensor):
        return weight
    return weight.full_tensor(grad_placements=[Partial()] * weight.device_mesh.ndim)


@torch.no_grad()
def _require_its_logits(model: PreTrainedModel, head: SparseHead) -> None:
    """Refuse a model whose logits are not what the head makes of its last hidden states.

    Raises:
        ConfigError: as with capped or scaled logits, or a transform that is not known here.
    """
    states: list[Tensor] = []
    hook = model.base_model.register_forward_hook(lambda *seen: states.append(seen[2][0]))
    was_training = model.training
    try:
        ids = torch.arange(3, device=model.device)[None] % head.terms
        expected = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    finally:
        hook.remove()
        model.train(was_training)
    weight, bias = head.parts
    given = head.transform(states[0].to(weight.dtype))
    rough = torch.finfo(weight.dtype).eps > 1e-6
    most = float(expected.abs().max()) * (2e-2 if rough else 1e-4)
    if given.shape[-1] == weight.shape[1]:
        found = F.linear(given, weight, bias)
        if bool(((found - expected).abs() <= most).all()):
            return
    raise ConfigError(
        f"{type(model).__name__} ({model.name_or_path or 'no path'}): its logits are not those "
        "of its output layer, as where they are capped or scaled, or what comes before that layer "
        "is not known here; take another model for sparse vectors"
    )
