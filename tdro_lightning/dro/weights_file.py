"""The domain-weights file: the authors' released JSON format, with mean, EMA and lineage."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tdro_lightning.dro.mixture_file import read_mixture, read_yaml, require_weight
from tdro_lightning.errors import DataError
from tdro_lightning.files import read_json, require_checksum, write_checked_json

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
        has_checksum: whether the file had one; those of the authors, and older ones, have none.
    """

    last: dict[str, float]
    size: dict[str, int]
    mean: dict[str, float] | None = None
    ema: dict[str, float] | None = None
    lineage: dict[str, Any] = field(default_factory=dict)
    has_checksum: bool = field(default=False, compare=False)

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
    value: dict[str, Any] = {
        "domain_ids": {name: index for index, name in enumerate(content.last)},
        "domain_weights": content.last,
        "size": content.size,
        "epoch": _epochs(content.last, content.size),
        "mean_weights": content.mean,
        "ema_weights": content.ema,
        "lineage": content.lineage or None,
        "format": FORMAT if content.lineage else None,
    }
    write_checked_json(path, {key: part for key, part in value.items() if part is not None})


def _epochs(weights: Mapping[str, float], size: Mapping[str, int]) -> dict[str, float]:
    """How often a run over as many rows as there are goes through each domain."""
    total = sum(size.values())
    return {name: p * total / size[name] for name, p in weights.items()}


def read_weights(path: Path) -> WeightsFile:
    """Read a weights file of ours or of the authors', or weights in YAML.

    In YAML they are a `mixture.yaml`, or weights by name whose sum does not matter.

    Raises:
        DataError: not a weights file, or one of another version of this program; a weight that is
            no probability, a sum other than 1, keys that contradict one another, or a file that
            was changed after it was written.
    """
    if path.suffix in (".yaml", ".yml"):
        return _read_yaml_weights(path)
    value = read_json(path, LARGEST)
    if not isinstance(value, dict) or "domain_weights" not in value:
        raise DataError(f"{path}: not a domain-weights file; it has no key `domain_weights`")
    if value.get("format", FORMAT) != FORMAT:
        number = str(value["format"])[:20]
        raise DataError(f"{path}: has format {number}; this version reads format {FORMAT}")
    checked = require_checksum(path, value)
    weights = {key: _simplex(value, key, path) for key in _KEYS.values() if key in value}
    size, lineage = _mapping(value, "size", "rows", path), value.get("lineage", {})
    for name, rows in size.items():
        if type(rows) is not int or rows < 1:
            raise DataError(f"{path}: `size.{name}` must be a number of rows, is {rows!r}"[:300])
    if not isinstance(lineage, dict) or not isinstance(lineage.get("domains", {}), dict):
        raise DataError(f"{path}: `lineage` and its `domains` must be JSON objects")
    _require_agreement(value, weights, size, path)
    kinds = {kind: weights[key] for kind, key in _KEYS.items() if key in weights}
    return WeightsFile(size=size, lineage=lineage, has_checksum=checked, **kinds)


def _read_yaml_weights(path: Path) -> WeightsFile:
    """Probabilities of a `mixture.yaml`, or weights by name."""
    value = read_yaml(path)
    if "domains" in value:
        mixture = read_mixture(path)
        sizes = {name: share.of for name, share in mixture.shares.items()}
        return WeightsFile(mixture.probability, sizes, lineage=dict(mixture.lineage))
    for name in value:
        if not isinstance(name, str):
            raise DataError(f"{path}: the name {name!r} must be quoted, as in '{name}': 0.5")
    weights = {name: require_weight(number, f"{path}: `{name}`") for name, number in value.items()}
    total = math.fsum(weights.values())
    if total <= 0:
        raise DataError(f"{path}: must hold a weight above 0")
    return WeightsFile({name: number / total for name, number in weights.items()}, {})


def _mapping(value: Mapping[str, Any], key: str, what: str, path: Path) -> dict[str, Any]:
    """An object of the file; an empty one where it has none."""
    found = value.get(key, {})
    if not isinstance(found, dict):
        raise DataError(f"{path}: `{key}` must map domain to {what}, is {type(found).__name__}")
    return found


def _require_agreement(
    value: Mapping[str, Any],
    weights: Mapping[str, Mapping[str, float]],
    size: Mapping[str, int],
    path: Path,
) -> None:
    """Refuse keys that contradict `domain_weights`."""
    last = weights[_KEYS["last"]]
    ids = value.get("domain_ids", {name: i for i, name in enumerate(last)})
    if not isinstance(ids, dict) or any(type(i) is not int for i in ids.values()):
        raise DataError(f"{path}: `domain_ids` must map domain to a whole number")
    if sorted(ids.values()) != list(range(len(last))):
        raise DataError(f"{path}: `domain_ids` must be 0 to {len(last) - 1}, each once")
    epochs = _mapping(value, "epoch", "epochs", path)
    of_all = {"domain_ids": ids, **weights}  # the others may lack domains
    for key, values in {**of_all, "size": size, "epoch": epochs}.items():
        if set(values) - set(last) or (key in of_all and len(values) < len(last)):
            raise DataError(f"{path}: `{key}` names other domains than `domain_weights`")
    for name, expected in (_epochs(last, size) if set(size) == set(last) else {}).items():
        epoch = epochs.get(name, expected)
        if type(epoch) not in (int, float) or not math.isclose(
            epoch, expected, rel_tol=1e-3, abs_tol=1e-6
        ):
            raise DataError(
                f"{path}: `epoch.{name}` is {epoch!r}, but its weight and the sizes give "
                f"{expected:.6g}"[:300]
            )


def _simplex(value: Mapping[str, Any], key: str, path: Path) -> dict[str, float]:
    weights = value[key]
    if not isinstance(weights, dict) or not weights:
        raise DataError(f"{path}: `{key}` must map domain to weight, is {weights!r}"[:200])
    for name, weight in weights.items():
        if type(weight) not in (int, float) or not 0 <= weight <= sys.float_info.max:
            raise DataError(
                f"{path}: `{key}.{name}` must be a weight of 0 or more, is {weight!r}"[:300]
            )
    total = math.fsum(weights.values())
    if abs(total - 1) > 1e-4:
        raise DataError(f"{path}: `{key}` must sum to 1, sums to {total:.6g}")
    return {name: float(weight) for name, weight in weights.items()}
