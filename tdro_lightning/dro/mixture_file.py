"""`mixture.yaml`: how much of each domain, for this trainer and for others."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tdro_lightning.errors import DataError
from tdro_lightning.files import explain_read_errors, write_text

LARGEST = 10_000_000  # bytes; a thousand domains take a hundredth of it
FORMAT = 1
HEAD = """\
# How much of each domain a retriever is trained on; docs/mixtures.md says who reads it.
# probability: chance that a batch is drawn from the domain; rows: that are used, of so many in its
# file; epochs: how often the training of `steps` batches goes through these rows.
"""


@dataclass(frozen=True)
class MixtureShare:
    """What a training takes from one domain.

    Attributes:
        probability: chance that a batch is drawn from it; 0 where it is left out.
        rows: that are used; those of the whole file unless a budget allows fewer.
        of: rows of the file.
        loss_scale: factor on the loss of its batches.
    """

    probability: float
    rows: int
    of: int
    loss_scale: float = 1.0


@dataclass(frozen=True)
class MixtureFile:
    """Content of a `mixture.yaml`.

    Attributes:
        rule: what made it, in words.
        seed: of the draws.
        batch_size: rows of a batch, over all processes.
        steps: batches of the training.
        shares: what is taken from each domain; those left out come last in the file.
        changes: what bounds and budget have changed, a sentence each.
        lineage: settings, weights and data behind it.
    """

    rule: str
    seed: int
    batch_size: int
    steps: int
    shares: Mapping[str, MixtureShare]
    changes: list[str] = field(default_factory=list)
    lineage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def probability(self) -> dict[str, float]:
        """Chance of each domain."""
        return {name: share.probability for name, share in self.shares.items()}

    def epochs(self, name: str) -> float:
        """How often the training goes through the used rows of a domain."""
        share = self.shares[name]
        return share.probability * self.batch_size * self.steps / share.rows


def write_mixture(path: Path, content: MixtureFile) -> None:
    """Write a `mixture.yaml`, whole or not at all."""
    domains = {}
    for name, share in content.shares.items():
        if share.probability == 0:
            continue
        domains[name] = {
            "probability": share.probability,
            "rows": share.rows,
            "of": share.of,
            "epochs": round(content.epochs(name), 4),
        }
        if share.loss_scale != 1:
            domains[name]["loss_scale"] = share.loss_scale
    value = {
        "format": FORMAT,
        "rule": content.rule,
        "seed": content.seed,
        "batch_size": content.batch_size,
        "steps": content.steps,
        "domains": domains,
        "dropped": {n: share.of for n, share in content.shares.items() if not share.probability},
        "changes": content.changes,
        "lineage": dict(content.lineage),
    }
    write_text(path, HEAD + yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100))


def read_mixture(path: Path) -> MixtureFile:
    """Read a `mixture.yaml`.

    Raises:
        DataError: it is none, or one of another version; probabilities that are none or whose sum
            is not 1; numbers of rows or steps that are none.
    """
    value = read_yaml(path)
    if not isinstance(value.get("domains"), dict) or not value["domains"]:
        raise DataError(f"{path}: is no mixture; it has no key `domains`")
    if value.get("format") != FORMAT:
        number = str(value.get("format"))[:20]
        raise DataError(f"{path}: has format {number}; this version reads format {FORMAT}")
    shares = {}
    for name, entry in value["domains"].items():
        place = f"{path}: `domains.{name}"
        if not isinstance(name, str) or not isinstance(entry, dict):
            raise DataError(f"{place}` must map a name, quoted if need be, to its numbers")
        of = _count(entry.get("of"), f"{place}.of`")
        rows = _count(entry.get("rows"), f"{place}.rows`")
        if rows > of:
            raise DataError(f"{place}.rows` is {rows}, more than the {of} that its file has")
        shares[name] = MixtureShare(
            require_weight(entry.get("probability"), f"{place}.probability`"),
            rows,
            of,
            require_weight(entry.get("loss_scale", 1.0), f"{place}.loss_scale`"),
        )
    dropped = _mapping(value, "dropped", path)
    for name, of in dropped.items():
        rows = _count(of, f"{path}: `dropped.{name}`")
        shares[name] = MixtureShare(0.0, rows, rows)
    total = math.fsum(share.probability for share in shares.values())
    if abs(total - 1) > 1e-4:
        raise DataError(f"{path}: the probabilities must sum to 1, they sum to {total:.6g}")
    changes = value.get("changes", [])
    if not isinstance(changes, list):
        raise DataError(f"{path}: `changes` must be a list of sentences")
    return MixtureFile(
        str(value.get("rule", "")),
        _count(value.get("seed"), f"{path}: `seed`", least=0),
        _count(value.get("batch_size"), f"{path}: `batch_size`"),
        _count(value.get("steps"), f"{path}: `steps`"),
        shares,
        [str(change) for change in changes],
        _mapping(value, "lineage", path),
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, of plain values only.

    Raises:
        DataError: the file is missing, cannot be read, is too large or is not such YAML.
    """
    with explain_read_errors(path, "a YAML file"):
        size = path.stat().st_size
        if size > LARGEST:
            raise DataError(f"{path}: has {size} bytes; such a file has {LARGEST} at most")
        content = path.read_bytes()
    try:
        value = yaml.safe_load(content.decode())
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: not valid YAML ({reason})") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: must hold a mapping, holds {type(value).__name__}")
    return value


def require_weight(value: Any, place: str) -> float:
    """A number of 0 or more that is finite.

    Raises:
        DataError: it is none; names the place.
    """
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        hint = "; YAML reads 1e-3 as text, write 0.001" if isinstance(value, str) else ""
        raise DataError(f"{place} must be a number of 0 or more, is {value!r}"[:300] + hint)
    return float(value)


def _count(value: Any, place: str, least: int = 1) -> int:
    if type(value) is not int or value < least:
        raise DataError(f"{place} must be a whole number from {least}, is {value!r}"[:300])
    return value


def _mapping(value: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    found = value.get(key) or {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise DataError(f"{path}: `{key}` must be a mapping of names")
    return found
