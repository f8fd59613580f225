"""Stage `validate`: every row of every domain, read and checked, and a view of the data."""

from collections.abc import Sequence
from pathlib import Path

from tdro_lightning.config.schema import Config, ValidateConfig
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.console.output import tell
from tdro_lightning.data.domain_files import chosen_domains, domain_file
from tdro_lightning.data.validation import Findings, Validation, kinds_of
from tdro_lightning.errors import DataError
from tdro_lightning.files import write_json, write_text
from tdro_lightning.report.data_view import view_tables, view_warnings
from tdro_lightning.report.tables import (
    Column,
    Table,
    cells,
    markdown_table,
    markdown_text,
    plain_text,
    terminal_table,
)
from tdro_lightning.runs.inputs import domain_paths, domains_root

SHOWN = 10  # faults in the message; the file has all


def _run(config: Config) -> None:
    """Write `validation.json`, `.md`, `data_view.json`, and `quarantine.jsonl` of faulty rows.

    Raises:
        DataError: training would refuse these files; the message names the first faults.
    """
    from tdro_lightning.assembly.domains import QUARANTINE, write_quarantine
    from tdro_lightning.assembly.view import view_domains

    output = Path(config.run_dir)
    validation = Validation(config.data.negatives)
    findings = {}
    for name in chosen_domains(config.domains.catalogue, config.domains.only):
        file = config.domains.catalogue[name].file
        try:
            path, place = domain_file(file, domains_root(config), config.domains.hub)
            found = validation.domain(path, place)
        except DataError as error:  # there is no such file
            found = Findings(file, unusable=str(error))
        findings[name] = found
        tell(f"  {name}: {found.unusable or f'{found.lines} rows, {len(found.faults)} faulty'}")
    write_json(output / "validation.json", {n: f.summary() for n, f in findings.items()})
    table = validation_table(findings, config.data.negatives)
    faulty = [
        {"domain": name, "place": found.place, "line": f.line, "kind": f.kind, "fault": str(f)}
        for name, found in findings.items()
        for f in found.faults
    ]
    write_quarantine(output, faulty)
    tell(terminal_table(table))
    view = view_domains(config, config.validate or ValidateConfig(), findings)
    write_json(output / "data_view.json", view)
    tables, warnings = view_tables(view, str(output)), view_warnings(view)
    write_text(output / "validation.md", _page([table, *tables], warnings))
    shown = [terminal_table(one) for one in tables[:2]]
    tell("\n\n".join([*shown, *map(plain_text, warnings)]))
    tell(f"Report, with the worst rows of each domain: {output / 'validation.md'}")
    _refuse(config, findings, output / QUARANTINE)


def _page(tables: Sequence[Table], warnings: Sequence[str]) -> str:
    """Validation first, then what the view warns of, then its tables."""
    validation, *view = (
        f"{markdown_text(one.title)}\n\n{markdown_text(one.caption)}\n\n{markdown_table(one)}\n"
        for one in tables
    )
    notes = [f"> {markdown_text(text)}\n" for text in warnings]
    return "\n".join([f"# {validation}", *notes, *(f"## {text}" for text in view)])


def _refuse(config: Config, findings: dict[str, Findings], listed: Path) -> None:
    most = config.data.max_bad_rows if config.data.on_bad_row == "skip" else 0
    wrong = []
    for name, found in findings.items():
        if found.unusable is not None:
            wrong.append(f"domain {name}: {found.unusable}")
        elif len(found.faults) > most or not found.usable:
            wrong += [str(fault) for fault in found.faults]
    if not wrong:
        return
    shown = wrong[:SHOWN]
    if len(wrong) > SHOWN:
        shown.append(f"and {len(wrong) - SHOWN} more, listed in {listed}")
    hint = "fix them, or leave rows out with data.on_bad_row=skip (up to data.max_bad_rows each)"
    raise DataError("\n".join([f"{len(wrong)} faults in the training data; {hint}", *shown]))


def validation_table(findings: dict[str, Findings], negatives: int) -> Table:
    """A row a domain: what can be used of it, and what is wrong with the rest."""
    kinds = kinds_of(findings.values())
    rows = tuple(
        cells(
            [
                name,
                str(found.lines),
                "none" if found.unusable else str(found.usable),
                *(str(found.kinds[kind]) for kind in kinds),
                str(found.few_negatives),
                str(found.false_negatives),
                str(found.twins),
                str(found.elsewhere),
                ", ".join(sorted(found.unread)),
            ]
        )
        for name, found in findings.items()
    )
    columns = (
        Column("domain", numeric=False),
        Column("rows"),
        Column("usable"),
        *(Column("faulty", kind) for kind in kinds),
        Column("negatives", f"fewer than {negatives}"),
        Column("negatives", "equal a positive"),
        Column("twice", "in the domain"),
        Column("twice", "in an earlier one"),
        Column("keys not read", numeric=False),
    )
    caption = (
        "A faulty row ends training, or is skipped with data.on_bad_row=skip. The other columns "
        "count usable rows and end nothing: negatives are repeated where there are too few and "
        "left out where they equal a positive of their row; duplicates have the query and "
        "positives of an earlier row but for case, width and spaces."
    )
    return Table("Validation", caption, columns, rows)


def _inputs(config: Config) -> dict[str, Input]:
    rows: dict[str, Input] = {
        label: path for label, path in domain_paths(config).items() if Path(path).is_file()
    }
    for encoder in _models(config):
        rows["encoder"] = encoder
    return rows


def _models(config: Config) -> list[str]:
    encoder = config.validate and config.validate.encoder
    return [encoder] if encoder else []


def _settings(config: Config) -> tuple[str, ...]:
    own = ("domains", "data", "validate")
    return (*own, "model") if _models(config) else own


STAGE = Stage(
    name="validate",
    run=_run,
    settings=_settings,
    inputs=_inputs,
    outputs=("validation.json", "validation.md", "data_view.json", "quarantine.jsonl"),
    models=_models,
)
