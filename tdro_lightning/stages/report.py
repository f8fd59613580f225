"""Stage `report`: one page from run folders."""

from pathlib import Path

from tdro_lightning.config.schema import Config
from tdro_lightning.console.output import tell


def run(config: Config) -> None:
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
