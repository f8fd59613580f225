import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tdro_lightning.errors import DataError
from tdro_lightning.report.page import write_report
from tests.report.folders import metrics, weights, write_run

EVIL = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Tags, ids, addresses and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.values: dict[str, list[str]] = {}
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.values.setdefault(name, []).append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    write_run(root, EVIL, stage="chain", folder="demo", command=f"chain {EVIL}")
    last = {EVIL: 0.7, "nq": 0.3}
    history: dict[str, list[float]] = {"loss": [2.0, 1.5]}
    for domain, weight in last.items():
        history[f"weights/{domain}"] = [0.5, weight]
        for metric in ("measurement", "loss/proxy", "loss/reference"):
            history[f"{metric}/{domain}"] = [1.5, 1.0]
    used: dict[str, Any] = {"rows": 10, "drawn": 5, "epochs": 0.5, "probability": 0.5}
    usage = dict.fromkeys(last, used)
    write_run(
        root,
        "demo/tdro",
        history=history,
        files={"weights": weights(**last), "data_usage": usage},
        command=f"python -m tdro_lightning {EVIL}",
    )
    write_run(
        root, "demo/finetune", history={"loss": [3.0, 2.0]}, files={"data_usage": usage},
        config={"domains": {"root": EVIL}},
    )  # fmt: skip
    write_run(
        root, "demo/other", history={"loss": [3.0, 2.0]}, config={"domains": {"root": "plain"}}
    )
    scores = {
        EVIL: {"ndcg@10": 0.2, "recall@100": 0.4, "mrr@10": 0.3},
        "nfcorpus": {"ndcg@10": 0.3, "recall@100": 0.5, "mrr@10": 0.4},
    }
    file = metrics(**{"BM25": scores, "uniform": scores, "top_50": scores, EVIL: scores})
    write_run(root, "demo/evaluate", stage="evaluate", files={"metrics": file})
    return root


def test_sections_stand_in_order(runs: Path, tmp_path: Path) -> None:
    write_report([runs], tmp_path / "out", "A report")
    html = (tmp_path / "out" / "report.html").read_text()
    headings = [part.partition("</h2>")[0] for part in html.split("<h2>")[1:]]
    assert headings == [
        "Results",
        "Domain weights",
        "Measurement and losses of each domain",
        "Reference stability",
        "Training curves",
        "Data used",
        "Comparison of the runs",
        "Layouts of the paper",
        "Lineage",
    ]


def test_the_markdown_holds_the_same_as_the_page(runs: Path, tmp_path: Path) -> None:
    figures = tmp_path / "figures"
    figures.mkdir()
    (figures / "of-an-earlier-report.svg").write_text("<svg/>")
    write_report([runs], tmp_path, "A report")
    page, markdown = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
    headings = [part.partition("</h2>")[0] for part in page.split("<h2>")[1:]]
    assert headings == [line[3:] for line in markdown.splitlines() if line.startswith("## ")]
    # Gains, bars, trajectories, map, measurement, losses, training, data.
    linked = re.findall(r"!\[[^]]+\]\(([^)]+)\)", markdown)
    assert page.count("<svg") == len(linked) == len(set(linked)) == 8
    assert {f"figures/{path.name}" for path in figures.iterdir()} == set(linked)
    for name in linked:
        root = ElementTree.parse(tmp_path / name).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(root.attrib["width"]) > float(root.attrib["height"]) / 2 > 0
    assert page.count("<table") == len(re.findall(r"^\| ---", markdown, flags=re.MULTILINE))


def test_names_from_data_never_become_markup(runs: Path, tmp_path: Path) -> None:
    text = write_report([runs], tmp_path, EVIL)
    page = Page((tmp_path / "report.html").read_text())
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 6
    assert f"chain {EVIL}" in page.text
    for figure in (tmp_path / "figures").iterdir():
        assert not any("script" in e.tag for e in ElementTree.parse(figure).iter())
    assert "<script" not in (tmp_path / "report.md").read_text()
    assert EVIL in text


def test_page_is_self_contained_and_ids_are_unique(runs: Path, tmp_path: Path) -> None:
    write_report([runs], tmp_path, "A report")
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    ids = page.values["id"]
    assert len(ids) == len(set(ids))
    addresses = page.values["href"] + page.values.get("xlink:href", [])
    assert {address.removeprefix("#") for address in addresses} <= set(ids)
    assert "src" not in page.values
    attributes = ("src", "srcset", "data", "action", "poster", "background", "ping", "onload")
    assert not set(attributes) & set(page.values)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    for unwanted in ("http:", "https:", "@import", "javascript"):
        assert unwanted not in html
    assert set(re.findall(r"url\(([^)]*)\)", html)) <= {f"#{name}" for name in ids}
    assert "prefers-color-scheme: dark" in html


def test_equal_runs_give_equal_bytes(runs: Path, tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_report([runs], tmp_path / name, "A report")
    for name in ("report.md", "report.html", "tables.tex", "significance.json"):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


def test_returned_text_is_the_results_table(runs: Path, tmp_path: Path) -> None:
    lines = write_report([runs], tmp_path, "A report").splitlines()
    assert lines[0] == "No alarm: no evaluation set falls by more than 1 point below a baseline."
    assert lines[2].startswith("nDCG@10 × 100")
    table = [line.split() for line in lines if line.startswith(("uniform", "top 50"))]
    assert table[:2] == [
        ["uniform", "25.0^", "–", "20.0^", "30.0^"],
        ["top", "50", "25.0^", "0.0", "20.0^", "30.0^"],
    ]
    # Without the scores of the queries there is a gain and no test.
    gain = ["uniform", "2", "14", "25.0", "25.0", "0.0", "–"]
    assert table[2:] == [["top", "50", *gain], ["top", "50", "–", "–"]]  # in 80 columns
    assert "uniform (1), top 50 (1)" in lines[-1]
    assert "unless several seeds agree" in lines[-1]


def test_lineage_says_what_a_run_was_given(runs: Path, tmp_path: Path) -> None:
    write_report([runs], tmp_path, "A report")
    markdown = (tmp_path / "report.md").read_text()
    assert "- Input data: data/rows.jsonl, SHA-256 0f0f0f0f0f0f\n" in markdown
    assert "- Hardware: count 2, device cpu\n- Versions: torch 2.13.0\n" in markdown
    assert "- Time: 3 min 20 s\n" in markdown
    page = Page((tmp_path / "report.html").read_text())
    assert page.tags.count("details") == 5  # a run each, and other metrics
    assert "0f0f0f0f0f0f" in page.text
    assert "0f0f0f0f0f0f0f" not in page.text


def test_run_without_any_result_is_reported(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "bare", seconds=None, seed=None, versions={}, inputs={})
    text = write_report([tmp_path / "runs"], tmp_path, "Bare")
    assert text == "No evaluated retriever in these runs."
    assert "## Results" not in (tmp_path / "report.md").read_text()
    assert "bare" in (tmp_path / "report.html").read_text()


def test_nothing_is_written_when_nothing_is_found(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(DataError):
        write_report([tmp_path / "runs"], tmp_path / "out", "Nothing")
    assert not (tmp_path / "out").exists()
