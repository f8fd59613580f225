"""Where a dataset's files are: in a local folder, or on the Hugging Face hub.

The hub's library is imported where files come from there.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tdro_lightning.data.hub_cache import require_undamaged
from tdro_lightning.distributed.processes import is_first_process
from tdro_lightning.errors import DataError


@dataclass(frozen=True)
class Location:
    """Where the files of a dataset are; their layout is the same in a folder and on the hub.

    Attributes:
        folder: local folder; None takes the files from the hub, through its cache.
        hub: name of the dataset on the hub, where it is there.
        revision: commit or branch of it; None is the newest.
        part: folder inside the dataset that alone is needed.
    """

    folder: Path | None
    hub: str | None
    revision: str | None = None
    part: str | None = None

    @property
    def name(self) -> str:
        """Says which files these are, whether they are there or not."""
        if self.folder is not None:
            return str(self.folder / (self.part or ""))
        return "@".join(filter(None, (self.hub, self.revision))) + (
            f"/{self.part}" if self.part else ""
        )


@contextmanager
def dataset_folder(location: Location) -> Iterator[Path]:
    """The folder of the files, for a block that reads them; those on the hub are downloaded.

    Raises:
        DataError: there is no such folder, the hub does not give the files, one has changed in its
            cache, or the block raises it; as in `suggest_download`.
    """
    with suggest_download(location):
        is_local = location.folder is not None
        folder = (location.folder or _snapshot(location)) / (location.part or "")
        if not is_local and is_first_process():
            require_undamaged(folder)
        if not folder.is_dir():
            reason = "" if is_local else "; the download was cut off"
            raise DataError(f"{folder}: no such folder{reason}")
        yield folder


def _snapshot(location: Location) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    assert location.hub is not None
    try:
        return Path(
            huggingface_hub.snapshot_download(
                location.hub,
                repo_type="dataset",
                revision=location.revision,
                allow_patterns=[f"{location.part}/*"] if location.part else None,
            )
        )
    except errors.GatedRepoError:
        page = f"https://huggingface.co/datasets/{location.hub}"
        reason = f"accept the conditions on {page}, then run: hf auth login"
    except errors.LocalEntryNotFoundError:
        reason = "not in the cache of the hub, and the hub cannot be reached"
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        reason = str(error).splitlines()[0]
    raise DataError(f"{location.name}: {reason}")


@contextmanager
def suggest_download(location: Location) -> Iterator[None]:
    """Add the command that downloads the files to an error in reading them."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}\n{_remedy(location)}") from None


def _remedy(location: Location) -> str:
    if location.hub is None:
        name = f"the folder {location.folder.name}" if location.folder else "it"
        return f"benchmark.root must be the folder that holds {name}"
    command = ["hf", "download", location.hub, "--repo-type", "dataset"]
    command += ["--revision", location.revision] if location.revision else []
    command += ["--include", f"{location.part}/*"] if location.part else []
    command += ["--local-dir", str(location.folder)] if location.folder else []
    return f"this command gets it: {shlex.join(command)}"
