"""An encoder as folders for other libraries, proven equal before they are named."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from tdro_lightning.config.schema import Config, ExportConfig
from tdro_lightning.console.libraries import quiet_libraries
from tdro_lightning.console.output import tell
from tdro_lightning.errors import ConfigError
from tdro_lightning.export import lineage
from tdro_lightning.export.card import Subject, adapter_card, card
from tdro_lightning.export.folder import (
    ADAPTER_FOLDER,
    portable_base,
    write_adapter,
    write_merged,
)
from tdro_lightning.export.lineage import Scores, Training
from tdro_lightning.export.mteb_results import prompt_name, write_mteb_results
from tdro_lightning.export.proof import Comparison, compare, sample
from tdro_lightning.files import whole_folder, write_text
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.model_files import base_model


@dataclass(frozen=True)
class Known:
    """What is known of an encoder beside its weights."""

    training: Training | None
    scores: Scores | None
    prompts: dict[str, str | None]


def export(config: Config) -> None:
    """Write `export/`: the whole model, its adapter, model card and scores; then it is complete.

    Raises:
        ConfigError: sentence-transformers is not installed, or the encoder cannot be loaded.
        DataError: the scores are of another encoder, or the embeddings read back differ.
    """
    quiet_libraries()
    assert config.export is not None
    settings = config.export
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
    known = _known(settings)
    with whole_folder(output) as folder:
        subject, checks = _write_models(config, settings, known, folder, output)
        page = card(subject, known.training, known.scores, checks)
        write_text(folder / "README.md", page)
        if subject.adapter_base is not None:
            write_text(folder / ADAPTER_FOLDER / "README.md", adapter_card(subject))
        if known.scores is not None:
            write_mteb_results(known.scores, folder / "mteb")
    _tell(output, subject, known, checks)


def _known(settings: ExportConfig) -> Known:
    own = lineage.training_run(settings.encoder)
    evaluated = None if settings.metrics is None else Path(settings.metrics)
    if evaluated is None and own is not None and (own / "metrics.json").is_file():
        evaluated = own
    scores = None if evaluated is None else lineage.scores(evaluated, settings.encoder)
    prompts = dict(settings.prompts)
    if scores is not None:  # under MTEB's names, by which mteb finds them
        layout, sets = scores.benchmark["layout"], scores.benchmark["sets"]
        for name in scores.sets:
            prompts.setdefault(prompt_name(layout, name, sets[name]["hub"]), sets[name]["prompt"])
    return Known(None if own is None else lineage.training(own), scores, prompts)


def _write_models(
    config: Config, settings: ExportConfig, known: Known, folder: Path, output: Path
) -> tuple[Subject, list[Comparison]]:
    """Write the models to a temporary folder, and compare what is read from it."""
    encoder = load_encoder(
        settings.encoder,
        pooling=config.model.pooling,  # type: ignore[arg-type]
        query_tokens=config.data.query_tokens,
        passage_tokens=config.data.passage_tokens,
        attention="sdpa",
    )
    ours = sample(encoder, known.prompts["query"])
    base, adapter = base_model(settings.encoder), None
    if base is not None:
        adapter = folder / ADAPTER_FOLDER
        named = portable_base(base, output / ADAPTER_FOLDER, settings.base)
        write_adapter(encoder, adapter, known.prompts, named)
    write_merged(encoder, folder, known.prompts)
    del encoder  # the fresh process needs its room
    from_hub = None if base is None or Path(base).is_dir() else base
    subject = Subject(
        title=known.training.name if known.training else Path(settings.encoder).name,
        base=settings.base or from_hub or (known.training.base if known.training else None),
        adapter_base=None if base is None else portable_base(base, output, settings.base),
        prompts=known.prompts,
        sample=ours,
    )
    return subject, compare(ours, folder, adapter, base)


def _tell(output: Path, subject: Subject, known: Known, checks: list[Comparison]) -> None:
    for check in checks:
        tell(
            f"  {check.way}: cosine {check.cosine:.7f} or more, "
            f"components differ by {check.difference:.1e} at most"
        )
    if subject.adapter_base is not None and subject.base is None:
        tell(
            "  adapter/ names its base model by a relative path; before you hand it on, give the "
            "name it has on the hub: export.base=NAME"
        )
    scored = f", scores of {len(known.scores.sets)} sets" if known.scores else ""
    tell(f"Export: {output} (model card in README.md{scored})")
