"""Which files and folders a stage reads, for lineage and for skipping what is finished."""

from collections.abc import Mapping
from pathlib import Path

from tdro_lightning.config.benchmarks import benchmark_locations
from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.data.domain_files import hub_content
from tdro_lightning.data.hub_cache import cached_commit
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.evaluation.sets.set_files import dataset_folder
from tdro_lightning.files import fingerprint
from tdro_lightning.models.model_files import base_model, may_be_hub_name
from tdro_lightning.records.outputs import require_intact

Described = dict[str, str | None]  # path, sha256, and commit of what the hub's cache holds
BASE = "model of "  # label of an adapter's base: this, and the adapter's label


def describe_inputs(stage: Stage, config: Config) -> dict[str, Described]:
    """Label to path and SHA-256 of everything the stage reads; of hub names, the commit.

    Raises:
        DataError: a file or folder is missing, or is a result of a run that is not finished or was
            changed since.
    """
    inputs = stage.inputs(config)
    paths = {label: value for label, value in inputs.items() if isinstance(value, str)}
    described = {label: _described(label, path) for label, path in (paths | _bases(paths)).items()}
    known = {label: {**value} for label, value in inputs.items() if not isinstance(value, str)}
    return with_commits(described | known)


def require_intact_training(config: Config) -> None:
    """Refuse a plan of a training whose inputs, as far as they are here, a run would refuse.

    Raises:
        DataError: one is a result of a run that is not finished, or was changed since.
    """
    others = (config.transfer.weights, getattr(config.module, "reference", None))
    for path in (config.model.path, *domain_paths(config).values(), *others):
        if path is not None and Path(path).exists():
            require_intact(Path(path))


def _bases(paths: dict[str, str]) -> dict[str, str]:
    """The base models of adapters: they are read with them, and lie in folders of their own."""
    seen_folders = {Path(path).resolve() for path in paths.values()}
    bases = {
        f"{BASE}{label}": base_model(path)
        for label, path in paths.items()
        if label.startswith(("model", "encoder", "reference")) and Path(path).is_dir()
    }
    return {
        k: base for k, base in bases.items() if base and Path(base).resolve() not in seen_folders
    }


def with_commits(described: Mapping[str, Described]) -> dict[str, Described]:
    """The inputs, with the commit of those on the hub as far as the hub's cache has it by now.

    A commit says what each file is; a file of the cache that differs is refused where it is read.
    """
    inputs = {label: dict(place) for label, place in described.items()}
    for label, place in inputs.items():
        if not place["sha256"] and not place.get("commit"):
            # Behind owner and name, a set says the part of the dataset, and a source its file.
            name = "/".join((place["path"] or "").partition(":")[0].split("/")[:2])
            kind = "dataset" if label.startswith(("hub", "source")) else "model"
            if commit := cached_commit(name, kind):
                place["commit"] = commit
    return inputs


def _described(label: str, path: str) -> Described:
    is_hub_name = label.startswith(("model", "encoder", "hub", "source"))
    if is_hub_name and not Path(path).exists():
        if label.startswith(("model", "encoder")) and not may_be_hub_name(path):
            raise DataError(f"{label}: {path}: no such folder; give a model folder or a hub name")
        return {"path": path, "sha256": None}
    require_intact(Path(path))
    return {"path": path, "sha256": fingerprint(Path(path))}


def _domain_files(config: Config) -> dict[str, str]:
    names, catalogue = config.domains.only or config.domains.catalogue, config.domains.catalogue
    return {name: catalogue[name].file for name in names if name in catalogue}


def domains_root(config: Config) -> str:
    """Folder of the domain files; empty where a hub dataset holds them.

    Raises:
        ConfigError: neither a folder nor a hub dataset is named.
    """
    if config.domains.hub is None and config.domains.root is None:
        raise ConfigError("domains.root is not set; give the folder of the domain files")
    return config.domains.root or ""


def domain_paths(config: Config) -> dict[str, str]:
    """Label and path of the domains' files; none where a hub dataset holds them."""
    hub = config.domains.hub
    if hub and not Path(hub).is_dir():
        return {}
    root = Path(hub or config.domains.root or ".")
    return {f"domain {name}": str(root / file) for name, file in _domain_files(config).items()}


def domains(config: Config) -> dict[str, Input]:
    """The domains' files; those of a hub dataset by its revision, downloaded where need be.

    Raises:
        DataError: the hub dataset lacks one.
    """
    hub = config.domains.hub
    if not hub or Path(hub).is_dir():
        return {**domain_paths(config)}
    return {
        label: {"path": name, "sha256": fingerprint(path)}
        for label, (name, path) in hub_content(hub, _domain_files(config)).items()
    }


def evaluation_sets(config: Config) -> dict[str, Input]:
    """The files of the configured benchmark's sets.

    Raises:
        DataError: one is missing; the message ends with the command that gets it.
    """
    if config.benchmark is None:
        return {}
    inputs: dict[str, Input] = {}
    for label, location in benchmark_locations(config.benchmark).items():
        if location.folder is None:
            inputs[f"hub {label}"] = location.name
        else:
            with dataset_folder(location) as folder:
                inputs[label] = str(folder)
    return inputs
