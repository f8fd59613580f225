"""Weights files, read and used for the domains `easy`, `middle` and `hard`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tdro_lightning.dro.transfer import Settings, check_domains, transfer
from tdro_lightning.dro.weights_file import LARGEST, WeightsFile, read_weights, write_weights
from tests.malformed import Case

NAMES = ("easy", "middle", "hard")
SIZES = dict.fromkeys(NAMES, 100)
WEIGHTS = {"easy": 0.2, "middle": 0.3, "hard": 0.5}


def text(content: str) -> Callable[[Path], None]:
    def use(folder: Path) -> None:
        (folder / "weights.json").write_text(content, encoding="utf-8")
        file = read_weights(folder / "weights.json")
        check_domains(NAMES, file.last)
        file.check_data(dict.fromkeys(NAMES, 40), dict.fromkeys(NAMES, "f" * 64))

    return use


def file(**content: Any) -> Callable[[Path], None]:
    return text(json.dumps({"domain_weights": WEIGHTS, **content}))


def weights(**changes: Any) -> Callable[[Path], None]:
    return file(domain_weights={**WEIGHTS, **changes})


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A file of ours with its checksum, something in it changed."""

    def use(folder: Path) -> None:
        path = folder / "weights.json"
        content = WeightsFile(WEIGHTS, dict.fromkeys(NAMES, 40), mean=WEIGHTS, lineage={"steps": 3})
        write_weights(path, content)
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
        read_weights(path)

    return use


def swap(value: dict[str, Any]) -> None:
    value["easy"], value["hard"] = value["hard"], value["easy"]


IDS = dict(zip(NAMES, range(3), strict=True))
OTHER_FILE = "weights.json: was changed after it was written, as its `sha256` says; ..."
NO_WEIGHT = "weights.json: `domain_weights.hard` must be a weight of 0 or more, is"
OTHERS = "transfer.weights does not match the configured domains:"

