"""What one key of the configuration may hold: bounds and choices, declared beside type and default.

A section is a dataclass whose numbers and names are fields made by `key`. Rules between several
keys are its method `rules(place)`, which returns a line for each that is broken.
"""

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from tdro_lightning.errors import ConfigError, did_you_mean

MOST_TOKENS = 2**20  # of one text: the longest context of any published model
MOST_COUNT = 10**9  # of steps, rows or tokens
GREATEST_SEED = 2**32 - 1  # NumPy's generators take no greater one


@dataclass(frozen=True)
class Limits:
    """Bounds of a number, or the choices of a name; a list or table has those of its elements."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()
    reason: str = ""

    def fault(self, value: Any) -> str | None:
        """What a value must be instead; None where it is within the limits."""
        if self.choices:
            return None if value in self.choices else self._nearest(str(value))
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        within = (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )
        if within and (isinstance(value, int) or math.isfinite(value)):
            return None
        return f"{self._range()} ({self.reason})" if self.reason else self._range()

    def _range(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"from {_number(self.at_least)} to {_number(self.at_most)}"
        words = {"above": self.above, "at least": self.at_least}
        words |= {"below": self.below, "at most": self.at_most}
        texts = [f"{word} {_number(v)}" for word, v in words.items() if v is not None]
        return " and ".join(texts) or "a finite number"

    def _nearest(self, value: str) -> str:
        hint = did_you_mean(value, self.choices, cutoff=0.5)
        return f"one of {', '.join(self.choices)}{hint}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def key(default: Any = MISSING, **limits: Any) -> Any:
    """A field of a section with its `Limits`, whose parameters these are."""
    return field(default=default, metadata={"limits": Limits(**limits)})


def table_names(module: str, table: str) -> tuple[str, ...]:
    """Keys of a table that a module of this package writes down.

    The module is read and not imported: it needs torch, whose import takes seconds, and a misspelt
    name is to be refused at once.

    Args:
        module: path of the module in the package.
        table: name of the dictionary.
    """
    source = (Path(__file__).parents[1] / module).read_text(encoding="utf-8")
    names = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Name) and target.id == table and isinstance(node.value, ast.Dict):
            names += [ast.literal_eval(name) for name in node.value.keys if name is not None]
        elif isinstance(target, ast.Subscript) and ast.unparse(target.value) == table:
            names.append(ast.literal_eval(target.slice))
    return tuple(names)


def find_faults(section: Any, place: str = "") -> list[str]:
    """What is wrong with the values of a section and of all sections in it, a line each.

    A section's rules are checked once its values are within their limits.

    Args:
        section: a dataclass.
        place: its full key and a dot; empty for the whole configuration.

    Raises:
        ConfigError: a table or list where one value must be, which no rule could read.
    """
    hints = get_type_hints(type(section))
    wrong: list[str] = []
    for item in fields(section):
        limits = item.metadata.get("limits", Limits())
        value = getattr(section, item.name)
        wrong += _value_faults(f"{place}{item.name}", value, hints[item.name], limits)
    if not wrong and hasattr(section, "rules"):
        wrong += section.rules(place)
    return wrong


def _value_faults(name: str, value: Any, hint: Any, limits: Limits) -> Iterator[str]:
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    optional = NoneType in get_args(hint)
    kind = kinds[0] if optional else hint
    if is_dataclass(value):
        yield from find_faults(value, f"{name}.")
    elif isinstance(value, dict) and (kind is Any or get_origin(kind) is dict):
        inner = Any if kind is Any else get_args(kind)[1]
        for label, element in value.items():
            yield from _value_faults(f"{name}.{label}", element, inner, limits)
    elif isinstance(value, list) and (kind is Any or get_origin(kind) is list):
        inner = Any if kind is Any else get_args(kind)[0]
        for i, element in enumerate(value):
            yield from _value_faults(f"{name}[{i}]", element, inner, limits)
    elif isinstance(value, dict):
        raise ConfigError(split_label(name, value))
    elif isinstance(value, list):
        raise ConfigError(f"{name}={value!r} must be a single value")
    elif value is not None and (fault := limits.fault(value)):
        yield f"{name}={value!r} must be {fault}{', or null' if optional else ''}"


def split_label(name: str, value: dict[Any, Any]) -> str:
    """The message for a section where a value must be, most often since a label has a dot."""
    section, _, label = name.rpartition(".")
    while isinstance(value, dict) and value:
        part, value = next(iter(value.items()))
        label += f".{part}"
    return (
        f"{name} must be a single value; a dot in a label splits the key, so write "
        f"'+{section}={{{label}: {value}}}'"
    )
