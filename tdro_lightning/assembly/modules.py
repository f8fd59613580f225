"""What a training stage trains, and on what, as the configuration wants it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tdro_lightning.config.schema import Config, MNTPConfig, TDROConfig
from tdro_lightning.console.output import note_warning
from tdro_lightning.data.collator import Collator
from tdro_lightning.data.dataset import RetrievalDataset
from tdro_lightning.data.domains import Domain
from tdro_lightning.data.masking import Masking, MaskingCollator
from tdro_lightning.data.passages import PassageDataset
from tdro_lightning.dro.measurement import Measurement
from tdro_lightning.dro.weights import DomainWeights
from tdro_lightning.losses.reference_cache import ReferenceLosses
from tdro_lightning.losses.sparsity import Sparsity
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.training.datamodules import PassageDataModule, RetrievalDataModule
from tdro_lightning.training.optim import Optimisation
from tdro_lightning.training.tdro import TDROModule

LOWEST_SPARSE = 0.1  # a temperature below is surely meant for dense vectors


def domain_weights(settings: TDROConfig, names: Sequence[str]) -> DomainWeights:
    """Uniform domain weights, which move as configured."""
    return DomainWeights(
        names,
        learning_rate=settings.weights_lr,
        gradient_norm=settings.gradient_norm,  # type: ignore[arg-type]
        smoothing=settings.smoothing,
        ema=settings.ema,
    )


def reference_path(config: Config) -> str | None:
    """Where the frozen reference lies; None where the stage or its measurement needs none."""
    settings = config.module
    if not isinstance(settings, TDROConfig) or not measurement(settings).needs_reference:
        return None
    return settings.reference


def measurement(settings: TDROConfig) -> Measurement:
    """How losses become headroom."""
    return Measurement(settings.measurement, settings.reference_floor)


def tdro_module(
    config: Config,
    settings: TDROConfig,
    weights: DomainWeights,
    proxy: Encoder,
    reference: Encoder | None,
    cache: ReferenceLosses | None = None,
) -> TDROModule:
    """The module of the tDRO stage; see there for the arguments."""
    return TDROModule(
        proxy,
        reference,
        weights,
        measurement(settings),
        settings.temperature,
        optimisation(config),
        config.seed,
        cache,
    )


def warn_of_temperature(encoder: Encoder, temperature: float) -> None:
    """Warn of a temperature of unit vectors where scores are products of sparse ones."""
    if encoder.sparse and temperature < LOWEST_SPARSE:
        note_warning(
            f"module.temperature={temperature:g} is one of unit vectors; scores of sparse vectors "
            "are far above 1 and would leave no loss to learn from; use module.temperature=1"
        )


def optimisation(config: Config) -> Optimisation:
    """How the encoder trains; factors of a regulariser rise over a share of the steps."""
    steps, given = config.trainer.steps, getattr(config.module, "sparsity", None)
    sparsity = given and Sparsity(
        given.kind, given.queries, given.passages, round(given.ramp * steps)
    )
    return Optimisation(steps=steps, **asdict(config.optimiser), sparsity=sparsity)


def data_module(
    config: Config, domains: Sequence[Domain], encoder: Encoder, probability: Mapping[str, float]
) -> RetrievalDataModule:
    """The batches of the configured kind of training.

    Args:
        config: `data`, steps, seed and kind.
        domains: in index order.
        encoder: whose tokenizer and limits are used.
        probability: of each domain; tDRO does not look at it, since all are in every batch.
    """
    data = config.data
    one_domain = not isinstance(config.module, TDROConfig)
    return RetrievalDataModule(
        RetrievalDataset(
            domains,
            data.negatives,
            config.seed,
            data.prompt_symmetric_passages,
            encoder.templates,
        ),
        Collator(encoder.tokenizer, encoder.query_tokens, encoder.passage_tokens),
        batch_size=data.batch_size,
        steps=config.trainer.steps,
        seed=config.seed,
        workers=data.workers,
        probability=[probability[domain.name] for domain in domains] if one_domain else None,
    )


def passage_data(
    config: Config, settings: MNTPConfig, domains: Sequence[Domain], encoder: Encoder
) -> PassageDataModule:
    """The batches of an adaptation; arguments as for `data_module`."""
    tokenizer, data = encoder.tokenizer, config.data
    embeddings: Any = encoder.backbone.get_input_embeddings()
    masking = Masking(
        settings.masked,
        tokenizer.mask_id(),
        min(tokenizer.vocabulary_size, len(embeddings.weight)),
        tuple(tokenizer.tokenizer.all_special_ids),
    )
    return PassageDataModule(
        PassageDataset(domains, config.seed, encoder.templates),
        MaskingCollator(tokenizer, encoder.passage_tokens, masking, config.seed),
        batch_size=data.batch_size,
        steps=config.trainer.steps,
        seed=config.seed,
        workers=data.workers,
    )
