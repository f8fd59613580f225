"""No name that a run was given steers a terminal, a browser, a paper or a reader of JSON."""

import json
import sys
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tdro_lightning.errors import DataError
from tdro_lightning.report.page import write_report, write_sweep_report
from tdro_lightning.report.tables import escape_controls, plain_text
from tests.report.folders import weights, write_evaluated, write_run

CONTROLS = [
    c for c in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
]  # fmt: skip
FEW = [c for c in CONTROLS if not "\ud801" < c < "\udfff"]  # or nearly all would be surrogates
NAMES = st.lists(st.sampled_from([*"ab/[$_<&\\", *FEW]), min_size=1, max_size=12).map("".join)
WRITTEN = ("report.md", "report.html", "tables.tex", "significance.json", "figures/*.svg")


def raw(text: str) -> set[str]:
    """The control characters of a text that are no line ends."""
    return set(text) & (set(CONTROLS) - {"\n"})


def test_every_control_character_becomes_visible() -> None:
    assert {"\x1b", "\x7f", "\x9b", "\u200b", "\u202e", "\u2066", "\ud800"} <= set(CONTROLS)
    for control in CONTROLS:
        if control != "\n":
            shown = escape_controls(f"a{control}b")
            assert shown.isascii()
            assert shown.startswith("a\\")
            assert escape_controls(shown) == shown
        assert not raw(plain_text(f"a{control}b"))
    assert escape_controls("a\u00a0百科\u3000🙂\n") == "a\u00a0百科\u3000🙂\n"
    assert plain_text("\x1b[31m\u202e\x9b") == r"\x1b[31m\u202e\x9b"


def made(root: Path, run: str, one: str, domain: str, model: str, prompt: str) -> None:
    """Runs whose names, sets, domains, models, prompts and commands are as given."""
    for step, level in ((f"{run}base", 0.1), (f"{run}x", 0.2)):
        label = "uniform" if step.endswith("base") else f"l{run}"
        folder = write_evaluated(
            root, step, {label: {f"s{one}": [level, 0.3, 0.5]}}, folder=step[-1], model=model
        )
        record = json.loads((folder / "run.json").read_text())
        record["config"]["benchmark"] = {"prompt": f"{prompt}{level}"}
        (folder / "run.json").write_text(json.dumps(record | {"command": run, "git_commit": model}))
    domains = {f"{domain}1": 0.6, f"{domain}2": 0.4}
    files = {"weights": weights(**domains)}
    files["data_usage"] = {name: {"rows": 1, "epochs": 1.0} for name in domains}
    write_run(root, f"{run}tdro", folder="tdro", files=files, versions={run: prompt})
    write_run(root, f"{run}two", folder="two", files=files, hardware={run: prompt})


@settings(
    max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(NAMES, NAMES, NAMES, NAMES, NAMES)
def test_no_file_of_a_report_keeps_one(run: str, one: str, domain: str, model: str, prompt: str):
    with TemporaryDirectory() as place:
        root, out = Path(place) / "runs", Path(place) / "out"
        made(root, run, one, domain, model, prompt)
        shown = write_report([root], out, run)
        assert not raw(shown)
        files = [path for pattern in WRITTEN for path in out.glob(pattern)]
        assert len(files) > len(WRITTEN)
        for path in files:
            assert not raw(path.read_text()), path.name
            if path.suffix == ".svg":
                ElementTree.parse(path)
        (found,) = json.loads((out / "significance.json").read_text())
        assert found["run"] == json.loads(json.dumps(f"{run}x"))  # lossless there


def test_a_sweep_keeps_none(tmp_path: Path) -> None:
    evil = "k\x1b]0;x\x07\u202e\x9b"
    jobs = [{evil: f"{evil}1"}, {evil: "2"}]
    (tmp_path / "sweep.json").write_text(json.dumps({"command": evil, "jobs": jobs}))
    for number, swept in enumerate(jobs):
        scores = {f"l{evil}": {f"s{evil}": [0.1, 0.2 * number]}}
        run = write_evaluated(tmp_path, f"r{evil}", scores, folder=str(number))
        record = {"swept": swept, "status": "finished", "code": 0, "error": evil}
        (run / "job.json").write_text(json.dumps(record))
    assert not raw(write_sweep_report(tmp_path))
    for pattern in WRITTEN:
        assert not any(raw(path.read_text()) for path in tmp_path.glob(pattern))
    assert r"k\x1b]0;x\x07\u202e\x9b" in (tmp_path / "report.html").read_text()


def test_long_names_are_shortened_or_refused_in_one_line(tmp_path: Path) -> None:
    long = "n" * 5000
    made(tmp_path / "a", long[:199], "", long, long, long)
    record = json.loads((tmp_path / "a" / "tdro" / "run.json").read_text())
    record |= {"name": long, "command": long}
    (tmp_path / "a" / "tdro" / "run.json").write_text(json.dumps(record))
    assert "uniform" in write_report([tmp_path / "a"], tmp_path / "out", long)
    for number, (label, name) in enumerate((("uniform", long), (long, "nq"))):
        content = {"retrievers": {label: {"sets": {name: {"ndcg@10": 0.5, "queries": 3}}}}}
        run = write_run(tmp_path / str(number), "r", files={"metrics": content})
        with pytest.raises(DataError, match=r"metrics\.json: .* has 5000 characters; .* 200") as e:
            write_report([run], tmp_path / "out", "Long")
        assert len(str(e.value)) < 400
        assert "\n" not in str(e.value)
