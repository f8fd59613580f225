import functools
import itertools
import json
import operator
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdro_lightning.dro.weights_file import WeightsFile, read_weights, write_weights
from tdro_lightning.errors import DataError

LAST = {"nq": 0.5, "agnews": 0.3, "AllNLI": 0.2}
MEAN = {"nq": 0.4, "agnews": 0.3, "AllNLI": 0.3}
EMA = {"nq": 0.45, "agnews": 0.3, "AllNLI": 0.25}
SIZE = {"nq": 100, "agnews": 700, "AllNLI": 200}
RELEASED = {
    "domain_ids": {"nq": 0, "agnews": 1, "AllNLI": 2},
    "domain_weights": LAST,
    "size": SIZE,
    "epoch": {"nq": 5.0, "agnews": 0.3 / 0.7, "AllNLI": 1.0},
}


def saved(folder: Path, value: Any) -> Path:
    path = folder / "weights.json"
    path.write_text(json.dumps(value))
    return path


def test_round_trip(tmp_path: Path) -> None:
    content = WeightsFile(LAST, SIZE, MEAN, EMA, {"reference": "runs/reference", "step": 1000})
    write_weights(tmp_path / "weights.json", content)
    read = read_weights(tmp_path / "weights.json")
    assert read == content
    assert [read.weights(kind) for kind in ("last", "mean", "ema")] == [LAST, MEAN, EMA]
    assert list(read.last) == ["nq", "agnews", "AllNLI"]


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=30))
@settings(deadline=None)
def test_weights_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, shares: list[float]
) -> None:
    last = {f"domain {i}": share / sum(shares) for i, share in enumerate(shares)}
    size = dict.fromkeys(last, 3)
    path = tmp_path_factory.getbasetemp() / "weights.json"
    write_weights(path, WeightsFile(last, size))
    assert read_weights(path) == WeightsFile(last, size)


def test_released_keys(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.json", WeightsFile(LAST, SIZE))
    value = json.loads((tmp_path / "weights.json").read_text())
    assert list(value) == ["domain_ids", "domain_weights", "size", "epoch", "sha256"]
    del value["sha256"]
    assert value["epoch"] == pytest.approx(RELEASED["epoch"], rel=1e-15)
    assert {**value, "epoch": None} == {**RELEASED, "epoch": None}


def test_own_keys_follow(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.json", WeightsFile(LAST, SIZE, MEAN, EMA, {"step": 7}))
    value = json.loads((tmp_path / "weights.json").read_text())
    assert list(value)[4:] == ["mean_weights", "ema_weights", "lineage", "format", "sha256"]
    assert (value["mean_weights"], value["ema_weights"]) == (MEAN, EMA)
    assert value["lineage"] == {"step": 7}


def test_released_file_has_no_mean_and_no_ema(tmp_path: Path) -> None:
    read = read_weights(saved(tmp_path, RELEASED))
    assert read == WeightsFile(LAST, SIZE)
    assert read.weights("last") == LAST
    for kind in ("mean", "ema"):
        message = f"the weights file holds no {kind} weights; use transfer.kind=last"
        with pytest.raises(DataError, match=message):
            read.weights(kind)


def test_whole_numbers_and_zeros_are_weights(tmp_path: Path) -> None:
    read = read_weights(saved(tmp_path, {"domain_weights": {"a": 1, "b": 0}}))
    assert read == WeightsFile({"a": 1.0, "b": 0.0}, {})
    assert {type(weight) for weight in read.last.values()} == {float}


@pytest.mark.parametrize("value", [[], ["nq"], 1, None, {}, {"nq": 1.0}, {"weights": LAST}])
def test_not_a_weights_file(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match=r"weights\.json: not a domain-weights file; it has no key"):
        read_weights(saved(tmp_path, value))


@pytest.mark.parametrize("key", ["domain_weights", "mean_weights", "ema_weights"])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"nq": 0.5, "agnews": 0.3, "AllNLI": 0.1}, "must sum to 1, sums to 0.9"),
        ({"nq": 0.5, "agnews": 0.3, "AllNLI": 0.2002}, "must sum to 1, sums to 1.0002"),
        ({"nq": 0.0}, "must sum to 1, sums to 0"),
        ([0.5, 0.3, 0.2], "must map domain to weight, is [0.5, 0.3, 0.2]"),
        ({}, "must map domain to weight, is {}"),
        (None, "must map domain to weight, is None"),
    ],
)
def test_bad_weights(tmp_path: Path, key: str, weights: Any, message: str) -> None:
    path = saved(tmp_path, {**RELEASED, key: weights})
    with pytest.raises(DataError, match=re.escape(f"{path}: `{key}` {message}")):
        read_weights(path)


@pytest.mark.parametrize("key", ["domain_weights", "mean_weights", "ema_weights"])
@pytest.mark.parametrize(
    ("weight", "shown"),
    [
        (-0.1, "-0.1"),
        (10**400, "1000000"),
        ("0.3", "'0.3'"),
        (True, "True"),
        (None, "None"),
        ([0.3], "[0.3]"),
    ],
)
def test_bad_weight(tmp_path: Path, key: str, weight: Any, shown: str) -> None:
    path = saved(tmp_path, {**RELEASED, key: {"nq": 0.5, "agnews": weight, "AllNLI": 0.2}})
    message = f"{path}: `{key}.agnews` must be a weight of 0 or more, is {shown}"
    with pytest.raises(DataError, match=re.escape(message)):
        read_weights(path)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path: Path, weight: float) -> None:
    path = saved(tmp_path, {**RELEASED, "domain_weights": {"nq": 0.5, "agnews": weight}})
    with pytest.raises(DataError, match=r"weights\.json: not valid JSON \(\w+ is not"):
        read_weights(path)


