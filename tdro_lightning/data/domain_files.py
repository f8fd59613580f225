"""Where the files of domains are: in a local folder, or in a dataset on the hub.

The hub's library is imported where files come from there: a chain with nothing to do needs none.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdro_lightning.data.hub_cache import require_undamaged
from tdro_lightning.errors import ConfigError, DataError


def hub_content(hub: str, files: Mapping[str, str]) -> dict[str, tuple[str, Path]]:
    """What of a hub dataset, or of a local copy of one, the domains are read from.

    Args:
        hub: name of the dataset, or a folder.
        files: domain name to its file there.

    Returns:
        By `domain NAME` what the file is called and where it is on this machine, downloaded where
        need be. Called it is by its path in a folder, and as `hub@commit:file` on the hub.

    Raises:
        DataError: as in `domain_file`.
    """
    found = {}
    for name, file in files.items():
        path, _ = domain_file(file, "", hub)
        snapshot = path.parents[len(Path(file).parts) - 1]
        called = str(path) if Path(hub).is_dir() else f"{hub}@{snapshot.name}:{file}"
        found[f"domain {name}"] = called, path
    return found


def domain_file(file: str, root: str, hub: str | None) -> tuple[Path, str]:
    """A domain's file on this machine, downloaded where need be, and how messages call it.

    Raises:
        DataError: there is none, it is a folder, or it has changed in the hub's cache.
    """
    path = Path(root if hub is None else hub) / file
    place = str(path) if hub is None else f"{hub}:{file}"
    if hub is not None and not Path(hub).is_dir():
        import huggingface_hub

        try:
            path = Path(huggingface_hub.hf_hub_download(hub, file, repo_type="dataset"))
        except (OSError, ValueError) as error:  # all of the library's own are one of these
            first_line = str(error).strip().partition("\n")[0]
            raise DataError(f"domains.hub={hub}: cannot read {file} ({first_line})") from None
        require_undamaged(path)
    if path.is_dir():
        raise DataError(f"{place}: is a folder; a domain is one .jsonl or .jsonl.gz file")
    if not path.exists():
        key = "domains.root to the folder" if hub is None else "domains.hub to the dataset"
        pattern = " (a domain is one file, not a pattern)" if "*" in file else ""
        raise DataError(f"{place}: no such file{pattern}; set {key} of the domain files")
    return path, place


def domain_files(folder: Path) -> dict[str, Path]:
    """The `.jsonl` and `.jsonl.gz` files of a folder, by their names without these endings.

    Raises:
        DataError: there is no such folder or file, or a domain has two files.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files: dict[str, Path] = {}
    for path in sorted([*folder.glob("[!.]*.jsonl"), *folder.glob("[!.]*.jsonl.gz")]):
        name = domain_name(path)
        if name in files:
            raise DataError(f"domain {name!r} has two files: {files[name]} and {path}")
        files[name] = path
    if not files:
        raise DataError(f"{folder}: no .jsonl or .jsonl.gz file to mine negatives for")
    return files


def domain_name(path: Path) -> str:
    """A file's name without the endings `.jsonl` and `.jsonl.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def chosen_domains(catalogue: Mapping[str, Any], only: list[str] | None) -> list[str]:
    """Names of the domains to load, in index order.

    Raises:
        ConfigError: `only` names a domain that the catalogue lacks.
    """
    chosen = list(catalogue) if only is None else only
    unknown = [name for name in chosen if name not in catalogue]
    if unknown:
        raise ConfigError(
            f"domains.only names {unknown}, not in the catalogue; it has {list(catalogue)}"
        )
    return chosen
