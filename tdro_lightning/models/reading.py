"""How an encoder's texts are read, and its vectors made: as its folder says, else as asked."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.files import read_json
from tdro_lightning.models.declared import Declared, read_declared
from tdro_lightning.models.head import Head, load_head
from tdro_lightning.models.model_files import DESCRIPTION, require_deciding_files
from tdro_lightning.models.pooling import POOLINGS
from tdro_lightning.models.sparse_head import SparseShape
from tdro_lightning.models.templates import PAPER, Templates

DAMAGED = (  # what loading raises where files are missing, cut off, or of another shape
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError),
    *(SafetensorError, StrictDataclassError),
)


@dataclass(frozen=True)
class Reading:
    """How texts become tokens, and token states vectors.

    Args:
        pooling: of `POOLINGS`.
        query_tokens, passage_tokens: longest texts.
        templates: of both.
        head: from pooled vectors to embeddings.
        append_eos: as in `TextTokenizer`; False where the folder is of a trained encoder.
        declared: the `modules.json` that it comes from.
        sparse: the sparse head that is made of the language model's; None makes dense vectors.
        bidirectional: whether a decoder's tokens see those behind them; None leaves its config.
        adapted: whether the folder is of an adapted language model, whose adapter is trained on.
    """

    pooling: str
    query_tokens: int
    passage_tokens: int
    templates: Templates = PAPER
    head: Head = field(default_factory=Head)
    append_eos: bool = True
    declared: Declared | None = None
    sparse: SparseShape | None = None
    bidirectional: bool | None = None
    adapted: bool = False

    def with_templates(self, query: str | None, passage: str | None) -> Self:
        """The same with other templates, where some are given."""
        templates = self.templates
        if query is not None:
            templates = replace(templates, query=query)
        if passage is not None:
            templates = replace(templates, passage=passage)
        return replace(self, templates=templates)


def read_folder(path: str, asked: Reading) -> Reading:
    """How a model's texts are read: as its folder says, else as asked.

    Args:
        path: hub name or folder.
        asked: used where the folder says nothing; its limits also where the folder's are higher.

    Raises:
        ConfigError: the folder declares what cannot be applied.
        DataError: a file is damaged, or another one than the encoder was saved with.
    """
    described = Path(path) / DESCRIPTION
    if described.is_file():
        return read_description(described, asked)
    declared = read_declared(path)
    if declared is None:
        return asked
    most = declared.tokens or max(asked.query_tokens, asked.passage_tokens)
    limits = (min(asked.query_tokens, most), min(asked.passage_tokens, most))
    if declared.sparse is not None:
        trained = asked.sparse is not None and asked.sparse.trained
        return Reading(
            asked.pooling,
            *limits,
            declared.templates,
            append_eos=declared.append_eos,
            declared=declared,
            sparse=replace(declared.sparse, trained=trained),
        )
    if asked.sparse is not None:
        raise ConfigError(
            f"model.head=sparse needs a language model, and model.path={path} is an embedding "
            "model with a modules.json; take the model that it was made of, or model.head=dense"
        )
    return Reading(
        declared.pooling,
        *limits,
        declared.templates,
        declared.head(path),
        declared.append_eos,
        declared,
    )


def read_description(path: Path, asked: Reading | None = None) -> Reading:
    """What an `encoder.json` of ours says.

    Args:
        path: of the file.
        asked: holds where it is of an adapted language model, which leaves the reading open.

    Raises:
        DataError: it is damaged, or a file beside it is not the one that was saved with it.
    """
    described = read_json(path)
    both = True if isinstance(described, dict) and described.get("bidirectional") else None
    if asked is not None and isinstance(described, dict) and described.get("adapted") is True:
        require_deciding_files(path.parent, described.get("sha256"))
        return replace(asked, bidirectional=both, adapted=True)
    try:
        pooling = described["pooling"]
        query_tokens, passage_tokens = described["query_tokens"], described["passage_tokens"]
    except (KeyError, TypeError):
        keys = "pooling, query_tokens and passage_tokens"
        raise DataError(f"{path}: must have the keys {keys}") from None
    limits = (query_tokens, passage_tokens)
    if pooling not in POOLINGS or not all(type(n) is int and n > 1 for n in limits):
        shown = f"pooling={pooling!r}, query_tokens={query_tokens!r}, {passage_tokens=!r}"
        raise DataError(
            f"{path}: {shown} cannot be; pooling is "
            f"{' or '.join(POOLINGS)}, the limits are numbers above 1"
        )
    if described.get("sha256"):  # an encoder of an earlier version has none
        require_deciding_files(path.parent, described["sha256"])
    try:  # an encoder of an earlier version has the paper's templates, and no head of its own
        templates = Templates(**described.get("templates", {}))
        sparse, head = None, Head()
        if described.get("head", {}).get("kind") == "sparse":
            sparse = SparseShape(**{k: v for k, v in described["head"].items() if k != "kind"})
        elif "head" in described:
            head = load_head(described["head"], path.parent)
        head.prefixes = tuple(map(int, described.get("prefixes", ())))
    except DAMAGED as error:
        raise DataError(f"{path}: its templates or head cannot be read ({error})") from None
    return Reading(
        pooling,
        query_tokens,
        passage_tokens,
        templates,
        head,
        append_eos=False,
        sparse=sparse,
        bidirectional=both,
    )
