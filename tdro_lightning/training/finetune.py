"""Contrastive fine-tuning in batches of one domain each, as the paper's second stage does."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tdro_lightning.data.collator import Batch
from tdro_lightning.distributed.collectives import gather_rows
from tdro_lightning.distributed.processes import rank, world_size
from tdro_lightning.losses.contrastive import LOSSES, require_finite_losses, sum_over_prefixes
from tdro_lightning.losses.gradient_cache import CachedEmbeddings
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.sparse_rows import gather_vectors
from tdro_lightning.training.encoder_module import EncoderModule
from tdro_lightning.training.history import log_now
from tdro_lightning.training.optim import Optimisation


class FinetuneModule(EncoderModule):
    """A loss of each query against all passages of a global batch of one domain (Eq. 7).

    With uniform weights it makes the reference. An encoder with prefixes trains on each of them.

    Args:
        encoder: the encoder that trains.
        names: domain names, in index order.
        loss_scale: factor on the loss of each domain's batches (1 except under loss reweighting).
        temperature: softmax temperature.
        optimisation: how the encoder trains.
        seed: what dropout depends on besides step and rank.
        mask_duplicates: a passage that equals a query's positive is no negative of it.
        loss: of `LOSSES`.
    """

    def __init__(
        self,
        encoder: Encoder,
        names: Sequence[str],
        loss_scale: Sequence[float],
        temperature: float,
        optimisation: Optimisation,
        seed: int = 0,
        mask_duplicates: bool = False,
        loss: str = "infonce",
    ) -> None:
        super().__init__(temperature, optimisation, seed)
        self.encoder = encoder
        self.names = tuple(names)
        self.loss_scale = tuple(loss_scale)
        self.mask_duplicates = mask_duplicates
        self.loss = loss

    def encoders(self) -> tuple[Encoder, None]:
        """The encoder."""
        return self.encoder, None

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One update on one global batch of one domain."""
        step = self.global_step  # the update increases it
        cache = CachedEmbeddings(self.encoder, batch.texts, (self.seed, step, rank()))
        queries, passages = cache.vectors.tensor_split([len(batch)])
        # The positive is the first passage of a row; those of the ranks stand one after the other.
        rows = rank() * len(batch) + torch.arange(len(batch), device=queries.device)
        positive = rows * (len(passages) // len(batch))
        passages = gather_vectors(passages, self.encoder.sparse)
        losses = sum_over_prefixes(
            LOSSES[self.loss],
            self.encoder.head.prefixes,
            queries,
            passages,
            positive,
            self.temperature,
            self._keys(batch),
        )
        require_finite_losses(losses, batch.domain, self.names, batch.query_ids, "retriever")
        domain = int(batch.domain[0])
        self.manual_backward(self.loss_scale[domain] * losses.sum() / (len(batch) * world_size()))
        penalties = self.add_penalties(cache.vectors, len(batch))
        cache.backward(self.manual_backward)
        loss = float(gather_rows(losses.detach()).mean())
        self.watches.look_at_loss([loss], len(passages), step)
        updated = self.optimisation.update(self.optimizers(), self.encoder.parameters(), step)
        logged = {"loss": loss, f"loss/{self.names[domain]}": loss}
        log_now(self, logged | penalties | updated, step)
        self.log_dict({"loss": loss} | updated, logger=False)

    def _keys(self, batch: Batch) -> Tensor | None:
        """Keys of the global batch's passages, where equal ones are masked."""
        keys = batch.passages.keys
        if not self.mask_duplicates or keys is None:
            return None
        return gather_rows(keys.to(self.device))
