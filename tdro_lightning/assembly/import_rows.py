"""Training data of other projects as our rows, with where they come from."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tdro_lightning.config.schema import Config, DomainConfig, SourceConfig
from tdro_lightning.console.libraries import quiet_libraries
from tdro_lightning.console.output import tell
from tdro_lightning.data.beir_files import beir, beir_files
from tdro_lightning.data.domain_files import chosen_domains
from tdro_lightning.data.imports import layouts
from tdro_lightning.data.imports.layouts import Fields
from tdro_lightning.data.imports.objects import source
from tdro_lightning.data.imports.rows import import_rows
from tdro_lightning.files import fingerprint, write_text
from tdro_lightning.records.receipts import finished_result, write_receipt
from tdro_lightning.runs.inputs import domains_root

FORMAT = 2  # of the rows made of a source: earlier ones are made again when it changes


def import_configured(config: Config, settings: SourceConfig) -> None:
    """Write rows and provenance to `train/`, and the `domains` option that trains on them."""
    quiet_libraries()
    output = Path(config.run_dir)
    domains = {}
    for name, (given, entry) in _sources(config, settings).items():
        counts = import_domain(name, given, output)
        domains[name] = {**asdict(entry), "file": f"{name}.jsonl.gz", "size": counts["written"]}
    option = settings.name or "imported"
    root = str((output / "train").resolve())
    content = OmegaConf.to_yaml({"root": root, "hub": None, "only": None, "catalogue": domains})
    write_text(output / "conf" / "domains" / f"{option}.yaml", content)
    tell(content.rstrip("\n"))
    tell(f"Train on it: --config-dir={output / 'conf'} domains={option}")


def _sources(
    config: Config, settings: SourceConfig
) -> dict[str, tuple[SourceConfig, DomainConfig]]:
    """Where each domain comes from, and its entry in the catalogue."""
    if settings.path is not None and settings.name is not None:
        entry = DomainConfig(
            file=f"{settings.name}.jsonl.gz",
            language=settings.language,
            category=settings.category,
            symmetric=settings.symmetric,
            prompts=settings.prompts,
        )
        return {settings.name: (settings, entry)}
    domains, sources = config.domains, {}
    folder = Path(domains.hub or domains_root(config))
    is_hub_name = domains.hub is not None and not folder.is_dir()
    for name in chosen_domains(domains.catalogue, domains.only):
        entry = domains.catalogue[name]
        path = f"{domains.hub}:{entry.file}" if is_hub_name else str(folder / entry.file)
        sources[name] = (SourceConfig(layout="tdro", path=path, split="train"), entry)
    return sources


def import_domain(name: str, settings: SourceConfig, output: Path) -> dict[str, Any]:
    """Counts of a domain that is imported now, or was before from the same files.

    Raises:
        DataError: as `import_rows`, or the source cannot be read.
    """
    rows, dropped = output / "train" / f"{name}.jsonl.gz", output / "dropped" / f"{name}.jsonl.gz"
    inputs, fields = _read(settings)
    made_from = {
        "domain": name,
        "layout": settings.layout,
        "source": settings.path,
        "columns": settings.columns,
        "split": settings.split,
        "inputs": inputs,
        "format": FORMAT,
    }
    record = output / "train" / f"{name}.json"
    before = finished_result(record, made_from)
    if before is not None:
        tell(f"  {name}: finished before, source unchanged")
        return before
    counts = import_rows(name, fields, rows, dropped)
    write_receipt(record, made_from, [path for path in (rows, dropped) if path.is_file()], counts)
    tell(f"  {name}: {counts['written']} of {counts['read']} rows")
    return counts


def _read(settings: SourceConfig) -> tuple[dict[str, str], Iterator[tuple[str, Fields]]]:
    """Fingerprints of the source's files, and the fields of its rows."""
    assert settings.path is not None
    if settings.layout == "beir":
        files = beir_files(Path(settings.path), settings.split)
        return {str(path): fingerprint(path) for path in files.values()}, beir(files)
    file = source(settings.path, settings.split)
    if settings.layout == "tevatron":
        corpus = source(settings.corpus, "train") if settings.corpus else None
        inputs = file.inputs | (corpus.inputs if corpus else {})
        return inputs, layouts.tevatron(corpus, file.read)
    if settings.layout == "sentence_transformers":
        return file.inputs, layouts.sentence_transformers(file.read(), settings.columns)
    parse = {"tdro": layouts.tdro, "flag_embedding": layouts.flag_embedding}[settings.layout]
    return file.inputs, parse(file.read())