CASES = [
    Case("an empty file", text(""), 3, "weights.json: not valid JSON (...)"),
    Case("a file that is cut off", text('{"domain_wei'), 3, "weights.json: not valid JSON (...)"),
    Case("a list", text("[0.5, 0.5]"), 3, "weights.json: not a domain-weights file; it has no ..."),
    Case("another JSON file", text('{"a": 1}'), 3, "weights.json: not a domain-weights file; ..."),
    Case(
        "a key twice",
        text('{"domain_weights": {"easy": 0.5, "easy": 0.5}}'),
        3,
        "weights.json: not valid JSON (duplicate key 'easy')",
    ),
    Case("NaN", weights(hard=float("nan")), 3, "weights.json: not valid JSON (NaN is not a ..."),
    Case("infinity", weights(hard=float("inf")), 3, "weights.json: not valid JSON (Infinity ..."),
    Case(
        "a number over all bounds",
        text('{"domain_weights": {"hard": 1e999}}'),
        3,
        NO_WEIGHT + " inf",
    ),
    Case(
        "a sum above 1", weights(hard=0.7), 3, "weights.json: `domain_weights` must sum to 1, ..."
    ),
    Case("all zero", file(domain_weights=dict.fromkeys(NAMES, 0)), 3, "weights.json: ...sums to 0"),
    Case("a negative weight", weights(hard=-0.5), 3, f"{NO_WEIGHT} -0.5"),
    Case("a weight in quotes", weights(hard="0.5"), 3, f"{NO_WEIGHT} '0.5'"),
    Case("a weight that is true", weights(hard=True), 3, f"{NO_WEIGHT} True"),
    Case("a weight that is null", weights(hard=None), 3, f"{NO_WEIGHT} None"),
    Case("weights inside weights", weights(hard={"a": 0.5}), 3, f"{NO_WEIGHT} {{'a': 0.5}}"),
    Case("no weights", file(domain_weights={}), 3, "weights.json: `domain_weights` must map ..."),
    Case(
        "means of other domains",
        file(mean_weights={"easy": 1.0}),
        3,
        "weights.json: `mean_weights` names other domains than `domain_weights`",
    ),
    Case(
        "sizes in a list", file(size=[40]), 3, "weights.json: `size` must map domain to rows, ..."
    ),
    Case(
        "a size in quotes", file(size={"easy": "40"}), 3, "weights.json: `size.easy` must be a ..."
    ),
    Case("a lineage that is none", file(lineage=[1]), 3, "weights.json: `lineage` and its ..."),
    Case("two weights swapped", changed(lambda v: swap(v["domain_weights"])), 3, OTHER_FILE),
    Case("two means swapped", changed(lambda v: swap(v["mean_weights"])), 3, OTHER_FILE),
    Case("a size changed", changed(lambda v: v["size"].update(easy=41)), 3, OTHER_FILE),
    Case("a lineage changed", changed(lambda v: v["lineage"].update(steps=4)), 3, OTHER_FILE),
    Case("a checksum of a file cut short", changed(lambda v: v.pop("size")), 3, OTHER_FILE),
    Case("a checksum that is none", file(sha256=5), 3, OTHER_FILE),
    Case(
        "an index twice",
        file(domain_ids={**IDS, "hard": 0}),
        3,
        "weights.json: `domain_ids` must be 0 to 2, each once",
    ),
    Case(
        "an index in quotes",
        file(domain_ids={**IDS, "hard": "2"}),
        3,
        "weights.json: `domain_ids` must map domain to a whole number",
    ),
    Case(
        "indices of other domains",
        file(domain_ids={"easy": 0, "middle": 1, "other": 2}),
        3,
        "weights.json: `domain_ids` names other domains than `domain_weights`",
    ),
    Case(
        "epochs of other weights",
        file(size=dict.fromkeys(NAMES, 40), epoch={"easy": 1.5, "middle": 0.9, "hard": 0.6}),
        3,
        "weights.json: `epoch.easy` is 1.5, but its weight and the sizes give 0.6",
    ),
    Case("epochs in a list", file(epoch=[1]), 3, "weights.json: `epoch` must map domain to ..."),
    Case("a newer format", file(format=9), 3, "weights.json: has format 9; this version reads ..."),
    Case(
        "11 MB",
        text(" " * (LARGEST + 1)),
        3,
        f"weights.json: has {LARGEST + 1} bytes; such a file has {LARGEST} at most",
    ),
    Case(
        "a domain missing",
        file(domain_weights={"easy": 0.5, "hard": 0.5}),
        2,
        f"{OTHERS} ...['middle']...",
    ),
    Case(
        "a domain misspelt",
        file(domain_weights={"easy": 0.2, "midle": 0.3, "hard": 0.5}),
        2,
        f"{OTHERS} without a weight: ['middle']; unknown in the file: ['midle']; is middle the "
        "file's midle?",
    ),
    Case(
        "a path for a name",
        file(domain_weights={"../../etc/passwd": 1.0}),
        2,
        f"{OTHERS} ...unknown in the file: ['../../etc/passwd']",
    ),
    Case(
        "other numbers of rows", file(size={"easy": 39}), 3, "transfer.weights was learned on ..."
    ),
    Case(
        "other rows",
        file(lineage={"domains": dict.fromkeys(NAMES, "0" * 64)}),
        3,
        "transfer.weights was learned on other rows of easy (other content), ...",
    ),
    Case(
        "a share that keeps no domain",
        lambda _: transfer("top_share", SIZES, WEIGHTS, Settings(share=30)),
        2,
        "transfer.share=30 keeps none of the 3 domains; it must be at least 33.3",
    ),
    Case(
        "a share of 120 per cent",
        lambda _: transfer("top_share", SIZES, WEIGHTS, Settings(share=120)),
        2,
        "transfer.share=120 must be above 0 and at most 100 (per cent)",
    ),
]
