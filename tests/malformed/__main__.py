from pathlib import Path

from tests.malformed import page

(Path(__file__).parents[2] / "docs" / "errors.md").write_text(page(), encoding="utf-8")
