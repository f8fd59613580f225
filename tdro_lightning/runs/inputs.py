"""Which files and folders a stage reads, for lineage and for skipping what is finished."""

from collections.abc import Mapping
from pathlib import Path

from tdro_lightning.assembly.benchmarks import benchmark_places
from tdro_lightning.config.schema import Config, FinetuneConfig, TDROConfig
from tdro_lightning.data.domain_files import hub_content
from tdro_lightning.data.hub_cache import cached_commit
from tdro_lightning.data.jsonl import domain_files
from tdro_lightning.demo.sources import identity, standard_library
from tdro_lightning.dro import WITHOUT_WEIGHTS
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.sets.places import files, mended_by_download
from tdro_lightning.files import fingerprint
from tdro_lightning.models.model_files import base_model
from tdro_lightning.records.outputs import require_intact

Described = dict[str, str | None]  # path, sha256, and commit of what the hub's cache holds
BASE = "model of "  # label of an adapter's base: this, and the adapter's label
READ_DOMAINS = ("decontaminate", "init_model", "fit")  # stages that fail without one of them


def inputs(config: Config) -> dict[str, Described]:
    """Label to path and SHA-256 of everything the stage reads; of hub names, the commit.

    Raises:
        DataError: a file or folder is missing, or is a result of a run that is not finished or was
            changed since.
    """
    if config.stage == "harvest":
        return {"standard library": _environment()}
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
    described = {label: _described(label, path) for label, path in _with_bases(paths).items()}
    described |= _hub_domains(config) if config.stage in READ_DOMAINS else {}
    return with_commits(described)


def require_intact_training(config: Config) -> None:
    """Refuse a plan of a training whose inputs, as far as they are here, a run would refuse.

    Raises:
        DataError: one is a result of a run that is not finished, or was changed since.
    """
    paths = [config.model.path, *_domains(config).values(), config.transfer.weights]
    paths.append(getattr(config.module, "reference", None))
    for path in paths:
        if path is not None and Path(path).exists():
            require_intact(Path(path))


def _with_bases(paths: dict[str, str]) -> dict[str, str]:
    """The base models of adapters too: they are read with them, and lie in folders of their own."""
    known = {Path(path).resolve() for path in paths.values()}
    found = dict(paths)
    for label, path in paths.items():
        if label.startswith(("model", "encoder", "reference")) and Path(path).is_dir():
            base = base_model(path)
            if base is not None and Path(base).resolve() not in known:
                found[f"{BASE}{label}"] = base
    return found


def with_commits(described: Mapping[str, Described]) -> dict[str, Described]:
    """The inputs, with the commit of those on the hub as far as the hub's cache has it by now.

    A commit says what each file is; a file of the cache that differs is refused where it is read.
    """
    found = {}
    for label, one in described.items():
        # Behind owner and name, a set says the part of the dataset, and a source its file.
        name = "/".join((one["path"] or "").partition(":")[0].split("/")[:2])
        kind = "dataset" if label.startswith(("hub", "source")) else "model"
        known = one["sha256"] or one.get("commit")
        commit = None if known else cached_commit(name, kind)
        found[label] = {**one, "commit": commit} if commit else dict(one)
    return found


def _described(label: str, path: str) -> Described:
    is_hub_name = label.startswith(("model", "encoder", "hub", "source"))
    if is_hub_name and not Path(path).exists():
        return {"path": path, "sha256": None}
    require_intact(Path(path))
    return {"path": path, "sha256": fingerprint(Path(path))}


def _nothing(config: Config) -> dict[str, str]:
    return {}


def _domain_files(config: Config) -> dict[str, str]:
    names, known = config.domains.only or config.domains.catalogue, config.domains.catalogue
    return {name: known[name].file for name in names if name in known}


def _is_on_hub(config: Config) -> bool:
    return bool(config.domains.hub) and not Path(config.domains.hub or "").is_dir()


def _domains(config: Config) -> dict[str, str]:
    if _is_on_hub(config):
        return {}
    root = Path(config.domains.hub or config.domains.root or ".")
    return {f"domain {name}": str(root / file) for name, file in _domain_files(config).items()}


def _hub_domains(config: Config) -> dict[str, Described]:
    """The domains' files of a hub dataset, by its revision; they are downloaded where need be."""
    if not _is_on_hub(config):
        return {}
    assert config.domains.hub is not None
    found = hub_content(config.domains.hub, _domain_files(config))
    return {
        label: {"path": name, "sha256": fingerprint(path)} for label, (name, path) in found.items()
    }


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


def _environment() -> dict[str, str | None]:
    library = standard_library()
    return {"path": str(library), "sha256": identity(library)}
