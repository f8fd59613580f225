from tdro_lightning.report.preparation import mining_table
from tdro_lightning.report.tables import markdown_table

CONTENT = {
    "domains": {
        "fruit": {"rows": 1200, "pool": 3000, "searched": 8000, "random": 0, "skipped_margin": 4},
        "birds": {"rows": 3, "pool": 30, "searched": 0, "random": 0, "short": 1},
    }
}


def test_columns_of_zeros_are_left_out() -> None:
    lines = markdown_table(mining_table(CONTENT)).splitlines()
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines] == [
        ["domain", "rows", "pool (passages)", "negatives (found)", "skipped (margin)"]
        + ["rows (with fewer)"],
        ["---"] + ["---:"] * 5,
        ["fruit", "1,200", "3,000", "8,000", "4", "0"],
        ["birds", "3", "30", "0", "0", "1"],
    ]
