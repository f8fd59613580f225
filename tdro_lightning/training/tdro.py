"""tDRO: a step of the proxy, and of the domain weights."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from tdro_lightning.data.collator import Batch
from tdro_lightning.distributed.collectives import gather_rows, require_equal_on_all_ranks
from tdro_lightning.distributed.processes import rank
from tdro_lightning.dro.diagnostics import by_domain, concentration
from tdro_lightning.dro.measurement import Measurement, domain_means
from tdro_lightning.dro.objective import sample_coefficients
from tdro_lightning.dro.weights import DomainWeights
from tdro_lightning.losses.contrastive import (
    hard_negative_losses,
    require_finite_losses,
)
from tdro_lightning.losses.domain_gradients import OnePass, row_gradients
from tdro_lightning.losses.reference_cache import ReferenceLosses
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.sparse_rows import BatchVectors
from tdro_lightning.training.encoder_module import EncoderModule
from tdro_lightning.training.history import log_now
from tdro_lightning.training.optim import Optimisation

CHECK_EVERY = 50  # steps between two checks that all ranks hold the same domain weights


class TDROModule(EncoderModule):
    """One step: losses of both models, Eq. 5, Eq. 4, then Eq. 6 with the *new* weights.

    Args:
        proxy: the encoder that trains.
        reference: the encoder whose losses scale the proxy's, frozen here; None where the
            measurement does not look at it.
        weights: the domain weights, stepped once a batch.
        measurement: how losses become headroom.
        temperature: softmax temperature of the contrastive loss.
        optimisation: how the proxy trains.
        seed: what dropout depends on besides step and rank.
        reference_cache: losses that the reference need not be run for; None runs it for all.
    """

    def __init__(
        self,
        proxy: Encoder,
        reference: Encoder | None,
        weights: DomainWeights,
        measurement: Measurement,
        temperature: float,
        optimisation: Optimisation,
        seed: int = 0,
        reference_cache: ReferenceLosses | None = None,
    ) -> None:
        super().__init__(temperature, optimisation, seed, measurement)
        self.proxy = proxy
        self.reference = reference.freeze() if reference else None
        self.weights = weights
        self.measurement = measurement
        self.reference_cache = reference_cache

    def encoders(self) -> tuple[Encoder, Encoder | None]:
        """Proxy and reference."""
        return self.proxy, self.reference

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Eq. 5, Eq. 4 and Eq. 6 on one global batch."""
        reference = self.reference_losses(batch)
        step = self.global_step  # the update increases it
        seed = (self.seed, step, rank())
        penalise = None
        if self.optimisation.sparsity:
            penalise = partial(self.penalise, domain=batch.domain)
        proxy = row_gradients(self.proxy, batch, self.losses, seed, self.manual_backward, penalise)
        for losses, model in ((reference, "reference"), (proxy.losses, "proxy")):
            require_finite_losses(losses, batch.domain, self.weights.names, batch.query_ids, model)
        proxy.backward(self.update_weights(proxy.losses, reference, batch))
        updated = self.optimisation.update(self.optimizers(), self.proxy.parameters(), step)
        log_now(self, {**updated, "one_pass": float(isinstance(proxy, OnePass))}, step)
        self.log_dict(updated, logger=False)

    def penalise(self, vectors: BatchVectors, count: int, domain: Tensor) -> None:
        """Add the gradient of what keeps vectors sparse, outside of the measurement."""
        log_now(self, self.add_penalties(vectors, count, domain, self.weights.names))

    def losses(self, vectors: BatchVectors, count: int) -> Tensor:
        """Losses of so many rows against hard negatives only (Eq. 2), from their texts' vectors."""
        queries, passages = vectors.tensor_split([count])
        return hard_negative_losses(queries, passages, self.temperature)

    @torch.no_grad()
    def reference_losses(self, batch: Batch) -> Tensor:
        """The reference's losses, [B]; ones where the measurement does not look at it."""
        reference, cache = self.reference, self.reference_cache
        if reference is None:
            return torch.ones(len(batch), device=self.device)
        if cache is None:
            return self.losses(reference.without_gradient(batch.texts), len(batch))

        def fresh(rows: Tensor) -> Tensor:
            return self.losses(reference.without_gradient(batch.select(rows).texts), len(rows))

        losses, share = cache.get_or_compute(
            batch.queries, batch.passages, fresh, together=reference.sharded
        )
        log_now(self, {"reference_cached": share})
        return losses.to(self.device)

    def update_weights(self, proxy: Tensor, reference: Tensor, batch: Batch) -> Tensor:
        """Step the domain weights on the global batch; coefficients [B] of this rank's losses."""
        names, count = self.weights.names, len(self.weights.names)
        proxy, reference, everyone = (gather_rows(v) for v in (proxy, reference, batch.domain))
        measurement = self.measurement(proxy, reference, everyone, count)
        weights = self.weights.step(measurement)
        if self.weights.updates % CHECK_EVERY == 0:
            require_equal_on_all_ranks(self.weights.log_weights.to(proxy.device), "domain weights")
        coefficients = sample_coefficients(everyone, weights)
        curves = {
            "weights": weights,
            "measurement": measurement,
            "loss/proxy": domain_means(proxy, everyone, count),
            "loss/reference": domain_means(reference, everyone, count),
            "guarded": self.measurement.guarded_share(reference, everyone, count),
        }
        self.watches.look_at_floor(curves["loss/reference"])
        logged = by_domain(curves, names)
        losses = [value for title, value in logged.items() if title.startswith("loss/proxy/")]
        self.watches.look_at_loss(losses, len(batch.passages) // len(batch), self.global_step)
        logged["measurement_norm"] = float(self.weights.last_measurement.norm())
        logged["loss"] = float((coefficients * proxy).sum())
        log_now(self, logged | concentration(weights))
        self.log("loss", logged["loss"], logger=False)
        return coefficients[rank() * len(batch) :][: len(batch)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the domain weights, and what the watches have counted."""
        checkpoint["domain_weights"] = self.weights.state_dict()
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue with the saved domain weights, means and counters."""
        self.weights.load_state_dict(checkpoint["domain_weights"])
        super().on_load_checkpoint(checkpoint)
