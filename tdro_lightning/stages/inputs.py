"""Which files and folders a stage reads, for lineage and for skipping what is finished."""

import hashlib
import sys
from importlib.metadata import distributions
from pathlib import Path

from tdro_lightning.data.jsonl import domain_files
from tdro_lightning.dro import WITHOUT_WEIGHTS
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.places import files, mended_by_download
from tdro_lightning.files import fingerprint
from tdro_lightning.retrieval.model_files import base_model
from tdro_lightning.schema import Config, FinetuneConfig, TDROConfig
from tdro_lightning.stages.benchmarks import benchmark_places


def inputs(config: Config) -> dict[str, dict[str, str | None]]:
    """Label to path and SHA-256 of everything the stage reads; hub names have no hash.

    Raises:
        DataError: a file or folder is missing.
    """
    if config.stage == "harvest":
        return {"environment": {"path": sys.prefix, "sha256": _environment()}}
    paths = {
        "import": _imported,
        "mine": _mined,
        "decontaminate": lambda config: _domains(config) | _sets(config),
        "validate": _domains_there,
        "init_model": _domains,
        "fit": _fitted,
        "evaluate": _evaluated,
        "simulate": _nothing,
        "report": _reported,
        "export": _exported,
        "chain": _nothing,
        "workspace": _nothing,
    }[config.stage](config)
    return {label: _described(label, path) for label, path in _with_bases(paths).items()}


def _with_bases(paths: dict[str, str]) -> dict[str, str]:
    """The base models of adapters too: they are read with them, and lie in folders of their own."""
    known = {Path(path).resolve() for path in paths.values()}
    found = dict(paths)
    for label, path in paths.items():
        if label.startswith(("model", "encoder", "reference")) and Path(path).is_dir():
            base = base_model(path)
            if base is not None and Path(base).resolve() not in known:
                found[f"model of {label}"] = base
    return found


def _described(label: str, path: str) -> dict[str, str | None]:
    is_hub_name = label.startswith(("model", "encoder", "hub", "source"))
    if is_hub_name and not Path(path).exists():
        return {"path": path, "sha256": None}
    return {"path": path, "sha256": fingerprint(Path(path))}


def _nothing(config: Config) -> dict[str, str]:
    return {}


def _domains(config: Config) -> dict[str, str]:
    if config.domains.hub:
        return {}
    names = config.domains.only or list(config.domains.catalogue)
    root = Path(config.domains.root or ".")
    found = {n: config.domains.catalogue[n] for n in names if n in config.domains.catalogue}
    return {f"domain {name}": str(root / entry.file) for name, entry in found.items()}


def _domains_there(config: Config) -> dict[str, str]:
    return {label: path for label, path in _domains(config).items() if Path(path).is_file()}


def _imported(config: Config) -> dict[str, str]:
    assert config.source is not None
    if config.source.path is None:
        return _domains(config)
    paths = {"source": config.source.path, "source corpus": config.source.corpus}
    return {label: path for label, path in paths.items() if path is not None}


def _mined(config: Config) -> dict[str, str]:
    assert config.mine is not None
    mine, folder = config.mine, Path(config.mine.input)
    if not folder.is_dir():
        raise DataError(f"mine.input={folder}: no such folder")
    paths = {f"rows {path.name}": str(path) for path in domain_files(folder).values()}
    if mine.corpus is not None:
        if not Path(mine.corpus).is_file():
            raise DataError(f"mine.corpus={mine.corpus}: no such file")
        paths["corpus"] = mine.corpus
    models = {"encoder": mine.encoder, "encoder teacher": mine.teacher}
    return paths | {label: path for label, path in models.items() if path is not None}


def _fitted(config: Config) -> dict[str, str]:
    paths = {"model": config.model.path, **_domains(config)}
    if isinstance(config.module, TDROConfig) and config.module.reference is not None:
        if not Path(config.module.reference).is_dir():
            raise DataError(
                f"module.reference={config.module.reference}: no such folder; "
                "it is the `encoder` folder of a run with uniform weights"
            )
        paths["reference"] = config.module.reference
    if isinstance(config.module, FinetuneConfig):
        if config.transfer.weights is not None and config.transfer.rule not in WITHOUT_WEIGHTS:
            paths["weights"] = config.transfer.weights
        paths |= _sets(config)
    return paths


def _evaluated(config: Config) -> dict[str, str]:
    assert config.evaluate is not None
    encoders = {f"encoder {label}": path for label, path in config.evaluate.encoders.items()}
    return encoders | _sets(config)


def _sets(config: Config) -> dict[str, str]:
    if config.benchmark is None:
        return {}
    found = {}
    for label, place in benchmark_places(config.benchmark).items():
        if place.folder is None:
            found[f"hub {label}"] = place.name
        else:
            with mended_by_download(place):
                found[label] = str(files(place))
    return found


def _reported(config: Config) -> dict[str, str]:
    assert config.report is not None
    runs = sorted(p for run in config.report.runs for p in Path(run).rglob("run.json"))
    own = Path(config.run_dir).resolve()
    return {f"run {path.parent}": str(path) for path in runs if path.parent.resolve() != own}


def _exported(config: Config) -> dict[str, str]:
    assert config.export is not None
    paths = {"encoder": config.export.encoder}
    if config.export.metrics is not None:
        paths["metrics"] = str(Path(config.export.metrics) / "metrics.json")
    return paths


def _environment() -> str:
    installed = sorted(f"{d.metadata['Name']}=={d.version}" for d in distributions())
    return hashlib.sha256("\n".join([sys.version, *installed]).encode()).hexdigest()
