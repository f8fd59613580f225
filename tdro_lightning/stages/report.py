"""Stage `report`: one page from run folders."""

from pathlib import Path

from tdro_lightning.schema import Config


def run(config: Config) -> None:
    """Write `report.md` and `report.html`, and print the table of results."""
    from tdro_lightning.report.page import write_report

    assert config.report is not None
    output = Path(config.run_dir)
    print(write_report([Path(run) for run in config.report.runs], output, config.report.title))
    print(f"Report: {output / 'report.html'} and {output / 'report.md'}", flush=True)
