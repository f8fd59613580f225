import time
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, ByT5Tokenizer, LlamaTokenizer

from tdro_lightning.errors import ConfigError
from tdro_lightning.models.tokenizer import TextTokenizer
from tdro_lightning.models.tokens import Tokens

POOLING = {"qwen2": "last", "llama": "last", "bert": "mean"}


def rows_of(tokens: Tokens) -> list[list[int]]:
    ids, lengths = iter(tokens.ids.tolist()), tokens.lengths.tolist()
    return [[next(ids) for _ in range(length)] for length in lengths]


@pytest.fixture
def tokenizer(folders: dict[str, Path], family: str) -> TextTokenizer:
    return TextTokenizer.load(str(folders[family]), POOLING[family])


def bare_ids(folder: Path, text: str) -> list[int]:
    return AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("family", ["qwen2", "llama"], indirect=True)
@pytest.mark.parametrize("max_tokens", [3, 6, 7, 8, 64])
def test_one_eos_at_the_end_whatever_the_length(
    folders: dict[str, Path], family: str, tokenizer: TextTokenizer, max_tokens: int
) -> None:
    folder = folders[family]
    eos = tokenizer.tokenizer.eos_token_id
    bos = [tokenizer.tokenizer.bos_token_id] if family == "llama" else []
    texts = ["", "fox", "the river", "a green river runs round the lazy dog at night"]
    for text, ids in zip(texts, rows_of(tokenizer(texts, max_tokens)), strict=True):
        room = max_tokens - len(bos) - 1
        assert ids == [*bos, *bare_ids(folder, text)[:room], eos]
        assert ids.count(eos) == 1
        assert len(ids) <= max_tokens


def test_mean_pooling_leaves_the_special_tokens_as_they_are(
    folders: dict[str, Path], sentences: list[str]
) -> None:
    plain = AutoTokenizer.from_pretrained(folders["bert"])
    tokenizer = TextTokenizer.load(str(folders["bert"]), "mean")
    assert rows_of(tokenizer(["", *sentences], 64)) == plain(["", *sentences]).input_ids
    assert rows_of(tokenizer(["the lazy dog " * 9], 6))[0][-1] == plain.sep_token_id


def test_special_tokens_in_a_text_stay_text(tokenizer: TextTokenizer, family: str) -> None:
    special = tokenizer.tokenizer.all_special_tokens
    with_none, *literal = rows_of(tokenizer([""] + [f"a {name} dog" for name in special], 64))
    for ids in literal:
        drawn = [i for i in ids if i in tokenizer.tokenizer.all_special_ids]
        # Brackets are characters that the little WordPiece never saw.
        unknown = tokenizer.tokenizer.unk_token_id if family == "bert" else None
        assert [i for i in drawn if i != unknown] == with_none
        assert len(ids) > len(with_none) + 2


def test_ids_stay_below_the_vocabulary_size(tokenizer: TextTokenizer, texts: list[str]) -> None:
    assert int(tokenizer(texts, 64).ids.max()) < tokenizer.vocabulary_size
    assert tokenizer.vocabulary_size == len(tokenizer.tokenizer)


