"""Stage `report`: one page from run folders."""

from pathlib import Path

from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.console.output import tell
from tdro_lightning.stages import require


def _run(config: Config) -> None:
    """Write the report's files, and print the alarms and the tables of results and gains."""
    from tdro_lightning.report.page import write_report

    settings, output = require(config.report), Path(config.run_dir)
    folders = [Path(run) for run in settings.runs]
    tell(write_report(folders, output, settings.title, settings.baselines, settings.alarm))
    tell(
        f"Report: {output / 'report.html'} and {output / 'report.md'}; in LaTeX: "
        f"{output / 'tables.tex'}; all tests: {output / 'significance.json'}"
    )


def _inputs(config: Config) -> dict[str, Input]:
    folders = require(config.report).runs
    runs = sorted(path for folder in folders for path in Path(folder).rglob("run.json"))
    own = Path(config.run_dir).resolve()
    return {f"run {path.parent}": str(path) for path in runs if path.parent.resolve() != own}


STAGE = Stage(
    name="report",
    run=_run,
    section="report",
    inputs=_inputs,
    outputs=("report.html", "report.md", "tables.tex", "significance.json", "figures"),
    runs_every_time=True,
    replaces_own=True,
)
