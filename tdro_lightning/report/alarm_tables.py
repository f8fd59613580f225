"""The alarms of a report: a headline, a table for the page, and lines for the terminal."""

from collections.abc import Sequence

from tdro_lightning.report.alarms import DOMAINS, LOSS, ROUNDING, SETS, Change, Changes
from tdro_lightning.report.gains import few_seeds_warning
from tdro_lightning.report.results import TITLES
from tdro_lightning.report.svg import shorten
from tdro_lightning.report.tables import Cell, Column, Table, cells, format_difference, plain_text

WORST = 3  # names in a row
ROWS = 10  # of a table
LONGEST = 30  # characters of a name in a row


def alarm_headline(changes: Sequence[Changes], alarm: float) -> str:
    """One line: whose sets or domains fall, and whose do so behind a rising mean.

    Empty where nothing was compared.
    """
    if not changes:
        return ""
    amount = _points(alarm)
    fallen = _in_order(changes, alarm)
    if not fallen:
        kinds = {own.kind for own in changes}
        what = " and no ".join(
            text
            for kind, text in ((SETS, "evaluation set"), (DOMAINS, "training domain"))
            if kind in kinds
        )
        return f"No alarm: no {what} falls by more than {amount} below a baseline."
    names = [own.comparison.result.name for own in fallen]
    hidden = [own.comparison.result.name for own in fallen if _mean_rises(own)]
    behind = f" The mean hides it, since it rises, for {_listed(hidden)}." if hidden else ""
    return f"Alarm: falls of more than {amount} below a baseline by {_listed(names)}.{behind}"


def alarm_table(changes: Sequence[Changes], alarm: float) -> Table | None:
    """A row for each retriever and baseline with a fall; None without any.

    Those behind a rising mean come first, then those with the worst fall.
    """
    fallen = _in_order(changes, alarm)
    if not fallen:
        return None
    losses = (
        " Of a loss, a point is a rise by 0.01." if any(o.metric == LOSS for o in changes) else ""
    )
    rest = f" {_rest(fallen)}." if len(fallen) > ROWS else ""
    return Table(
        f"Alarms: falls of more than {_points(alarm)}",
        "Where a retriever is worse than a baseline by more than report.alarm, in points (scores "
        "× 100), seeds averaged; those whose mean rises all the same come first. Evaluation sets "
        "are compared by their main metric, parts of a group (`group/part`) apart; training "
        "domains by the validation of the trainings at the step that each has kept, without a "
        "test. † is significantly below the baseline, p adjusted over the sets of the row."
        f"{losses}{rest} "
        f"{few_seeds_warning([own.comparison for own in fallen])}".strip(),
        (
            Column("Retriever", numeric=False),
            Column("Against", numeric=False),
            Column("Of", numeric=False),
            Column("Mean"),
            Column("Rose", "> 0"),
            Column("Fell", f"> {alarm:g}"),
            Column("Worst", numeric=False),
        ),
        tuple(_row(own, alarm) for own in fallen[:ROWS]),
    )


def alarm_lines(changes: Sequence[Changes], alarm: float) -> str:
    """The same for a terminal: the headline, and two lines for each row of the table."""
    if not changes:
        return ""
    fallen = _in_order(changes, alarm)
    headline = plain_text(alarm_headline(changes, alarm))
    lines = [line for own in fallen[:ROWS] for line in _two_lines(own, alarm)]
    rest = [f"  {_rest(fallen)}."] if len(fallen) > ROWS else []
    return "\n".join([headline, *lines, *rest])


def _two_lines(own: Changes, alarm: float) -> tuple[str, str]:
    names = f"{own.comparison.result.name} against {own.comparison.baseline.name}"
    counts = f"{own.rose} rose, {len(own.fell(alarm))} fell"
    first = f"{names}: mean {format_difference(own.mean)}; of {_of(own)}: {counts}"
    return f"  {plain_text(first)}", f"    {plain_text(_worst(own, alarm))}"


def _in_order(changes: Sequence[Changes], alarm: float) -> list[Changes]:
    """Those with a fall: behind a rising mean first, and the worst fall first."""
    fallen = [own for own in changes if own.fell(alarm)]
    return sorted(fallen, key=lambda o: (not _mean_rises(o), o.fell(alarm)[0].difference))


def _mean_rises(own: Changes) -> bool:
    return own.mean > ROUNDING


def _row(own: Changes, alarm: float) -> tuple[Cell, ...]:
    return cells(
        [
            own.comparison.result.name,
            own.comparison.baseline.name,
            _of(own),
            format_difference(own.mean),
            str(own.rose),
            str(len(own.fell(alarm))),
            _worst(own, alarm),
        ]
    )


def _of(own: Changes) -> str:
    """`7 sets, nDCG@10`."""
    count = len(own.entries)
    kind = own.kind if count != 1 else own.kind.removesuffix("s")
    return f"{count} {kind}, {TITLES.get(own.metric, own.metric)}"


def _worst(own: Changes, alarm: float) -> str:
    """The worst falls by name, and the number of the others."""
    fell = own.fell(alarm)
    return _and_more([_fall(entry) for entry in fell], WORST)


def _fall(entry: Change) -> str:
    return f"{shorten(entry.name, LONGEST)} {format_difference(entry.difference)}{entry.mark}"


def _rest(fallen: Sequence[Changes]) -> str:
    return f"And {len(fallen) - ROWS} more, which significance.json lists"


def _listed(names: Sequence[str]) -> str:
    return _and_more([shorten(name, LONGEST) for name in dict.fromkeys(names)], WORST)


def _and_more(texts: Sequence[str], most: int) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def _points(alarm: float) -> str:
    return f"{alarm:g} point{'' if alarm == 1 else 's'}"
