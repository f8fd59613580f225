"""Whatever stands in a file of rows or of weights, it is used or refused with our own message."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tdro_lightning.data.characters import is_blank
from tdro_lightning.data.jsonl import examine_lines, read_rows
from tdro_lightning.dro.transfer import check_domains
from tdro_lightning.dro.weights_file import read_weights
from tdro_lightning.errors import DataError, InputError
from tdro_lightning.models.tokenizer import TextTokenizer
from tests.made_up import tiny_model

LONG = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
PASSAGE_KEYS = ("docid", "title", "text", "score")
passage = st.fixed_dictionaries(
    {}, optional={key: st.text(max_size=4) | anything for key in PASSAGE_KEYS}
)
passages = st.lists(passage | anything, max_size=3) | anything
row = st.fixed_dictionaries(
    {},
    optional={
        "query_id": st.text(max_size=3) | anything,
        "query": st.text(max_size=5) | anything,
        "positive_passages": passages,
        "negative_passages": passages,
        "more": anything,
    },
)
line = st.one_of(
    row.map(lambda value: json.dumps(value).encode()),
    anything.map(lambda value: json.dumps(value).encode()),
    row.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")[:-3]),
    st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"")),
)


def outcomes(path: Path) -> list[str]:
    """What becomes of each line; a file that cannot be read has none."""
    found = []
    try:
        for one in examine_lines(path):
            found.append(f"{one.number} {'row' if one.fault is None else one.fault.kind}")
    except DataError as error:
        found.append(f"file {error}")
    return found


def refusal(path: Path) -> str:
    """With what message a file of rows is refused; empty where it is not."""
    try:
        list(read_rows(path))
    except DataError as error:
        return str(error)
    return ""


@given(st.lists(line, max_size=5))
@LONG
def test_any_lines(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    path.write_bytes(b"\n".join(lines))
    faults = [one for one in outcomes(path) if not one.endswith((" row", "id twice"))]
    refused = refusal(path)
    if faults and not faults[0].startswith("file "):
        number = faults[0].split()[0]
        assert refused.startswith(f"{path}:{number}: ")
    else:
        assert refused == ""
        assert faults in ([], [f"file {path}: no rows in it"])


@given(st.binary(max_size=200))
@LONG
def test_any_bytes_as_gzip(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.jsonl.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00" + content)
    found = outcomes(path)
    assert found == [] or found[-1].startswith((f"file {path}", "1 "))


weights_file = st.fixed_dictionaries(
    {},
    optional={
        **{
            key: st.dictionaries(st.sampled_from("abc"), st.floats() | st.integers() | anything)
            | st.dictionaries(st.sampled_from("abc"), st.sampled_from([0, 0.5, 1, 1.0]), min_size=1)
            | anything
            for key in ("domain_weights", "mean_weights", "ema_weights", "size")
        },
        "lineage": anything | st.fixed_dictionaries({"domains": anything}),
        "format": st.just(1) | anything,
    },
)


@given(weights_file | anything)
@LONG
def test_any_weights(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    with contextlib.suppress(InputError):
        file = read_weights(path)
        assert abs(sum(file.last.values()) - 1) < 1e-3
        file.check_data({"a": 3, "b": 4}, {"a": "x", "b": "y"})
        check_domains(["a", "b"], file.last)


@given(st.binary(max_size=60))
@LONG
def test_any_bytes_as_weights(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_weights(path)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return TextTokenizer.load(tiny_model(tmp_path_factory.mktemp("model")), "last")


odd = st.text(
    st.sampled_from("a \x00\u200d\u202e\u0301\u4e2d\U0001f468\U0001f469<|endoftext|>\ufeff\r\t"),
    min_size=1,
)


@given(st.lists(odd | st.text(min_size=1, max_size=20), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_text_round_trips_and_is_tokenised(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: TextTokenizer, texts: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "texts.jsonl"
    texts = [text for text in texts if not is_blank(text)]
    with path.open("w", encoding="utf-8", newline="") as stream:
        for i, text in enumerate(texts):
            positives = [{"text": text}]
            value = {"query_id": f"{i}", "query": text, "positive_passages": positives}
            stream.write(json.dumps(value, ensure_ascii=i % 2 == 0) + "\n")
    read = [one for _, one in read_rows(path)]
    assert [one["query"] for one in read] == texts
    assert [one["positive_passages"][0]["text"] for one in read] == texts
    if texts:
        tokens = tokenizer(texts, 12)
        end = tokenizer.tokenizer.eos_token_id
        for ids, mask in zip(*tokens.padded(range(len(texts))), strict=True):
            assert (ids[mask] == end).sum() == 1  # a special token in the text stays text
            assert ids[mask][-1] == end
