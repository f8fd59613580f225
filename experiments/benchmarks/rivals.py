"""The same work done otherwise: a step padded to the longest text, and sentence-transformers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from steps import TEMPERATURE, Settings, autocast
from torch import Tensor

from tdro_lightning.data.collator import Batch
from tdro_lightning.data.example import Example
from tdro_lightning.dro.objective import sample_coefficients
from tdro_lightning.losses.contrastive import hard_negative_losses
from tdro_lightning.models.adapter import Lora, attach_lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import select_attention
from tdro_lightning.models.pooling import POOLINGS
from tdro_lightning.models.tokens import Tokens
from tdro_lightning.training.optim import Optimisation
from tdro_lightning.training.tdro import TDROModule

Padded = tuple[Tensor, Tensor]  # ids and mask, each [N, longest]


class PaddedStep:
    """tDRO as usually written: mini-batches of texts in their order, each padded to its longest.

    Args:
        settings: of the run.
        module: its encoders, domain weights and optimisation are used, and its proxy trains.
        batch: what is trained on.
    """

    def __init__(self, settings: Settings, module: TDROModule, batch: Batch) -> None:
        self._settings, self._module = settings, module
        self._domain = batch.domain.to(settings.device)
        self._texts = batch.queries, batch.passages
        self.tune(32)
        self._optimiser = module.configure_optimizers()
        module.proxy.train()

    def tune(self, texts: int) -> None:
        """Take mini-batches of so many texts, padded before any time counts, from now on."""
        self._queries, self._passages = (
            [_padded(tokens, rows, self._settings.device) for rows in _rows(tokens, texts)]
            for tokens in self._texts
        )

    def __call__(self) -> None:
        """One step, in the order of ours."""
        module = self._module
        assert module.reference is not None
        with autocast(self._settings):
            with torch.no_grad():
                reference = self._losses(module.reference)
            proxy = self._losses(module.proxy)
        names = module.weights.names
        measured = module.measurement(proxy.detach(), reference, self._domain, len(names))
        weights = module.weights.step(measured)
        (sample_coefficients(self._domain, weights) * proxy).sum().backward()
        module.optimisation.update(self._optimiser, module.proxy.parameters(), step=0)

    @torch.no_grad()
    def loss(self) -> float:
        """Mean loss of the proxy in its own precision."""
        return float(self._losses(self._module.proxy).mean())

    def _losses(self, encoder: Encoder) -> Tensor:
        queries, passages = (
            torch.cat([_embedded(encoder, padded) for padded in batches])
            for batches in (self._queries, self._passages)
        )
        rows = passages.view(len(queries), -1, passages.shape[-1])
        return hard_negative_losses(queries, rows, TEMPERATURE)


class SentenceTransformersStep:
    """A step with the cached loss of sentence-transformers: loss, backward, clip, AdamW.

    Args:
        settings: of the run.
        folder: the model, as `Encoder.save` writes it.
        examples: queries with their passages, as strings.
        optimisation: the same as ours.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        examples: list[Example],
        optimisation: Optimisation,
    ) -> None:
        self._settings, self._optimisation = settings, optimisation
        self._model = sentence_transformer(settings, folder).train()
        if not settings.full:
            torch.manual_seed(settings.seed)  # an adapter starts at random
            attach_lora(self._model[0].model, Lora(dropout=settings.lora_dropout))
        self._optimiser = optimisation.optimiser(self._model)
        self._loss = CachedMultipleNegativesRankingLoss(
            self._model,
            scale=1 / TEMPERATURE,
            mini_batch_size=len(examples),  # of the score matrix; the encoder's go by tokens
            mini_batch_num_tokens=settings.chunk_tokens,
        )
        columns = zip(*((e.query, *e.passages) for e in examples), strict=True)
        self._features = [
            {
                name: value.to(settings.device) if isinstance(value, Tensor) else value
                for name, value in self._model.preprocess(list(column)).items()
            }
            for column in columns
        ]

    def __call__(self) -> None:
        """One step."""
        with autocast(self._settings):
            loss = self._loss(self._features, None)
            loss.backward()
        self._optimisation.update(self._optimiser, self._model.parameters(), step=0)

    def tune(self, mini_batch_tokens: int) -> None:
        """Take mini-batches of so many tokens, without padding, from now on."""
        self._loss.mini_batch_num_tokens = mini_batch_tokens

    def tuned(self, mini_batch_tokens: int) -> None:
        """One step with such mini-batches."""
        self.tune(mini_batch_tokens)
        self()

    @torch.no_grad()
    def loss(self) -> float:
        """Mean loss in the model's own precision."""
        return float(self._loss(self._features, None))


class SentenceTransformersEncoding:
    """Encoding with sentence-transformers, which sorts the texts by length itself.

    Args:
        settings: of the run.
        folder: the model, as `Encoder.save` writes it.
        texts: what is encoded.
    """

    def __init__(self, settings: Settings, folder: Path, texts: list[str]) -> None:
        self._model = sentence_transformer(settings, folder)
        self._texts = texts
        self._batch_size = 32  # its default

    def __call__(self) -> NDArray[np.float32]:
        """Unit vectors of the texts."""
        return self._model.encode(
            self._texts, batch_size=self._batch_size, normalize_embeddings=True
        )

    def tune(self, batch_size: int) -> None:
        """Take batches of so many texts from now on."""
        self._batch_size = batch_size


def sentence_transformer(settings: Settings, folder: Path) -> SentenceTransformer:
    """The model that an encoder was saved as, with last-token pooling and unit vectors."""
    transformer = Transformer(
        str(folder),
        max_seq_length=settings.passage_tokens,
        model_kwargs={"attn_implementation": select_attention("auto")},
    )
    width = transformer.model.config.hidden_size
    modules = [transformer, Pooling(width, "lasttoken"), Normalize()]
    return SentenceTransformer(modules=modules, device=settings.device)


def _rows(tokens: Tokens, texts: int) -> Sequence[Tensor]:
    return torch.arange(len(tokens)).split(texts)


def _padded(tokens: Tokens, rows: Tensor, device: str) -> Padded:
    ids, mask = tokens.padded(rows)
    return ids.to(device), mask.to(device)


def _embedded(encoder: Encoder, padded: Padded) -> Tensor:
    ids, mask = padded
    states = encoder.backbone(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    return F.normalize(POOLINGS[encoder.pooling](states, mask), dim=-1)