@pytest.mark.parametrize("unit", ["the lazy dog, at night ", "dogriver", " \n ", "\U0001f600", "é"])
def test_megabytes_tokenise_quickly_and_as_their_beginning(
    tokenizer: TextTokenizer, family: str, unit: str
) -> None:
    # WordPiece makes one unknown token of an endless word, which it has to read to the end.
    megabytes = 0.2 if family == "bert" and "dog," not in unit else 4
    long = unit * int(megabytes * 1e6 / len(unit))
    start = time.perf_counter()
    rows = rows_of(tokenizer([long], 32))
    assert time.perf_counter() - start < 3.0
    assert rows == rows_of(tokenizer([unit * (40_000 // len(unit))], 32))


def test_leading_white_space_does_not_push_the_words_out(folders: dict[str, Path]) -> None:
    tokenizer = TextTokenizer.load(str(folders["bert"]), "mean")
    spaced, plain = rows_of(tokenizer([" " * 9000 + "the lazy dog", "the lazy dog"], 16))
    assert spaced == plain


def test_last_pooling_needs_an_end(folders: dict[str, Path]) -> None:
    plain = AutoTokenizer.from_pretrained(folders["bert"])
    plain.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    with pytest.raises(ConfigError) as error:
        TextTokenizer(plain, "last")
    assert "the tokenizer has no EOS token" in str(error.value)
    assert "model.pooling=last" in str(error.value)
    assert len(TextTokenizer(plain, "mean")(["a dog"], 8)) == 1


def test_slow_tokenizers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs a tokenizer\.json"):
        TextTokenizer(ByT5Tokenizer(), "mean")


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_absent_tokenizers_are_refused(
    folders: dict[str, Path], family: str, pooling: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((folders[family] / "config.json").read_bytes())
    with pytest.raises(ConfigError, match=r"model\.path=.*: needs a tokenizer\.json"):
        TextTokenizer.load(str(tmp_path), pooling)


def test_mean_pooling_of_nothing_at_all_is_refused(folders: dict[str, Path]) -> None:
    tokenizer = TextTokenizer.load(str(folders["qwen2"]), "mean")
    assert len(tokenizer(["a dog"], 8)) == 1
    with pytest.raises(ConfigError, match=r"an empty text has no token to pool.*model\.pooling"):
        tokenizer(["a dog", ""], 8)


def test_an_eos_that_is_there_already_is_not_doubled(
    folders: dict[str, Path], tmp_path: Path, sentences: list[str]
) -> None:
    once = TextTokenizer.load(str(folders["llama"]), "last")
    once.tokenizer.save_pretrained(tmp_path)
    twice = TextTokenizer.load(str(tmp_path), "last")
    assert rows_of(twice(sentences, 9)) == rows_of(once(sentences, 9))


def test_a_special_token_after_the_text_is_its_end(folders: dict[str, Path]) -> None:
    """As in Qwen3-Embedding, which ends texts with another token than the one that it calls EOS."""
    plain = AutoTokenizer.from_pretrained(folders["bert"])
    plain.eos_token = "[MASK]"
    words = bare_ids(folders["bert"], "the lazy dog")
    expected = [plain.cls_token_id, *words, plain.sep_token_id]
    assert rows_of(TextTokenizer(plain, "last")(["the lazy dog"], 16))[0] == expected
    plain.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", plain.cls_token_id)]
    )
    expected = [plain.cls_token_id, *words, plain.mask_token_id]
    assert rows_of(TextTokenizer(plain, "last")(["the lazy dog"], 16))[0] == expected
    unended = AutoTokenizer.from_pretrained(folders["bert"])
    unended.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    tokenizer = TextTokenizer(unended, "last", append_eos=False)
    assert rows_of(tokenizer(["the lazy dog"], 16))[0] == words


def test_llama_class_keeps_bos_through_saving(tmp_path: Path) -> None:
    # This class rebuilds its post-processor from its settings whenever it is loaded.
    characters = [*"▁adgo", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", *characters])}
    LlamaTokenizer(vocab=vocabulary, merges=[], add_bos_token=True).save_pretrained(tmp_path / "a")
    first = TextTokenizer.load(str(tmp_path / "a"), "last")
    first.tokenizer.save_pretrained(tmp_path / "b")
    second = TextTokenizer.load(str(tmp_path / "b"), "last")
    for tokenizer in (first, second):
        rows = rows_of(tokenizer(["", "dog", "a dog " * 9], 6))
        assert rows[0] == [1, 2]
        assert rows[1] == [1, *(vocabulary[c] for c in "▁dog"), 2]
        assert (rows[2][0], rows[2][-1], len(rows[2])) == (1, 2, 6)
