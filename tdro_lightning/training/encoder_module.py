"""What the modules that train share: one encoder, its optimiser, and the watches."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from tdro_lightning.dro.diagnostics import Watches
from tdro_lightning.dro.measurement import Measurement
from tdro_lightning.losses.term_watch import TermWatch
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.sparse_rows import BatchVectors
from tdro_lightning.training.optim import Optimisation
from tdro_lightning.training.strategies import FullyShardedParallel


class EncoderModule(LightningModule):
    """What these modules share: one encoder that trains, its optimiser, and the watches.

    Args:
        temperature: softmax temperature of the contrastive loss.
        optimisation: how the encoder trains.
        seed: what dropout depends on besides step and rank.
        measurement: the one of a tDRO run.
    """

    def __init__(
        self,
        temperature: float,
        optimisation: Optimisation,
        seed: int,
        measurement: Measurement | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.temperature = temperature
        self.optimisation = optimisation
        self.seed = seed
        causes = {
            "optimiser.lr": optimisation.lr,
            "optimiser.warmup_steps": optimisation.warmup_steps,
            "module.temperature": temperature,
        }
        self.watches = Watches(causes, measurement)
        self.term_watch = TermWatch(optimisation.sparsity)

    def encoders(self) -> tuple[Encoder, Encoder | None]:
        """The encoder that trains, and the frozen reference where there is one."""
        raise NotImplementedError

    def add_penalties(
        self,
        vectors: BatchVectors,
        count: int,
        domain: Tensor | None = None,
        names: Sequence[str] = (),
    ) -> dict[str, float]:
        """Add the gradient of what keeps vectors sparse to theirs; returns what is logged.

        Args:
            vectors: [B + P, V] of this process, the queries first, with a gradient.
            count: number of queries, B.
            domain: [B] index of each query's domain; None where they are of one.
            names: domain names, in index order.
        """
        sparsity, step = self.optimisation.sparsity, self.global_step
        if sparsity is None:
            return {}
        logged = sparsity.penalise(vectors, count, step, domain, names)
        self.term_watch.look_at(logged, vectors.shape[1], step)
        return logged

    def configure_model(self) -> None:
        """Spread the encoders over devices where the strategy does that."""
        strategy = self.trainer.strategy
        if isinstance(strategy, FullyShardedParallel):
            for encoder in filter(None, self.encoders()):
                strategy.shard(encoder)

    def on_train_start(self) -> None:
        """Models arrive in eval mode and the Trainer leaves them there."""
        trained, reference = self.encoders()
        trained.train()
        if reference is not None:
            reference.eval()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the encoder that trains; the domain weights step themselves."""
        return self.optimisation.optimiser(self.encoders()[0])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the watches have counted."""
        self.watches.save(checkpoint)
        self.term_watch.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the watches continue to count."""
        self.watches.load(checkpoint)
        self.term_watch.load(checkpoint)
