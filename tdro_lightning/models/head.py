"""From a pooled vector to the embedding: dense layers, fewer dimensions, unit length."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WEIGHTS = "head.safetensors"  # in an encoder's folder

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}


@dataclass(frozen=True)
class DenseShape:
    """A dense layer without its weights.

    Args:
        inputs, outputs: sizes of the vectors.
        bias: whether one is added.
        activation: of `ACTIVATIONS`.
        residual: whether the input, projected where sizes differ, is added to the output.
    """

    inputs: int
    outputs: int
    bias: bool = True
    activation: str = "tanh"
    residual: bool = False


class Dense(nn.Module):
    """A linear layer with its activation, as sentence-transformers' module of this name."""

    def __init__(self, shape: DenseShape) -> None:
        super().__init__()
        self.shape = shape
        self.linear = nn.Linear(shape.inputs, shape.outputs, bias=shape.bias)
        self.activation = ACTIVATIONS[shape.activation]()
        projected = shape.residual and shape.inputs != shape.outputs
        self.residual = nn.Linear(shape.inputs, shape.outputs, bias=False) if projected else None

    def forward(self, vectors: Tensor) -> Tensor:
        """[R, inputs] to [R, outputs]."""
        made: Tensor = self.activation(self.linear(vectors))
        if not self.shape.residual:
            return made
        return made + (vectors if self.residual is None else self.residual(vectors))


class Head(nn.Module):
    """What an encoder does to pooled vectors; by default it scales them to unit length.

    Args:
        dense: layers, one after the other.
        dimensions: first values of a vector that are kept; None keeps all.
        normalized: whether vectors are scaled to unit length at the end.

    Attributes:
        prefixes: numbers of first values that a training makes vectors of their own, Matryoshka.
    """

    def __init__(
        self,
        dense: Sequence[DenseShape] = (),
        dimensions: int | None = None,
        normalized: bool = True,
    ) -> None:
        super().__init__()
        self.dense = nn.ModuleList(Dense(shape) for shape in dense)
        self.dimensions = dimensions
        self.normalized = normalized
        self.prefixes: tuple[int, ...] = ()

    def forward(self, vectors: Tensor) -> Tensor:
        """[R, hidden size] to [R, D], in the precision of the input, float32 at least."""
        for layer in self.layers:
            vectors = layer(vectors.to(layer.linear.weight.dtype))
        vectors = vectors[:, : self.dimensions]
        return F.normalize(vectors, dim=-1) if self.normalized else vectors

    @property
    def layers(self) -> list[Dense]:
        """The dense layers."""
        return [layer for layer in self.dense if isinstance(layer, Dense)]

    def size(self, hidden: int) -> int:
        """Values of an embedding, where pooled vectors have `hidden`."""
        made = self.layers[-1].shape.outputs if self.layers else hidden
        return min(made, self.dimensions or made)

    def describe(self) -> dict[str, Any]:
        """What `load_head` makes the same head of, with its weights."""
        return {
            "dense": [asdict(layer.shape) for layer in self.layers],
            "dimensions": self.dimensions,
            "normalized": self.normalized,
        }

    def take_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copy the weights of the dense layers, in float32.

        Raises:
            RuntimeError: they are of other layers.
        """
        self.load_state_dict({name: value.to(torch.float32) for name, value in weights.items()})


def save_head(head: nn.Module, folder: Path) -> None:
    """Write a head's weights to an encoder's folder; no file where it has none."""
    (folder / WEIGHTS).unlink(missing_ok=True)
    values = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    if values:
        save_file(values, folder / WEIGHTS)


def load_head(described: dict[str, Any], folder: Path) -> Head:
    """The head of an encoder's folder, as its `encoder.json` describes it.

    Raises:
        KeyError, TypeError, RuntimeError, OSError, SafetensorError: the weights are missing,
            damaged, or of another head.
    """
    shapes = [DenseShape(**shape) for shape in described["dense"]]
    head = Head(shapes, described["dimensions"], described["normalized"])
    head.take_weights(load_file(folder / WEIGHTS) if shapes else {})
    return head
