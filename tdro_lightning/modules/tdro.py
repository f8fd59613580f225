"""The tDRO stage: a proxy trains against a frozen reference while the domain weights move."""

import math
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from tdro_lightning.data.collator import Batch
from tdro_lightning.dro.diagnostics import concentration
from tdro_lightning.dro.measurement import Measurement, domain_means
from tdro_lightning.dro.objective import sample_coefficients
from tdro_lightning.dro.weights import DomainWeights
from tdro_lightning.optim import Optimisation
from tdro_lightning.retrieval.contrastive import hard_negative_losses, require_finite_losses
from tdro_lightning.retrieval.distributed import gather_rows, rank, require_equal_on_all_ranks
from tdro_lightning.retrieval.encoder import Encoder
from tdro_lightning.retrieval.replay import RandomState

CHECK_EVERY = 50  # steps between two checks that all ranks hold the same domain weights


class TDROModule(LightningModule):
    """One step: losses of both models, Eq. 5, Eq. 4, then Eq. 6 with the *new* weights.

    Args:
        proxy: the encoder that trains.
        reference: the encoder whose losses scale the proxy's, frozen here; None where the
            measurement does not look at it.
        weights: the domain weights, stepped once a batch.
        measurement: how losses become headroom.
        temperature: softmax temperature of the contrastive loss.
        optimisation: how the proxy trains.
        chunk_rows: queries in one backward pass; it changes memory, not results. None takes the
            whole batch at once and saves the second forward pass.
    """

    def __init__(
        self,
        proxy: Encoder,
        reference: Encoder | None,
        weights: DomainWeights,
        measurement: Measurement,
        temperature: float,
        optimisation: Optimisation,
        chunk_rows: int | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints leave the reference out
        self.proxy = proxy
        self.reference = reference.freeze() if reference else None
        self.weights = weights
        self.measurement = measurement
        self.temperature = temperature
        self.optimisation = optimisation
        self.chunk_rows = chunk_rows

    def on_train_start(self) -> None:
        """Models arrive in eval mode and the Trainer leaves them there."""
        self.proxy.train()
        if self.reference is not None:
            self.reference.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Eq. 5, Eq. 4 and Eq. 6 on one global batch."""
        chunks = batch.chunks(self.chunk_rows or len(batch))
        with torch.no_grad():
            reference = torch.cat([self.losses(self.reference, chunk) for chunk in chunks])
        states, proxy = self.first_pass(chunks)
        for losses, model in ((reference, "reference"), (proxy, "proxy")):
            require_finite_losses(losses, batch.domain, self.weights.names, batch.query_ids, model)
        coefficients = self.update_weights(proxy.detach(), reference, batch.domain)
        shares = torch.split(coefficients, [len(chunk) for chunk in chunks])
        for chunk, share, state in zip(chunks, shares, states, strict=True):
            self.manual_backward((share * self.second_pass(chunk, state, proxy)).sum())
        self.log_dict(
            self.optimisation.update(self.optimizers(), self.proxy.parameters(), self.global_step)
        )

    def first_pass(self, chunks: list[Batch]) -> tuple[list[RandomState], Tensor]:
        """Proxy losses of all rows; with a single chunk they keep their graph."""
        states, losses = [], []
        with torch.set_grad_enabled(len(chunks) == 1):
            for chunk in chunks:
                states.append(RandomState())
                losses.append(self.losses(self.proxy, chunk))
        return states, torch.cat(losses)

    def second_pass(self, chunk: Batch, state: RandomState, first: Tensor) -> Tensor:
        """Losses of a chunk with graph: those of the first pass, or run again with its dropout."""
        if first.requires_grad:
            return first
        with state.replayed():
            return self.losses(self.proxy, chunk)

    def losses(self, encoder: Encoder | None, batch: Batch) -> Tensor:
        """Per-sample losses against hard negatives only, [B] (Eq. 2); ones without an encoder."""
        if encoder is None:
            return torch.ones(len(batch), device=self.device)
        queries = encoder(batch.queries)
        passages = encoder(batch.passages).unflatten(0, (len(batch), -1))
        return hard_negative_losses(queries, passages, self.temperature)

    def update_weights(self, proxy: Tensor, reference: Tensor, domain: Tensor) -> Tensor:
        """Step the domain weights on the global batch; coefficients [B] of this rank's losses."""
        names, count = self.weights.names, len(self.weights.names)
        proxy, reference, everyone = (gather_rows(v) for v in (proxy, reference, domain))
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
            "guarded": self.measurement.guarded(reference, everyone, count),
        }
        for title, values in curves.items():
            present = zip(names, values.tolist(), strict=True)
            self.log_dict({f"{title}/{n}": v for n, v in present if math.isfinite(v)})
        self.log_dict(concentration(weights))
        self.log("measurement_norm", self.weights.last_measurement.norm())
        self.log("loss", (coefficients * proxy).sum())
        return coefficients[rank() * len(domain) :][: len(domain)]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the proxy; the domain weights step themselves."""
        return self.optimisation.optimiser(self.proxy)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the domain weights; leave out the reference, which its folder holds."""
        checkpoint["domain_weights"] = self.weights.state_dict()
        state = checkpoint["state_dict"]
        for key in [key for key in state if key.startswith("reference.")]:
            del state[key]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue with the saved domain weights, means and counters."""
        self.weights.load_state_dict(checkpoint["domain_weights"])
