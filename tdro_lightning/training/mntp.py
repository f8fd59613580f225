"""Masked next-token prediction: a decoder learns to use tokens that see both sides."""

from collections.abc import Sequence

import torch

from tdro_lightning.data.masking import MaskedBatch
from tdro_lightning.distributed.collectives import sum_over_processes
from tdro_lightning.distributed.processes import rank
from tdro_lightning.losses.contrastive import require_finite_losses
from tdro_lightning.losses.masked_prediction import backward_through_texts
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.training.encoder_module import EncoderModule
from tdro_lightning.training.history import log_now
from tdro_lightning.training.optim import Optimisation


class MNTPModule(EncoderModule):
    """The mean cross-entropy of the chosen tokens of a global batch.

    Args:
        encoder: the model that trains, with its own head as a sparse one.
        names: domain names, in index order.
        optimisation: how the model trains.
        seed: what dropout depends on besides step and rank.
    """

    def __init__(
        self, encoder: Encoder, names: Sequence[str], optimisation: Optimisation, seed: int = 0
    ) -> None:
        super().__init__(1.0, optimisation, seed)
        self.encoder = encoder
        self.names = tuple(names)

    def encoders(self) -> tuple[Encoder, None]:
        """The model that trains."""
        return self.encoder, None

    def training_step(self, batch: MaskedBatch, batch_idx: int) -> None:
        """One update on one global batch."""
        step = self.global_step  # the update increases it
        own = torch.tensor(len(batch.targets), dtype=torch.float64, device=self.device)
        count = float(sum_over_processes(own))
        seed = (self.seed, step, rank())
        losses = backward_through_texts(self.encoder, batch, count, seed, self.manual_backward)
        require_finite_losses(losses, batch.domain, self.names, batch.query_ids, "language model")
        loss = float(sum_over_processes(losses.sum())) / max(1.0, count)
        updated = self.optimisation.update(self.optimizers(), self.encoder.parameters(), step)
        log_now(self, {"loss": loss, "masked_tokens": count} | updated, step)
        self.log_dict({"loss": loss} | updated, logger=False)
