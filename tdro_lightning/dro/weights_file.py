"""The domain-weights file: the authors' released JSON format, with mean, EMA and lineage."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tdro_lightning.errors import DataError
from tdro_lightning.files import read_json, write_json

WeightsKind = Literal["last", "mean", "ema"]
LARGEST = 10_000_000  # bytes; a thousand domains take a hundredth of it
FORMAT = 1  # of our own keys; the authors' files have no such number
_KEYS: dict[str, str] = {"last": "domain_weights", "mean": "mean_weights", "ema": "ema_weights"}


@dataclass(frozen=True)
class WeightsFile:
    """Domain weights by name, as written to and read from `weights.json`.

    Args:
        last: weights after the last step (`domain_weights` in the file).
        size: rows of each domain.
        mean: running mean over the steps, where the file has it.
        ema: exponential moving average over the steps, where the file has it.
        lineage: which reference, data, config and step the weights come from.
    """

    last: dict[str, float]
    size: dict[str, int]
    mean: dict[str, float] | None = None
    ema: dict[str, float] | None = None
    lineage: dict[str, Any] = field(default_factory=dict)

    def weights(self, kind: WeightsKind) -> dict[str, float]:
        """The weights of one kind.

        Raises:
            DataError: the file did not hold that kind, as the authors' files do not.
        """
        chosen: dict[str, float] | None = getattr(self, kind)
        if chosen is None:
            raise DataError(f"the weights file holds no {kind} weights; use transfer.kind=last")
        return chosen

    def check_data(self, size: Mapping[str, int], fingerprints: Mapping[str, str]) -> None:
        """Refuse weights that were learned on other rows than those at hand.

        Our files carry a fingerprint of each domain's rows; for the authors' files, which do not,
        the numbers of rows must agree.

        Args:
            size: rows of each domain at hand.
            fingerprints: fingerprint of each domain's rows at hand.

        Raises:
            DataError: names every domain that differs and how.
        """
        learned = self.lineage.get("domains")
        if learned is not None:
            differing = [f"{n} (other content)" for n in size if learned.get(n) != fingerprints[n]]
        else:
            differing = [
                f"{n} ({self.size[n]} rows then, {rows} now)"
                for n, rows in size.items()
                if n in self.size and self.size[n] != rows
            ]
        if differing:
            raise DataError(
                f"transfer.weights was learned on other rows of {', '.join(differing)}; "
                "use the same files, or accept the difference with transfer.same_data=false"
            )


def write_weights(path: Path, content: WeightsFile) -> None:
    """Write the released keys (`domain_ids`, `domain_weights`, `size`, `epoch`), then our own."""
    total = sum(content.size.values())
    value: dict[str, Any] = {
        "domain_ids": {name: index for index, name in enumerate(content.last)},
        "domain_weights": content.last,
        "size": content.size,
        "epoch": {name: p * total / content.size[name] for name, p in content.last.items()},
    }
    if content.mean is not None:
        value["mean_weights"] = content.mean
    if content.ema is not None:
        value["ema_weights"] = content.ema
    if content.lineage:
        value["lineage"] = content.lineage
        value["format"] = FORMAT
    write_json(path, value)


def read_weights(path: Path) -> WeightsFile:
    """Read a weights file of ours or of the authors'.

    Raises:
        DataError: not a weights file, or one of another version of this program; a weight that is
            no probability, or a sum other than 1.
    """
    value = read_json(path, LARGEST)
    if not isinstance(value, dict) or "domain_weights" not in value:
        raise DataError(f"{path}: not a domain-weights file; it has no key `domain_weights`")
    if value.get("format", FORMAT) != FORMAT:
        found = str(value["format"])[:20]
        raise DataError(f"{path}: has format {found}; this version reads format {FORMAT}")
    last = _simplex(value, "domain_weights", path)
    kinds = {
        kind: _simplex(value, key, path) if key in value else None
        for kind, key in _KEYS.items()
        if kind != "last"
    }
    for kind, weights in kinds.items():
        if weights is not None and set(weights) != set(last):
            raise DataError(f"{path}: `{_KEYS[kind]}` names other domains than `domain_weights`")
    size, lineage = value.get("size", {}), value.get("lineage", {})
    if not isinstance(size, dict):
        raise DataError(f"{path}: `size` must map domain to rows, is {type(size).__name__}")
    for name, rows in size.items():
        if type(rows) is not int or rows < 1:
            raise DataError(f"{path}: `size.{name}` must be a number of rows, is {rows!r}"[:300])
    if not isinstance(lineage, dict) or not isinstance(lineage.get("domains", {}), dict):
        raise DataError(f"{path}: `lineage` and its `domains` must be JSON objects")
    return WeightsFile(last=last, size=size, lineage=lineage, **kinds)


def _simplex(value: Mapping[str, Any], key: str, path: Path) -> dict[str, float]:
    weights = value[key]
    if not isinstance(weights, dict) or not weights:
        raise DataError(f"{path}: `{key}` must map domain to weight, is {weights!r}"[:200])
    for name, weight in weights.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 <= weight <= sys.float_info.max:
            message = f"{path}: `{key}.{name}` must be a weight of 0 or more, is {weight!r}"
            raise DataError(message[:300])
    total = math.fsum(weights.values())
    if abs(total - 1) > 1e-4:
        raise DataError(f"{path}: `{key}` must sum to 1, sums to {total:.6g}")
    return {name: float(weight) for name, weight in weights.items()}
