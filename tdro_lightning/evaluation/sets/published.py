"""The published benchmarks: which files a set is made of, and which layout they have."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tdro_lightning.data.beir_files import plain_or_zipped
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.evaluation.benchmark import Questions, RetrievalSet, Sets, joined
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
from tdro_lightning.evaluation.sets.places import Place, files, mended_by_download

# The English Wikipedia of BEIR's Natural Questions: 2,681,468 passages.
MKQA_CORPUS = ("mteb/nq", "b774495ed302d8c44a3a7ea25c90dbce03968f31")


@dataclass(frozen=True)
class PublishedSet:
    """One evaluation set and where its files are.

    Attributes:
        layout: one of `evaluation.LAYOUTS`.
        language: of the queries, in MIRACL and MKQA.
        split, prompt, relevant, skip_own_id, depth: as in `RetrievalSet`.
    """

    name: str
    layout: str
    questions: Place
    corpus: Place
    split: str
    language: str | None
    prompt: str | None
    relevant: int
    skip_own_id: bool
    depth: int


def places(
    layout: str,
    root: Path | None,
    *,
    folder: str | None,
    language: str | None,
    hub: str | None,
    revision: str | None,
) -> tuple[Place, Place]:
    """Where queries with judgements are, and where the documents.

    Args:
        layout: one of `evaluation.LAYOUTS`.
        root: the local folder that holds the datasets' folders; None takes them from the hub.
        folder: the set's folder in `root`, in BEIR's layout.
        language: of the set, in the others.
        hub, revision: the set on the hub, in BEIR's layout.

    Raises:
        ConfigError: `folder`, `language` or `hub` is missing.
    """
    given = language if layout != "beir" else folder if root is not None else hub
    if given is None:
        key = "language" if layout != "beir" else "folder" if root is not None else "hub"
        local = "" if key != "hub" else ", or benchmark.root the folder that holds it"
        raise ConfigError(f"the set needs `{key}` in the layout {layout}{local}")
    if layout == "miracl":
        return (
            Place(_below(root, "miracl"), "miracl/miracl", None, f"miracl-v1.0-{language}"),
            Place(
                _below(root, "miracl-corpus"),
                "miracl/miracl-corpus",
                None,
                f"miracl-corpus-v1.0-{language}",
            ),
        )
    if layout == "mkqa":
        return (
            Place(_below(root, "mkqa"), "apple/mkqa", "refs/convert/parquet"),
            Place(_below(root, "nq"), *MKQA_CORPUS),
        )
    place = Place(_below(root, folder or ""), hub, revision)
    return place, place


def check(one: PublishedSet) -> None:
    """Read the queries and judgements and see that the corpus's files are there, before anything.

    Raises:
        DataError: a file is missing or malformed; the message ends with the command that gets it.
    """
    _questions(one)
    with mended_by_download(one.corpus):
        folder = files(one.corpus)
        if one.layout == "miracl":
            miracl_shards(folder)
        elif is_hub_copy(folder):
            require_all_shards(folder)
        else:
            plain_or_zipped(folder, "corpus.jsonl")


def lazy_sets(sets: Sequence[PublishedSet]) -> Sets:
    """The sets, each read when its turn comes; one corpus is held at a time.

    Neighbouring sets with the same documents share them.
    """
    held: dict[Place, Corpus] = {}

    def corpus(one: PublishedSet) -> Corpus:
        if one.corpus not in held:
            held.clear()
            held[one.corpus] = _corpus(one)
        return held[one.corpus]

    def loader(one: PublishedSet) -> Callable[[], RetrievalSet]:
        return lambda: _joined(one, corpus(one))

    return Sets({one.name: loader(one) for one in sets})


def _joined(one: PublishedSet, corpus: Corpus) -> RetrievalSet:
    questions = _questions(one)
    with mended_by_download(one.corpus):
        return joined(
            one.name,
            corpus,
            questions,
            prompt=one.prompt,
            relevant=one.relevant,
            skip_own_id=one.skip_own_id,
            depth=one.depth,
        )


def _corpus(one: PublishedSet) -> Corpus:
    with mended_by_download(one.corpus):
        folder = files(one.corpus)
        if one.layout == "miracl":
            return miracl_corpus(folder)
        return hub_corpus(folder) if is_hub_copy(folder) else beir_corpus(folder)


def _questions(one: PublishedSet) -> Questions:
    """The questions of a set, at least one of which has something to be found."""
    questions = _read_questions(one)
    grades = [judgement.grade for judgement in questions.judgements]
    if grades and max(grades) < one.relevant:
        raise DataError(
            f"evaluation set {one.name!r}: none of its {len(grades)} judgements has a grade of "
            f"{one.relevant} or more, so every score would be 0; leave the set out, or correct its "
            f"judgements of the split {one.split!r} in {one.questions.name}"
        )
    return questions


def _read_questions(one: PublishedSet) -> Questions:
    with mended_by_download(one.questions):
        folder = files(one.questions)
        if one.layout == "miracl":
            return miracl_questions(folder, one.language or "", one.split)
        if one.layout == "mkqa":
            return mkqa_questions(folder, one.language or "")
        if is_hub_copy(folder):
            return hub_questions(folder, one.split)
        return beir_questions(folder, one.split)


def _below(root: Path | None, folder: str) -> Path | None:
    return None if root is None else root / folder
