"""The shipped numbers against the paper: rows copied here by hand, and sums that must agree."""

from statistics import fmean

import pytest

from tdro_lightning.report.paper_tables import full_rows, read_paper_tables, set_names, summary_rows

TABLES = read_paper_tables()["tables"]
FULL = {"9": 18, "10": 25, "11": 15}
# Printed cells, from the first set to average and gain.
QWEN05B_MIRACL = (
    "57.8 45.0 41.1 41.1 43.6 32.1 56.2 38.6 29.4 41.4 47.1 51.9 44.4 42.9 60.0 57.3 47.7 46.7 "
    "45.8 –"
)
LLAMA_MKQA = (
    "74.2 78.5 78.4 78.4 76.6 78.9 74.5 76.8 78.5 78.0 59.2 74.4 78.5 79.5 77.7 77.9 78.4 78.6 "
    "78.6 78.8 77.1 77.8 77.7 76.6 77.2 76.8* +1.0"
)
MISTRAL_BEIR = (
    "53.3 50.3 25.5 44.4 81.9 59.7 79.1 39.7 41.9 63.4 87.0 21.4 77.1 79.4 23.9 55.2 +0.0"
)


def shown(rows: list) -> list[str]:
    return [" ".join(cell.text + cell.mark for cell in row) for row in rows]


def test_rows_as_printed() -> None:
    assert f"Qwen-0.5B {QWEN05B_MIRACL}" in shown(full_rows("9"))
    assert f"Llama3-8B {LLAMA_MKQA}" in shown(full_rows("10"))
    assert f"Mistral-7B {MISTRAL_BEIR}" in shown(full_rows("11"))
    columns = [(column["title"], column["metric"]) for column in TABLES["3"]["columns"]]
    three = shown(summary_rows("3", columns))
    assert "Qwen-7B 61.6* (+2.0) 91.4* (+0.8) 59.9* (+1.2) 73.8 (+0.2) 53.3* (+1.0)" in three
    assert three[0].startswith("Published (arXiv 2408.10613, Table 3): Uniform")
    assert three[-1] == "Average gain +2.4 +1.2 +3.2 +1.3 +0.4"
    five = shown(summary_rows("5", [("BeIR", "ndcg@10"), ("8 sets", "ndcg@10")]))
    assert "w/ Bottom-50% 45.2 (-2.3) –" in five
    assert "Proxy loss minus reference loss 47.5 (-0.0) –" in five


def rows(number: str) -> list[tuple[str, dict]]:
    return [(s["heading"], row) for s in TABLES[number]["sections"] for row in s["rows"]]


@pytest.mark.parametrize("number", FULL)
def test_averages_and_gains_follow_from_the_sets(number: str) -> None:
    found = rows(number)
    assert len(found) == 4 + 3 * 6
    uniform = {row["name"]: row["average"] for heading, row in found if "Uniform" in heading}
    for _, row in found:
        assert len(row["scores"]) == len(TABLES[number]["columns"]) == FULL[number]
        assert fmean(row["scores"]) == pytest.approx(row["average"], abs=0.0501)
        if "gain" in row:
            assert row["average"] - uniform[row["name"]] == pytest.approx(row["gain"], abs=0.1001)


def test_table_3_repeats_the_averages() -> None:
    for place, number in ((0, "9"), (3, "10"), (4, "11")):
        full = {(heading, row["name"]): row for heading, row in rows(number)}
        for heading, row in rows("3"):
            other = full[heading, row["name"]]
            assert row["scores"][place] == other["average"]
            if "gains" in row:
                assert row["gains"][place] == other["gain"]
                assert row["significant"][place] == other["significant"]


def test_the_one_misprint_is_kept_and_said() -> None:
    (_, baseline), *others = rows("5")
    wrong = [
        (row["name"], score, gain)
        for _, row in others
        for score, theirs, gain in zip(row["scores"], baseline["scores"], row["gains"], strict=True)
        if abs(score - theirs - gain) > 0.1001
    ]
    assert wrong == [("Proxy loss minus reference loss", 60.1, 1.2)]
    assert "1.2 below" in read_paper_tables()["note"]


def test_columns_find_their_sets() -> None:
    known = ["scifact", "cqadupstack/tex", "cqadupstack/gis", "miracl-ar", "de"]
    assert set_names(TABLES["11"], known) == {
        "CQADup": ("cqadupstack/tex", "cqadupstack/gis"),
        "SciFact": ("scifact",),
    }
    assert set_names(TABLES["9"], known) == {"ar": ("miracl-ar",), "de": ("de",)}
