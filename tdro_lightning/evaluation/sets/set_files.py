"""The files of the sets of published benchmarks: where they are, and how they are read.

The hub's library is imported where files come from there.
"""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from tdro_lightning.data.beir_files import plain_or_zipped
from tdro_lightning.data.hub_cache import require_undamaged
from tdro_lightning.distributed.processes import is_first_process
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.evaluation.benchmark import (
    Questions,
    RetrievalSet,
    SetLoaders,
    build_retrieval_set,
)
from tdro_lightning.evaluation.corpus import Corpus
from tdro_lightning.evaluation.sets.beir import beir_corpus, beir_questions
from tdro_lightning.evaluation.sets.hub_copy import (
    hub_corpus,
    hub_questions,
    is_hub_copy,
    require_all_shards,
)
from tdro_lightning.evaluation.sets.miracl import miracl_corpus, miracl_questions, miracl_shards
from tdro_lightning.evaluation.sets.mkqa import mkqa_questions

# The English Wikipedia of BEIR's Natural Questions: 2,681,468 passages.
MKQA_CORPUS = ("mteb/nq", "b774495ed302d8c44a3a7ea25c90dbce03968f31")


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


@dataclass(frozen=True)
class SetFiles:
    """One evaluation set and where its files are.

    Attributes:
        layout: one of `evaluation.LAYOUTS`.
        language: of the queries, in MIRACL and MKQA.
        split, prompt, relevant, skip_own_id, depth: as in `RetrievalSet`.
    """

    name: str
    layout: str
    questions: Location
    corpus: Location
    split: str
    language: str | None
    prompt: str | None
    relevant: int
    skip_own_id: bool
    depth: int


def locate_files(
    name: str,
    layout: str,
    root: Path | None,
    *,
    folder: str | None,
    language: str | None,
    hub: str | None,
    revision: str | None,
    **settings: Any,
) -> SetFiles:
    """Find out where queries with judgements are, and where the documents; no file is read.

    Args:
        name: of the set, below the key `benchmark.sets`.
        layout: one of `evaluation.LAYOUTS`.
        root: the local folder that holds the datasets' folders; None takes them from the hub.
        folder: the set's folder in `root`, in BEIR's layout.
        language: of the set, in the others.
        hub, revision: the set on the hub, in BEIR's layout.
        settings: the other attributes of the result.

    Raises:
        ConfigError: `folder`, `language` or `hub` is missing.
    """
    key = "language" if layout != "beir" else "hub" if root is None else "folder"
    if {"language": language, "hub": hub, "folder": folder}[key] is None:
        local = ", or benchmark.root the folder that holds it" if key == "hub" else ""
        raise ConfigError(
            f"benchmark.sets.{name}: the set needs `{key}` in the layout {layout}{local}"
        )
    if layout == "miracl":
        questions, corpus = (
            Location(
                root and root / dataset, f"miracl/{dataset}", None, f"{dataset}-v1.0-{language}"
            )
            for dataset in ("miracl", "miracl-corpus")
        )
    elif layout == "mkqa":
        questions = Location(root and root / "mkqa", "apple/mkqa", "refs/convert/parquet")
        corpus = Location(root and root / "nq", *MKQA_CORPUS)
    else:
        questions = corpus = Location(root and root / (folder or ""), hub, revision)
    return SetFiles(name, layout, questions, corpus, language=language, **settings)


def check_files(source: SetFiles) -> None:
    """Read the queries and judgements and see that the corpus's files are there, before anything.

    Raises:
        DataError: a file is missing or malformed; the message ends with the command that gets it.
    """
    _read_questions(source)
    with dataset_folder(source.corpus) as folder:
        if source.layout == "miracl":
            miracl_shards(folder)
        elif is_hub_copy(folder):
            require_all_shards(folder)
        else:
            plain_or_zipped(folder, "corpus.jsonl")


def lazy_sets(sources: Sequence[SetFiles]) -> SetLoaders:
    """The sets, each read when its turn comes; one corpus is held at a time.

    Neighbouring sets with the same documents share them.
    """
    held: dict[Location, Corpus] = {}
    return {source.name: partial(_read_set, source, held) for source in sources}


def _read_set(source: SetFiles, held: dict[Location, Corpus]) -> RetrievalSet:
    if source.corpus not in held:
        held.clear()
        held[source.corpus] = read_corpus(source)
    questions = _read_questions(source)
    with suggest_download(source.corpus):
        return build_retrieval_set(
            source.name,
            held[source.corpus],
            questions,
            prompt=source.prompt,
            relevant=source.relevant,
            skip_own_id=source.skip_own_id,
            depth=source.depth,
        )


def read_corpus(source: SetFiles) -> Corpus:
    """The documents of a set.

    Raises:
        DataError: as in `dataset_folder`.
    """
    with dataset_folder(source.corpus) as folder:
        if source.layout == "miracl":
            return miracl_corpus(folder)
        return hub_corpus(folder) if is_hub_copy(folder) else beir_corpus(folder)


def _read_questions(source: SetFiles) -> Questions:
    """The questions of a set, at least one of which has a relevant document."""
    with dataset_folder(source.questions) as folder:
        if source.layout == "miracl":
            questions = miracl_questions(folder, source.language or "", source.split)
        elif source.layout == "mkqa":
            questions = mkqa_questions(folder, source.language or "")
        else:
            read = hub_questions if is_hub_copy(folder) else beir_questions
            questions = read(folder, source.split)
    grades = [judgement.grade for judgement in questions.judgements]
    if grades and max(grades) < source.relevant:
        raise DataError(
            f"evaluation set {source.name!r}: none of its {len(grades)} judgements has a grade of "
            f"{source.relevant} or more, so every score would be 0; leave the set out, or correct "
            f"its judgements of the split {source.split!r} in {source.questions.name}"
        )
    return questions


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
    options = {
        "--revision": location.revision,
        "--include": location.part and f"{location.part}/*",
        "--local-dir": location.folder and str(location.folder),
    }
    given = chain.from_iterable((name, value) for name, value in options.items() if value)
    command = ["hf", "download", location.hub, "--repo-type", "dataset", *given]
    return f"this command gets it: {shlex.join(command)}"
