"""What a domain's file holds, and all that is wrong with it, without training on it."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.data.characters import normalise
from tdro_lightning.data.example import passage_text
from tdro_lightning.data.jsonl import Line, examine_lines
from tdro_lightning.errors import DataError, RowError

HELD = ("faults", "readable")  # of the findings, what is not a count


@dataclass
class Findings:
    """Counts of a domain's rows.

    Args:
        place: the file, as messages call it.
        lines: lines that are not blank.
        faults: the rows that cannot be used, by line.
        few_negatives: usable rows that must repeat negatives.
        false_negatives: negatives that equal a positive of their row, which are left out.
        twins: usable rows whose query and positives stand in an earlier row.
        elsewhere: usable rows whose query and positives stand in an earlier domain.
        unread: keys that are not read, with the number of rows that have them.
        unusable: why the file as a whole cannot be used, None where it can.
        copies: usable rows whose query and positives stand in an earlier row, letter by letter.
        readable: lines of the rows that can be read, those without a negative too.
    """

    place: str
    lines: int = 0
    faults: list[RowError] = field(default_factory=list)
    few_negatives: int = 0
    false_negatives: int = 0
    twins: int = 0
    elsewhere: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    unusable: str | None = None
    copies: int = 0
    readable: "array[int]" = field(default_factory=partial(array, "q"))

    @property
    def usable(self) -> int:
        """Rows that can be used."""
        return self.lines - len(self.faults)

    def summary(self) -> dict[str, Any]:
        """The counts as JSON."""
        counted = {key: value for key, value in vars(self).items() if key not in HELD}
        return {**counted, "usable": self.usable, "faults": dict(self.kinds)}

    @property
    def kinds(self) -> Counter[str]:
        """Faulty rows of each kind."""
        return Counter(fault.kind for fault in self.faults)


class Validation:
    """Findings of one domain after the other; it remembers the rows of the earlier ones.

    Args:
        negatives: hard negatives that a row is asked for; 0 needs none.
    """

    def __init__(self, negatives: int) -> None:
        self.negatives = negatives
        self._earlier: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def domain(self, path: Path, place: str) -> Findings:
        """What the file of a domain holds; nothing it may hold ends this."""
        found = Findings(place)
        keys: dict[int, int] = {}  # of usable rows, by line
        faults: dict[int, RowError] = {}
        self._letters = array("q")  # hashes of the readable rows' texts as they are
        try:
            for line in examine_lines(path, place):
                self._take(line, found, keys, faults)
        except DataError as error:
            found.unusable = str(error)
        found.lines = len(keys) + len(faults)
        found.faults = [faults[number] for number in sorted(faults)]
        hashes = np.fromiter(keys.values(), dtype=np.int64, count=len(keys))
        found.twins = len(hashes) - len(np.unique(hashes))
        found.elsewhere = int(np.isin(hashes, self._earlier).sum())
        self._earlier = np.union1d(self._earlier, hashes)
        lines, letters = (np.array(a, dtype=np.int64) for a in (found.readable, self._letters))
        usable = np.isin(lines, np.fromiter(keys, dtype=np.int64, count=len(keys)))
        found.copies = int(usable.sum()) - len(np.unique(letters[usable]))
        twice = [fault.line for fault in found.faults if fault.kind == "id twice"]
        found.readable = array("q", lines[~np.isin(lines, twice)].tolist())
        return found

    def _take(
        self, line: Line, found: Findings, keys: dict[int, int], faults: dict[int, RowError]
    ) -> None:
        if line.row is None:
            assert line.fault is not None
            keys.pop(line.number, None)  # a twin's line came before, as a row's
            faults[line.number] = line.fault
            return
        found.unread.update(line.unread)
        found.false_negatives += line.false_negatives
        texts = [passage_text(p) for p in line.row["positive_passages"]]
        found.readable.append(line.number)
        self._letters.append(hash((line.row["query"], *texts)))
        available = len(line.row["negative_passages"])
        if self.negatives and not available:
            faults[line.number] = RowError(
                f"{found.place}:{line.number}: `negative_passages` is empty",
                "no negative",
                line.number,
            )
            return
        found.few_negatives += available < self.negatives
        positives = frozenset(map(normalise, texts))
        keys[line.number] = hash((normalise(line.row["query"]), positives))


def kinds_of(findings: Iterable[Findings]) -> list[str]:
    """All kinds of faults that occur, the most frequent first."""
    total: Counter[str] = sum((found.kinds for found in findings), Counter())
    return sorted(total, key=lambda kind: (-total[kind], kind))
