"""Text to token ids: truncation, and the end token that last-token pooling reads."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from tdro_lightning.errors import ConfigError
from tdro_lightning.files import read_json
from tdro_lightning.models.model_files import (
    ADAPTER,
    CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    model_file,
)
from tdro_lightning.models.tokens import Tokens

MOST_CUT = 0.05  # of the texts that may be as long as their limit without a warning

logger = logging.getLogger(__name__)


def cut_warning(key: str, limit: int, share: float) -> str:
    """The warning that many texts are cut.

    Args:
        key: of the limit.
        limit: of tokens.
        share: of the texts that are as long as the limit.
    """
    return (
        f"{key}={limit} cuts many texts: {share:.0%} of them are as long as it allows; raise it, "
        "or shorten the texts"
    )


class TextTokenizer:
    """A Hugging Face tokenizer that ends every text with a token that last-token pooling reads.

    Args:
        tokenizer: a fast tokenizer.
        pooling: `last` appends EOS where no special token ends a text; others change nothing.
        append_eos: False where the model was trained on texts that end as this tokenizer ends them.

    Raises:
        ConfigError: no fast tokenizer, or no EOS token where one is needed.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, pooling: str, append_eos: bool = True
    ) -> None:
        vocabulary = tokenizer.get_vocab()
        # Where the files are missing, transformers makes a tokenizer of special tokens alone.
        if not tokenizer.is_fast or set(vocabulary.values()) <= set(tokenizer.all_special_ids):
            raise ConfigError(f"model.path={tokenizer.name_or_path}: needs a tokenizer.json")
        if pooling == "last" and append_eos:
            _append_eos(tokenizer)
        # Of the model it was made of; readers of an embedding model would wrap every text in it.
        tokenizer.chat_template = None
        tokenizer.init_kwargs.pop("chat_template", None)
        self.tokenizer = tokenizer
        self.vocabulary_size = max(vocabulary.values()) + 1
        self._longest_token = max(len(token) for token in vocabulary)

    @classmethod
    def load(cls, path: str, pooling: str, append_eos: bool = True) -> "TextTokenizer":
        """Load the tokenizer of a model folder or hub name."""
        # An adapter has no config.json. transformers asks the hub for one all the same, and fails
        # where the hub cannot be reached.
        adapter = model_file(path, ADAPTER) and not model_file(path, CONFIG)
        bare = adapter and not Path(path).is_dir()
        settings = {"config": PreTrainedConfig()} if bare else {}
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **settings)
        except ValueError:  # how some families report that there are no files to read
            raise ConfigError(f"model.path={path}: needs a tokenizer.json") from None
        except Exception as error:
            if type(error) is not Exception:  # the tokenizers library raises these, of broken files
                raise
            raise ConfigError(f"model.path={path}: broken tokenizer.json ({error})") from None
        _require_own_ids(tokenizer, path)
        return cls(tokenizer, pooling, append_eos)

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files, and remove what an earlier one has left beside them."""
        self.tokenizer.save_pretrained(str(folder))
        (folder / "chat_template.jinja").unlink(missing_ok=True)
        shutil.rmtree(folder / "additional_chat_templates", ignore_errors=True)

    def mask_id(self) -> int:
        """The token that stands for a hidden one: the mask token, else `_`.

        Raises:
            ConfigError: there is neither.
        """
        own: int | None = self.tokenizer.mask_token_id
        number = self.tokenizer.get_vocab().get("_") if own is None else own
        if number is None:
            raise ConfigError(
                f"model.path={self.tokenizer.name_or_path}: its tokenizer has neither a mask token "
                "nor `_`, one of which module=mntp needs; name one in its tokenizer_config.json"
            )
        return number

    def require_rows(self, rows: int) -> None:
        """Refuse a tokenizer whose ids the model has no embedding for.

        A special token that nothing adds may lie beyond: no text ever becomes it.

        Args:
            rows: of the model's embeddings.

        Raises:
            ConfigError: names the token.
        """
        added = self.tokenizer.added_tokens_decoder
        ends = set(self.tokenizer(["a"]).input_ids[0])
        for token, number in self.tokenizer.get_vocab().items():
            unread = number in added and added[number].special and number not in ends
            if number >= rows and not unread:
                raise ConfigError(
                    f"model.path={self.tokenizer.name_or_path}: its {TOKENIZER} gives {token!r} "
                    f"the id {number}, but the model has embeddings for 0 to {rows - 1}"
                )

    def show(self, token: int) -> str:
        """A token as people read it: its text, or as the tokenizer has it where that is none.

        Spaces alone and parts of a character are no text; an id without a token gives nothing.
        """
        if token >= self.vocabulary_size:
            return ""
        text = str(self.tokenizer.decode([token]))
        if text.strip() and "\N{REPLACEMENT CHARACTER}" not in text:
            return text
        return str(self.tokenizer.convert_ids_to_tokens(token) or "")

    def __call__(self, texts: Sequence[str], max_tokens: int) -> Tokens:
        """Token ids of each text, at most `max_tokens` each, special tokens included.

        A special token that stands literally in a text is read as ordinary text.
        """
        # No token is longer than the longest in the vocabulary, so this cut loses nothing that
        # truncation would keep; without it a text of megabytes takes seconds. Only characters that
        # make no token (white space of a BERT) can leave the cut text short: it is then read whole.
        cut = (max_tokens + 1) * self._longest_token
        rows = self._encode([text[:cut] for text in texts], max_tokens)
        for i, text in enumerate(texts):
            if len(text) > cut and len(rows[i]) < max_tokens:
                rows[i] = self._encode([text], max_tokens)[0]
        if not all(rows):
            raise ConfigError(
                f"model.path={self.tokenizer.name_or_path}: an empty text has no token to pool, "
                "since this tokenizer adds none; use model.pooling=last or leave such texts out"
            )
        return Tokens.of(rows)

    def _encode(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        encoded = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=max_tokens,
            padding=False,
            return_attention_mask=False,
            split_special_tokens=True,
        )
        return encoded["input_ids"]


def _require_own_ids(tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    """Refuse files that give ids twice, or other ids than the tokenizer has after loading.

    Raises:
        ConfigError: names token, ids and file.
        DataError: one of the files is not JSON.
    """
    seen: dict[int, str] = {}
    for name, token, number in _declared_ids(path):
        loaded = tokenizer.convert_tokens_to_ids(token)
        if number != loaded or seen.setdefault(number, token) != token:
            other = f"it is {seen[number]!r}'s" if number in seen else f"it is read as {loaded}"
            raise ConfigError(
                f"model.path={path}: its {name} gives {token!r} the id {number}, but {other}; "
                "restore the tokenizer's files"
            )


def _declared_ids(path: str) -> Iterator[tuple[str, str, Any]]:
    """File, token and id of every token that a tokenizer's files give an id."""
    file = model_file(path, TOKENIZER)
    content = read_json(file) if file else {}
    model = content.get("model", {})
    if model.get("dropout"):
        raise ConfigError(
            f"model.path={path}: its {TOKENIZER} drops merges at random (`dropout`), so that a "
            "text has other tokens every time; set it to null"
        )
    vocabulary = model.get("vocab", {})
    for token, number in vocabulary.items() if isinstance(vocabulary, dict) else ():
        yield TOKENIZER, token, number
    for entry in content.get("added_tokens", ()):
        yield TOKENIZER, entry["content"], entry["id"]
    settings = model_file(path, TOKENIZER_CONFIG)
    added = read_json(settings).get("added_tokens_decoder", {}) if settings else {}
    for number, entry in added.items():
        yield TOKENIZER_CONFIG, entry["content"], int(number)


def _append_eos(tokenizer: PreTrainedTokenizerBase) -> None:
    """Write EOS into the tokenizer's post-processor, after the text and after truncation.

    A tokenizer that ends texts with a special token keeps it, whatever token it calls EOS: the
    model was trained with that one.
    """
    with_special = tokenizer(["a"]).input_ids[0]
    bare = tokenizer(["a"], add_special_tokens=False).input_ids[0]
    if with_special[-1] != bare[-1] and with_special[-1] in tokenizer.all_special_ids:
        return
    if tokenizer.eos_token is None:
        raise ConfigError(
            f"model.path={tokenizer.name_or_path}: the tokenizer has no EOS token, which "
            "model.pooling=last reads; name one in its tokenizer_config.json, or pool by mean"
        )
    start = with_special.index(bare[0])
    prefix = tokenizer.convert_ids_to_tokens(with_special[:start])
    suffix = tokenizer.convert_ids_to_tokens(with_special[start + len(bare) :])
    special = {*prefix, *suffix, tokenizer.eos_token}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*prefix, "$A", *suffix, tokenizer.eos_token],
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in special],
    )