def test_rounded_weights_are_accepted(tmp_path: Path) -> None:
    last = {"nq": 0.5, "agnews": 0.3, "AllNLI": 0.20005}
    assert read_weights(saved(tmp_path, {"domain_weights": last})).last == last


@pytest.mark.parametrize("key", ["mean_weights", "ema_weights"])
def test_kinds_of_other_domains(tmp_path: Path, key: str) -> None:
    path = saved(tmp_path, {**RELEASED, key: {"nq": 0.5, "other": 0.5}})
    message = f"{path}: `{key}` names other domains than `domain_weights`"
    with pytest.raises(DataError, match=re.escape(message)):
        read_weights(path)


def test_sizes_in_a_list(tmp_path: Path) -> None:
    path = saved(tmp_path, {**RELEASED, "size": [100, 700, 200]})
    with pytest.raises(DataError, match="`size` must map domain to rows, is list"):
        read_weights(path)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"weights\.json: no such file"):
        read_weights(tmp_path / "weights.json")
    (tmp_path / "weights.json").write_text(json.dumps(RELEASED)[:-5])
    with pytest.raises(DataError, match=r"weights\.json: not valid JSON"):
        read_weights(tmp_path / "weights.json")


def test_a_reader_sees_the_old_or_the_new_file_whatever_kills_the_writer(tmp_path: Path) -> None:
    """50 writers, each killed at another moment."""
    path = tmp_path / "weights.json"
    names = [f"domain {i}" for i in range(200)]
    versions = [dict.fromkeys(names, 1 / 200), {**dict.fromkeys(names, 0.0), "domain 7": 1.0}]
    contents = [WeightsFile(version, dict.fromkeys(names, 3)) for version in versions]
    write_weights(path, contents[0])
    seen = set()
    for kill in range(50):
        writer = os.fork()
        if writer == 0:
            while True:
                for content in contents:
                    write_weights(path, content)
        began, before = time.monotonic(), path.stat().st_ino
        while path.stat().st_ino == before and time.monotonic() - began < 10:
            seen.add(read_weights(path).last["domain 7"])
        time.sleep(0.0003 * (kill % 10))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        read = read_weights(path)
        assert read in contents
        seen.add(read.last["domain 7"])
    assert seen == {1 / 200, 1.0}


def test_a_file_of_the_first_format_is_read_for_ever(tmp_path: Path) -> None:
    """As version 0.1.0 wrote it; it must not change with the program."""
    golden = Path(__file__).with_name("weights_format_1.json")
    read = read_weights(golden)
    assert read.last == {"nq": 0.5, "agnews": 0.3, "AllNLI": 0.2}
    assert (read.mean, read.ema) == (MEAN, EMA)
    assert read.lineage == {"domains": {"nq": "a", "agnews": "b", "AllNLI": "c"}, "steps": 3}
    assert not read.has_checksum
    write_weights(tmp_path / "again.json", read)
    again = json.loads((tmp_path / "again.json").read_text())
    assert len(again.pop("sha256")) == 64
    assert list(again.items()) == list(json.loads(golden.read_text()).items())


def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every leaf of a JSON file."""
    if isinstance(value, dict):
        for key, content in value.items():
            yield from numbers(content, (*path, key))
    else:
        yield path


def test_any_two_values_of_a_file_with_a_checksum_swapped_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    lineage = {"domains": {"nq": "a", "agnews": "b", "AllNLI": "c"}, "steps": 3}
    write_weights(path, WeightsFile(LAST, SIZE, MEAN, EMA, lineage))
    whole = path.read_text()
    assert read_weights(path).has_checksum
    path.write_text(json.dumps(json.loads(whole)))  # the layout does not matter
    assert read_weights(path).last == LAST
    places = list(numbers(json.loads(whole)))
    for one, two in itertools.combinations(places, 2):
        value = json.loads(whole)
        parents = [functools.reduce(operator.getitem, place[:-1], value) for place in (one, two)]
        a, b = parents[0][one[-1]], parents[1][two[-1]]
        if a == b:
            continue
        parents[0][one[-1]], parents[1][two[-1]] = b, a
        path.write_text(json.dumps(value))
        with pytest.raises(DataError):
            read_weights(path)


@pytest.mark.parametrize("key", ["domain_ids", "domain_weights", "size", "mean_weights"])
def test_the_order_of_the_names_is_covered(tmp_path: Path, key: str) -> None:
    path = tmp_path / "weights.json"
    write_weights(path, WeightsFile(LAST, SIZE, MEAN))
    value = json.loads(path.read_text())
    value[key] = dict(reversed(value[key].items()))
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match="was changed after it was written"):
        read_weights(path)


def test_weights_of_other_rows_are_refused() -> None:
    ours = WeightsFile(
        last={"a": 0.5, "b": 0.5}, size={"a": 3, "b": 4}, lineage={"domains": {"a": "x", "b": "y"}}
    )
    ours.check_data({"a": 3, "b": 4}, {"a": "x", "b": "y"})
    with pytest.raises(DataError, match=r"other rows of b \(other content\); .*same_data=false"):
        ours.check_data({"a": 3, "b": 4}, {"a": "x", "b": "z"})


def test_the_authors_files_are_checked_by_their_sizes() -> None:
    theirs = WeightsFile(last={"a": 0.5, "b": 0.5}, size={"a": 3, "b": 4})
    theirs.check_data({"a": 3, "b": 4}, {"a": "x", "b": "y"})
    with pytest.raises(DataError, match=r"a \(3 rows then, 5 now\)"):
        theirs.check_data({"a": 5, "b": 4}, {"a": "x", "b": "y"})
