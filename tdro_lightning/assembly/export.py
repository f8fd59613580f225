"""An encoder as folders for other libraries, proven equal before they are named."""

import importlib.util
from pathlib import Path

from tdro_lightning.config.schema import Config, ExportConfig
from tdro_lightning.console.libraries import quiet_libraries
from tdro_lightning.console.output import tell
from tdro_lightning.errors import ConfigError
from tdro_lightning.export.card import ModelDescription, adapter_card, model_card
from tdro_lightning.export.folder import (
    ADAPTER_FOLDER,
    portable_base,
    require_exportable,
    write_adapter,
    write_merged,
)
from tdro_lightning.export.lineage import (
    Scores,
    Training,
    find_training_run,
    read_scores,
    read_training,
)
from tdro_lightning.export.mteb_results import prompt_name, write_mteb_results
from tdro_lightning.export.proof import ReaderCheck, check_readers, embed_sample
from tdro_lightning.export.sparse_folder import write_language_model
from tdro_lightning.files import whole_folder, write_text
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.model_files import base_model


def export(config: Config, settings: ExportConfig) -> None:
    """Write `export/`: the whole model, its adapter, model card and scores; then it is complete.

    Raises:
        ConfigError: sentence-transformers is not installed, or the encoder cannot be loaded.
        DataError: the scores are of another encoder, or the embeddings read back differ.
    """
    quiet_libraries()
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ConfigError(
            "stage=export compares with sentence-transformers, which is not installed; "
            "pip install 'tdro-lightning[export]'"
        )
    if (Path(settings.encoder) / "encoder").is_dir():
        raise ConfigError(
            f"export.encoder={settings.encoder} is a run folder; its model is in "
            f"export.encoder={settings.encoder}/encoder"
        )
    output = Path(config.run_dir) / "export"
    run = find_training_run(settings.encoder)
    scores = _scores(settings, run)
    training = None if run is None else read_training(run)
    with whole_folder(output) as folder:
        model, checks = _write_models(config, settings, training, scores, folder, output)
        write_text(folder / "README.md", model_card(model, checks))
        if model.adapter_base is not None:
            write_text(folder / ADAPTER_FOLDER / "README.md", adapter_card(model))
        if scores is not None:
            write_mteb_results(scores, folder / "mteb")
    for check in checks:
        tell(
            f"  {check.way}: cosine {check.cosine:.7f} or more, "
            f"components differ by {check.difference:.1e} at most"
        )
    if model.adapter_base is not None and model.base is None:
        tell(
            "  adapter/ names its base model by a relative path; before you hand it on, give the "
            "name it has on the hub: export.base=NAME"
        )
    scored = f", scores of {len(scores.sets)} sets" if scores else ""
    tell(f"Export: {output} (model card in README.md{scored})")


def _scores(settings: ExportConfig, run: Path | None) -> Scores | None:
    """Scores from the run that the settings name, or else from the encoder's own run."""
    if settings.metrics is not None:
        return read_scores(Path(settings.metrics), settings.encoder)
    if run is not None and (run / "metrics.json").is_file():
        return read_scores(run, settings.encoder)
    return None


def _write_models(
    config: Config,
    settings: ExportConfig,
    training: Training | None,
    scores: Scores | None,
    folder: Path,
    output: Path,
) -> tuple[ModelDescription, list[ReaderCheck]]:
    """Write the models to a temporary folder, and compare what is read from it."""
    prompts = dict(settings.prompts)
    if scores is not None:  # under MTEB's names, by which mteb finds them
        for name in scores.sets:
            prompt = scores.benchmark["sets"][name]["prompt"]
            prompts.setdefault(prompt_name(scores.benchmark, name), prompt)
    encoder = load_encoder(
        settings.encoder,
        pooling=config.model.pooling,
        query_tokens=config.data.query_tokens,
        passage_tokens=config.data.passage_tokens,
        attention="sdpa",
    )
    require_exportable(encoder)
    sample = embed_sample(encoder, prompts["query"])
    base, adapter = base_model(settings.encoder), None
    apart = base is not None and not encoder.sparse  # an adapter's folder has no sparse head
    if base is not None and apart:
        adapter = folder / ADAPTER_FOLDER
        base_name = portable_base(base, output / ADAPTER_FOLDER, settings.base)
        write_adapter(encoder, adapter, prompts, base_name)
    if encoder.sparse:
        write_language_model(encoder, base or settings.encoder, folder, prompts)
    else:
        write_merged(encoder, folder, prompts)
    del encoder  # the fresh process needs its room
    from_hub = None if base is None or Path(base).is_dir() else base
    model = ModelDescription(
        title=training.name if training else Path(settings.encoder).name,
        base=settings.base or from_hub or (training.base if training else None),
        adapter_base=None
        if base is None or not apart
        else portable_base(base, output, settings.base),
        prompts=prompts,
        sample=sample,
        training=training,
        scores=scores,
    )
    return model, check_readers(sample, folder, adapter, base)
