"""That a folder written for other libraries gives the embeddings of the encoder it comes from."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.errors import DataError
from tdro_lightning.export import reader
from tdro_lightning.export.folder import is_plain
from tdro_lightning.files import write_json
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.templates import Templates

LEAST = 0.99999  # cosine
TEXTS = (
    "a",
    "What is the capital of France?",
    "Paris is the capital of France, and its largest city.",
    "Übung macht den Meister; ça va, señor? Grüße aus Łódź.",
    "如何学习一门新的语言？ 東京は日本の首都です。 الخوارزمية كلمة عربية",
    "def add(a, b):\n    return a + b  # 3.14 * 10^-5",
    "naïve 🙂 tabs\tand  double  spaces",
)


@dataclass(frozen=True)
class Sample:
    """Texts under one prompt, the encoder's own embeddings of them, [N, D] each, and its settings.

    It is plain where a line of code makes vectors of the token states; sparse ones never are.
    """

    pooling: str
    plain: bool
    query_tokens: int
    passage_tokens: int
    templates: Templates
    prompt: str | None
    queries: list[str]
    documents: list[str]
    vectors: dict[str, NDArray[np.float32]]
    sparse: bool = False


@dataclass(frozen=True)
class ReaderCheck:
    """Smallest cosine, and largest difference of a component, over all texts read in one way."""

    way: str
    cosine: float
    difference: float


def embed_sample(encoder: Encoder, prompt: str | None) -> Sample:
    """Embed short texts of many kinds, one of special tokens, and one longer than each limit."""
    special = " ".join(encoder.tokenizer.tokenizer.all_special_tokens)
    queries = [*TEXTS, special, "who? " * encoder.query_tokens + "end"]
    documents = [*TEXTS, special, "word " * encoder.passage_tokens + "end"]
    vectors = {
        "queries": encoder.embed_queries(queries, prompt),
        "documents": encoder.embed_passages(documents),
    }
    if encoder.sparse:
        vectors = {name: rows.toarray() for name, rows in vectors.items()}
    limits = encoder.query_tokens, encoder.passage_tokens
    return Sample(
        encoder.pooling,
        is_plain(encoder),
        *limits,
        encoder.templates,
        prompt,
        queries,
        documents,
        vectors,
        encoder.sparse,
    )


def check_readers(
    ours: Sample,
    folder: Path,
    adapter: Path | None,
    base: str | None,
    python: str = sys.executable,
) -> list[ReaderCheck]:
    """Read the folders in a fresh process with each library, and compare the embeddings.

    Args:
        ours: texts with embeddings of the encoder as it was before anything was written.
        folder: the whole model.
        adapter: the adapter alone, where there is one.
        base: its base model.
        python: the interpreter of the fresh process; another one has other versions.

    Raises:
        DataError: a library cannot read a folder, or reads other embeddings from it.
    """
    place = folder / "proof"
    request, answer = place / "request.json", place / "answer.npz"
    write_json(
        request,
        {
            "folder": str(folder),
            "adapter": None if adapter is None else str(adapter),
            "base": base,
            "pooling": ours.pooling,
            "plain": ours.plain,
            "sparse": ours.sparse,
            "query_tokens": ours.query_tokens,
            "passage_tokens": ours.passage_tokens,
            "prompt": ours.templates.format_query("", ours.prompt),
            "document_prompt": ours.templates.format_passage(""),
            "queries": ours.queries,
            "documents": ours.documents,
        },
    )
    command = [python, "-P", reader.__file__, str(request), str(answer)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise DataError(f"the export cannot be read by a fresh process:\n{process.stderr[-2000:]}")
    with np.load(answer) as arrays:
        theirs = dict(arrays)
    shutil.rmtree(place)
    ways = dict.fromkeys(name.rpartition("/")[0] for name in theirs)
    return [_check(way, ours, theirs) for way in ways]


def _check(way: str, ours: Sample, theirs: dict[str, NDArray[np.float32]]) -> ReaderCheck:
    """Compare, and refuse embeddings that are not the encoder's; NaN is not equal either."""
    cosines, differences = [], []
    for kind, texts in (("queries", ours.queries), ("documents", ours.documents)):
        other = theirs.get(f"{way}/{kind}")
        if other is not None:
            cosine = _cosines(ours.vectors[kind], other)
            worst = int(np.argmin(np.nan_to_num(cosine, nan=-1.0)))
            if not cosine[worst] >= LEAST:
                raise DataError(
                    f"{way} reads other embeddings from the export than the encoder's own: cosine "
                    f"{cosine[worst]:.6f} for one of the {kind} ({texts[worst][:40]!r}), at least "
                    f"{LEAST} is allowed; nothing was exported"
                )
            cosines.append(cosine[worst])
            differences.append(np.abs(ours.vectors[kind] - other).max())
    return ReaderCheck(way, float(min(cosines)), float(max(differences)))


def _cosines(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    empty = ~a.any(1) & ~b.any(1)  # sparse vectors of texts without a term
    return np.where(empty, 1.0, (a * b).sum(1) / np.where(empty, 1.0, lengths))
