"""The data view of a validation as tables and sentences: what the domains' texts are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdro_lightning.errors import DataError
from tdro_lightning.report.tables import NOTHING, Column, Table, cells

VERDICTS = {"mismatched": "look at it", "unclear": "cannot tell", "no sign": "no sign"}


def view_tables(content: Mapping[str, Any], place: str) -> tuple[Table, ...]:
    """What the texts are, whether pairs belong together, and the worst rows of each domain.

    Args:
        content: of `data_view.json`.
        place: its path, for messages.

    Raises:
        DataError: the file lacks a field or holds a wrong value.
    """
    try:
        domains = _seen(content)
        worst = [_worst_table(name, one["worst"]) for name, one in domains.items()]
        return (_text_table(content), _pair_table(content), *worst) if domains else ()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{place}: not a data view of this version ({error!r}); run stage=validate again"
        ) from None


def view_warnings(content: Mapping[str, Any]) -> list[str]:
    """A line for each domain whose positives seem wrong, cannot be judged, or cannot be read."""
    scorer, lines = content["scorer"], []
    for name, one in content["domains"].items():
        if "unreadable" in one:
            lines.append(f"Domain {name} is not in the data view: {one['unreadable']}.")
        elif one["mismatch"]["verdict"] == "mismatched":
            lines.append(
                f"Domain {name}: about {_percent(one['mismatch']['share'])} of the positives "
                f"looked at are no closer to their query than other rows' positives are, by "
                f"{scorer}. They may belong to other queries, and then a high headroom is no "
                "reason for more weight. Look at its worst rows; compare with another encoder "
                f"(validate.encoder=FOLDER); or leave the domain out: transfer.drop=[{name}]."
            )
    if unclear := _unclear(content):
        another = "an" if scorer == "BM25" else "another"
        lines.append(
            f"{scorer} cannot tell here whether positives belong to their queries: "
            f"{', '.join(unclear)}. There are too few rows, or too little in common between "
            f"queries and passages. Give {another} encoder that reads their languages "
            "(validate.encoder=FOLDER or a hub name)."
        )
    return lines


def read_view(content: Any, place: Path) -> Mapping[str, Any]:
    """The content of a `data_view.json`, checked by making its tables.

    Raises:
        DataError: as in `view_tables`.
    """
    if not isinstance(content, dict) or not isinstance(content.get("domains"), dict):
        raise DataError(f"{place}: not a data view; run stage=validate again")
    view_tables(content, str(place))
    return content


def _unclear(content: Mapping[str, Any]) -> list[str]:
    return [n for n, one in _seen(content).items() if one["mismatch"]["verdict"] == "unclear"]


def _seen(content: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {name: one for name, one in content["domains"].items() if "unreadable" not in one}


def _text_table(content: Mapping[str, Any]) -> Table:
    rows = []
    for name, one in _seen(content).items():
        batch, copies = one["batch"], one["near_copies"]
        rows.append(
            cells(
                [
                    name,
                    f"{one['rows']:,}",
                    f"{one['looked_at']:,}",
                    *(_length(one["characters"][part]) for part in ("query", "positive")),
                    _length(one["characters"]["negative"]),
                    *(_scripts(one["scripts"][part]) for part in ("query", "passage")),
                    *(f"{one['duplicates'][kind]:,}" for kind in ("exact", "normalised")),
                    *(f"{one['repeated'][part]:,}" for part in ("query", "positive")),
                    *(f"{copies[part]:,}" for part in ("query", "positive")),
                    _ratio(batch["repeated"], batch["passages"]),
                ]
            )
        )
    columns = (
        Column("domain", numeric=False),
        Column("rows"),
        Column("rows", "looked at"),
        *(Column("characters", part) for part in ("query", "positive", "negative")),
        *(Column("scripts", part, numeric=False) for part in ("query", "passage")),
        *(Column("duplicate rows", kind) for kind in ("exact", "normalised")),
        *(Column("repeated", part) for part in ("query", "positive")),
        *(Column("near-copies", part) for part in ("query", "positive")),
        Column("repeated", "in a batch"),
    )
    caption = (
        "Characters: median, and 95 % are no longer than the second number. Scripts: of the "
        "letters; they do not tell languages of one script apart. Duplicate rows are counted in "
        f"the whole file, in the batch {content['negatives']} negatives for each of up to "
        f"{content['batch_size']:,} rows of the domain, and all else in the rows looked at, "
        f"{content['rows']:,} drawn at random of a larger domain."
    )
    return Table("Texts of the domains", caption, columns, tuple(rows))


def _pair_table(content: Mapping[str, Any]) -> Table:
    rows = []
    for name, one in _seen(content).items():
        found, below = one["mismatch"], one["below_a_negative"]
        rows.append(
            cells(
                [
                    name,
                    f"{found['positives']:,}",
                    _ratio(below["below"], below["positives"]),
                    _ratio(found["judged"], found["positives"]),
                    NOTHING if found["share"] is None else _percent(found["share"]),
                    VERDICTS[found["verdict"]],
                ]
            )
        )
    columns = (
        Column("domain", numeric=False),
        Column("positives"),
        Column("below", "a negative"),
        Column("judged"),
        Column("mismatched", "about"),
        Column("finding", numeric=False),
    )
    caption = (
        f"By {content['scorer']}. Below a negative: positives that score below a negative of their "
        "row; hard negatives are mined to do that, so it may be high in a clean domain. "
        "Mismatched: an estimate of the positives that are no closer to their query than the "
        "positives of other rows, as positives of other queries would be."
    )
    return Table("Queries and positives", caption, columns, tuple(rows))


def _worst_table(name: str, worst: list[Mapping[str, Any]]) -> Table:
    texts = ("query", "positive", "negative")
    rows = (
        cells([f"{row['line']}", _percent(row["rank"]), *(row[t] or NOTHING for t in texts)])
        for row in worst
    )
    columns = (
        Column("line"),
        Column("above", "of others"),
        *(Column(title, numeric=False) for title in ("query", "positive", "best negative")),
    )
    caption = (
        "The rows whose positive other rows' positives beat by most, with the part of these that "
        "the positive scores above, and the row's negative of the highest score."
    )
    return Table(f"Worst rows of {name}", caption, columns, tuple(rows))


def _length(found: Mapping[str, int]) -> str:
    return f"{found['median']:,}, {found['p95']:,}" if found else NOTHING


def _scripts(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_percent(share)}" for name, share in found.items()) or NOTHING


def _ratio(part: int, whole: int) -> str:
    return _percent(part / whole) if whole else NOTHING


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
