"""Templates of the report's pages and of model cards."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tdro_lightning.report.tables import markdown_table, markdown_text, visible


def environment(folder: Path) -> Environment:
    """The templates of a folder: HTML is escaped, and a value that is not given is an error.

    No text gets into a page with a control character in it.
    """
    made = Environment(
        loader=FileSystemLoader(folder),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["markdown"] = markdown_text
    made.filters["markdown_table"] = markdown_table
    return made


def _shown(value: Any) -> Any:
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
