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
class Place:
    """The files of a dataset, in the same layout in both places.

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


def files(place: Place) -> Path:
    """The folder that holds the files; those on the hub are downloaded, or taken from the cache.

    Raises:
        DataError: there is no such folder, the hub does not give the files, or one has changed in
            its cache.
    """
    if place.folder is not None:
        folder = place.folder / (place.part or "")
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
        return folder
    folder = _snapshot(place) / (place.part or "")
    if is_first_process():
        require_undamaged(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; the download was cut off")
    return folder


def _snapshot(place: Place) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    assert place.hub is not None
    try:
        return Path(
            huggingface_hub.snapshot_download(
                place.hub,
                repo_type="dataset",
                revision=place.revision,
                allow_patterns=[f"{place.part}/*"] if place.part else None,
            )
        )
    except errors.GatedRepoError:
        page = f"https://huggingface.co/datasets/{place.hub}"
        raise DataError(
            f"{place.name}: accept the conditions on {page}, then run: hf auth login"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise DataError(
            f"{place.name}: not in the cache of the hub, and the hub cannot be reached"
        ) from None
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise DataError(f"{place.name}: {str(error).splitlines()[0]}") from None


@contextmanager
def mended_by_download(place: Place) -> Iterator[None]:
    """Add the command that gets the files to an error in reading them."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}\n{_remedy(place)}") from None


def _remedy(place: Place) -> str:
    if place.hub is None:
        return f"benchmark.root must be the folder that holds {_last(place.folder)}"
    command = ["hf", "download", place.hub, "--repo-type", "dataset"]
    command += ["--revision", place.revision] if place.revision else []
    command += ["--include", f"{place.part}/*"] if place.part else []
    command += ["--local-dir", str(place.folder)] if place.folder is not None else []
    return f"this command gets it: {shlex.join(command)}"


def _last(folder: Path | None) -> str:
    return "it" if folder is None else f"the folder {folder.name}"
