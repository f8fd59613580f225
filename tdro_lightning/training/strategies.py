"""How a run is spread over processes: Lightning strategies that fit a manual step.

All of them write and read one kind of checkpoint, so a run may resume under another strategy or
with another number of processes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.optim import Optimizer

from tdro_lightning.distributed.processes import backend, local_processes, world_size
from tdro_lightning.errors import ConfigError
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.shapes import transformer_layers
from tdro_lightning.training.checkpoint import read_checkpoint, write_checkpoint

SAVED = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
LOADED = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)


class WholeCheckpoints(Strategy):
    """Checkpoints of whole tensors by parameter name, without what is frozen.

    The base of a LoRA model and the reference lie in folders of their own and do not change.
    """

    lightning_restore_optimizer = True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Trained parameters, gathered on the first rank."""
        return get_model_state_dict(self._module, options=SAVED)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Optimiser state by parameter name, gathered on the first rank."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer._optimizer
        return get_optimizer_state_dict(self._module, optimizer, options=SAVED)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Write the checkpoint's folder, on the first rank."""
        if self.is_global_zero:
            write_checkpoint(Path(filepath), checkpoint)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The state of a checkpoint, read where a rank needs it."""
        return read_checkpoint(Path(checkpoint_path))

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Put the trained parameters in place.

        Raises:
            ConfigError: the checkpoint is of another model.
        """
        saved = checkpoint["state_dict"]
        trained = {n for n, p in self._module.named_parameters() if p.requires_grad}
        if trained != saved.keys():
            raise ConfigError(
                "the checkpoint holds other trained parameters than this model: "
                f"{sorted(trained ^ saved.keys())[:3]} ...; give the same model and adapter"
            )
        set_model_state_dict(self._module, saved, options=LOADED)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Put the optimiser's state in place."""
        (optimizer,), (state,) = self.optimizers, checkpoint["optimizer_states"]
        set_optimizer_state_dict(self._module, optimizer, state, options=LOADED)

    @property
    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module


class OneDevice(WholeCheckpoints, SingleDeviceStrategy):
    """One process on one device."""


class DataParallel(WholeCheckpoints, DDPStrategy):
    """Data parallel without DDP's wrapper and its gradient hooks.

    A step runs several forward and backward passes. DDP would reduce the gradients at each of them,
    or, where a pass goes around its wrapper, leave them unreduced without a word. Our losses are
    divided by global counts, so `Optimisation.update` sums the gradients once, after the last pass.
    """

    def configure_ddp(self) -> None:
        """Give every process the first one's parameters; the model is left unwrapped."""
        assert self.model is not None
        for value in (*self.model.parameters(), *self.model.buffers()):
            dist.broadcast(value.detach(), src=0)


class FullyShardedParallel(WholeCheckpoints, ModelParallelStrategy):
    """Parameters, gradients and optimiser state spread over all processes (FSDP2).

    Args:
        cpu_offload: keep the shards in the host's memory between their uses.
    """

    def __init__(self, cpu_offload: bool = False) -> None:
        super().__init__(
            data_parallel_size=world_size(),
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=backend(),
        )
        self.offload = CPUOffloadPolicy() if cpu_offload else OffloadPolicy()

    def model_to_device(self) -> None:
        """Sharding has put everything in its place; what is offloaded must stay there."""
        if not isinstance(self.offload, CPUOffloadPolicy):
            super().model_to_device()

    def shard(self, encoder: Encoder) -> None:
        """Shard an encoder's backbone in place, a group a layer.

        Raises:
            ConfigError: it has a head that trains, or that would lie elsewhere than the rest.
        """
        backbone = encoder.backbone
        if isinstance(backbone, FSDPModule):
            return
        require_frozen_head(encoder, offloaded=isinstance(self.offload, CPUOffloadPolicy))
        # Autocast would cast what has been gathered in float32; gathering in bf16 is half the work.
        half = torch.bfloat16 if self.precision_plugin.precision == "bf16-mixed" else None
        precision = MixedPrecisionPolicy(half, reduce_dtype=torch.float32 if half else None)
        for module in (*transformer_layers(backbone), backbone):
            sharded: FSDPModule = fully_shard(
                module,
                mesh=self.device_mesh["data_parallel"],
                mp_policy=precision,
                offload_policy=self.offload,
            )
            # Our losses are divided by global counts: gradients are summed, not averaged.
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)  # gloo cannot scale while it sums


def require_frozen_head(encoder: Encoder, *, offloaded: bool) -> None:
    """Refuse to shard an encoder whose head trains, or would lie elsewhere than the rest.

    Raises:
        ConfigError: names what to change.
    """
    trains = any(p.requires_grad for p in encoder.head.parameters())
    held = encoder.sparse or encoder.head.dense
    if trains or (held and offloaded):
        raise ConfigError(
            "strategy=fsdp does not shard the head of this model, dense layers behind its "
            "pooling or a sparse head: use strategy=ddp, or train an adapter (model.lora) "
            "without model.sparse.trained and strategy.cpu_offload"
        )


def checkpoint_activations(encoder: Encoder) -> None:
    """Keep only the inputs of each layer while training, and run it again in the backward pass."""
    encoder.backbone.activation_checkpointing_enable({"use_reentrant": False})


def strategy(kind: str, devices: int | None, cpu_offload: bool = False) -> Strategy:
    """The Lightning strategy of a kind.

    Args:
        kind: `single`; `ddp` or `fsdp` with one process a device, started by torchrun.
        devices: processes on each machine; None takes as many as were started.
        cpu_offload: of `fsdp`, keep the shards in the host's memory.

    Raises:
        ConfigError: the number of processes started is not what the configuration says, or there
            is no GPU to offload from.
    """
    if cpu_offload and not torch.cuda.is_available():
        raise ConfigError("strategy.cpu_offload=true needs a GPU: without one all is in the host")
    if kind == "single" and max(world_size(), devices or 1) > 1:
        raise ConfigError(
            f"strategy=single is one process on one device, but {world_size()} were started and "
            f"trainer.devices={devices}; use strategy=ddp or strategy=fsdp"
        )
    if devices not in (None, local_processes()):
        raise ConfigError(
            f"trainer.devices={devices}, but {local_processes()} processes were started here; "
            f"launch with torchrun --nproc-per-node {devices} -m tdro_lightning ..."
        )
    if kind == "single":
        return OneDevice(torch.device("cuda", 0) if torch.cuda.is_available() else "cpu")
    if kind == "ddp":
        return DataParallel(process_group_backend=backend())
    return FullyShardedParallel(cpu_offload)
