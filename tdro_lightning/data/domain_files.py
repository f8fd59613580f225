"""Where a domain's file is: in a local folder, or in a dataset on the hub.

The hub's library is imported where files come from there: a chain with nothing to do needs none.
"""

from collections.abc import Mapping
from pathlib import Path

from tdro_lightning.data.hub_cache import require_undamaged
from tdro_lightning.errors import DataError


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
    if hub is None:
        path, place = Path(root) / file, str(Path(root) / file)
    elif Path(hub).is_dir():
        path, place = Path(hub) / file, f"{hub}:{file}"
    else:
        import huggingface_hub

        try:
            found = huggingface_hub.hf_hub_download(hub, file, repo_type="dataset")
        except (OSError, ValueError) as error:  # all of the library's own are one of these
            first_line = str(error).strip().partition("\n")[0]
            raise DataError(f"domains.hub={hub}: cannot read {file} ({first_line})") from None
        path, place = Path(found), f"{hub}:{file}"
        require_undamaged(path)
    if path.is_dir():
        raise DataError(f"{place}: is a folder; a domain is one .jsonl or .jsonl.gz file")
    if not path.exists():
        key = "domains.root to the folder" if hub is None else "domains.hub to the dataset"
        pattern = " (a domain is one file, not a pattern)" if "*" in file else ""
        raise DataError(f"{place}: no such file{pattern}; set {key} of the domain files")
    return path, place
