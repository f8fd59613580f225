"""Templates of the report's pages and of model cards."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tdro_lightning.report.tables import markdown_table, markdown_text


def environment(folder: Path) -> Environment:
    """The templates of a folder: HTML is escaped, and a value that is not given is an error."""
    made = Environment(
        loader=FileSystemLoader(folder),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["markdown"] = markdown_text
    made.filters["markdown_table"] = markdown_table
    return made
