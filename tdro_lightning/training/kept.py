"""What a training keeps of its best step, to end with it: an encoder's parameters, or weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from lightning import LightningModule
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from tdro_lightning.dro.weights import DomainWeights
from tdro_lightning.training.strategies import WholeCheckpoints


class Kept(Protocol):
    """A copy of what a run writes at its end. All processes call its methods together."""

    def take(self) -> None:
        """Copy what there is now."""

    def put_back(self) -> None:
        """Replace what there is now by the copy."""

    def state_dict(self) -> dict[str, Any]:
        """The copy as tensors and plain values, whole on the first process, for a checkpoint."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the copy from a checkpoint, and leave what there is now."""


class KeptWeights:
    """Domain weights with their mean, moving average and counters.

    Args:
        weights: those that a run learns.
    """

    def __init__(self, weights: DomainWeights) -> None:
        self._weights = weights
        self._copy: dict[str, Any] = {}

    def take(self) -> None:
        """Copy the weights."""
        self._copy = self._weights.state_dict()

    def put_back(self) -> None:
        """Put the copy in their place."""
        self._weights.load_state_dict(self._copy)

    def state_dict(self) -> dict[str, Any]:
        """The copy."""
        return self._copy

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the copy of a checkpoint."""
        self._copy = dict(state)


class KeptParameters:
    """Trained parameters, of which each process holds its own shards in the host's memory.

    Args:
        module: whose parameters are trained; its strategy writes and reads whole ones.
    """

    def __init__(self, module: LightningModule) -> None:
        self._module = module
        self._copy: dict[str, Tensor] = {}

    def take(self) -> None:
        """Copy the parameters."""
        self._copy = self._read()

    def put_back(self) -> None:
        """Put the copy in their place."""
        self._write(self._copy)

    def state_dict(self) -> dict[str, Any]:
        """The copy by parameter name."""
        with self._in_place():
            whole = self._strategy.lightning_module_state_dict()
            for name in whole:  # on a CPU they are the parameters themselves
                whole[name] = whole[name].clone()
        return whole

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the copy of a checkpoint, which every process has read."""
        now = self._read()
        self._strategy.load_model_state_dict({"state_dict": state})
        self.take()
        self._write(now)

    @property
    def _strategy(self) -> WholeCheckpoints:
        strategy = self._module.trainer.strategy
        assert isinstance(strategy, WholeCheckpoints)
        return strategy

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Have the copy in the parameters' place for a block."""
        now = self._read()
        self.put_back()
        try:
            yield
        finally:
            self._write(now)

    def _read(self) -> dict[str, Tensor]:
        return {name: shard.to("cpu", copy=True) for name, shard in self._shards()}

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, shard in self._shards():
            shard.copy_(values[name])

    def _shards(self) -> Iterator[tuple[str, Tensor]]:
        """This process's part of each trained parameter."""
        for part in self._module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()  # after a forward pass alone, some are still whole
        for name, parameter in self._module.named_parameters():
            if parameter.requires_grad:
                value = parameter.detach()
                yield name, value.to_local() if isinstance(value, DTensor) else value
