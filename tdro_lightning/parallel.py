"""How a run is spread over processes: Lightning strategies that fit a manual step."""

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, Strategy

from tdro_lightning.errors import ConfigError
from tdro_lightning.processes import processes_here


class SummedGradients(DDPStrategy):
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


def strategy(kind: str, devices: int) -> Strategy | str:
    """The Lightning strategy of a kind.

    Args:
        kind: `single`, or `ddp` with one process a device, started by torchrun.
        devices: processes on this machine.

    Raises:
        ConfigError: the number of processes started is not what the configuration says.
    """
    started = processes_here()
    if kind == "single" and max(started, devices) > 1:
        raise ConfigError(
            f"strategy=single is one process on one device, but {started} were started and "
            f"trainer.devices={devices}; use strategy=ddp"
        )
    if kind == "single":
        return "auto"
    if started != devices:
        raise ConfigError(
            f"trainer.devices={devices}, but {started} processes were started here; launch with "
            f"torchrun --nproc-per-node {devices} -m tdro_lightning ..."
        )
    return SummedGradients(process_group_backend="nccl" if torch.cuda.is_available() else "gloo")
