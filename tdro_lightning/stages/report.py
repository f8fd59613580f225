"""Stage `report`: one page from run folders."""

from pathlib import Path

from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Input, Stage
from tdro_lightning.console.output import tell


def _run(config: Config) -> None:
    """Write the report's files, and print the tables of results and gains."""
    from tdro_lightning.report.page import write_report

    assert config.report is not None
    output = Path(config.run_dir)
    folders = [Path(run) for run in config.report.runs]
    tell(write_report(folders, output, config.report.title, config.report.baseline))
    tell(
        f"Report: {output / 'report.html'} and {output / 'report.md'}; in LaTeX: "
        f"{output / 'tables.tex'}; all tests: {output / 'significance.json'}"
    )


def _inputs(config: Config) -> dict[str, Input]:
    assert config.report is not None
    runs = sorted(p for run in config.report.runs for p in Path(run).rglob("run.json"))
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
