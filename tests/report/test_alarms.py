import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tdro_lightning.report.alarm_tables import ROWS, alarm_headline, alarm_lines, alarm_table
from tdro_lightning.report.alarms import (
    Changes,
    comparisons_by_other_metrics,
    domain_changes,
    falls,
    set_changes,
)
from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.gains import compare_with_each
from tdro_lightning.report.page import write_report
from tdro_lightning.report.results import BASELINES, results_over_seeds
from tests.report.folders import metrics, write_evaluated, write_run

Scores = Mapping[str, list[float]]
rng = np.random.default_rng(1)
NAMES = ("nq", "fiqa", "agnews", "g/one", "g/two")
BASE: Scores = {name: rng.uniform(0.3, 0.5, 30).tolist() for name in NAMES}


def moved(scores: Scores, **points: float) -> dict[str, list[float]]:
    """The scores, where sets have so many points more, with __ for a slash."""
    by_name = {name.replace("__", "/"): value for name, value in points.items()}
    return {n: [one + by_name.get(n, 0) / 100 for one in own] for n, own in scores.items()}


def found(folder: Path, metric: str = "ndcg@10") -> dict[tuple[str, str, str], Changes]:
    """Changes by retriever, baseline and kind."""
    runs = collect_runs([folder])
    results = results_over_seeds(runs)
    comparisons = compare_with_each(results, BASELINES, metric)
    others = comparisons_by_other_metrics(results, BASELINES, metric)
    every = [*set_changes(results, [*comparisons, *others]), *domain_changes(runs, comparisons)]
    return {(o.comparison.result.name, o.comparison.against, o.kind): o for o in every}


def names(changes: Changes, alarm: float = 1.0) -> list[str]:
    return [entry.name for entry in changes.fell(alarm)]


def test_a_set_that_falls_in_a_rising_mean_is_named_with_its_size(tmp_path: Path) -> None:
    proportional = moved(BASE, nq=1, fiqa=-1)
    top = moved(BASE, nq=9, fiqa=8, agnews=-6, g__one=4, g__two=-3)
    labelled = {"uniform": BASE, "proportional": proportional, "top 70": top, "bm25": proportional}
    write_evaluated(tmp_path, "run", labelled)
    changes = found(tmp_path)
    assert {name for name, _, _ in changes} == {"uniform", "proportional", "top 70"}
    for against, base in (("uniform", BASE), ("proportional", proportional)):
        own = changes["top 70", against, "sets"]
        fell = {entry.name: entry for entry in own.fell(1.0)}
        assert list(fell) == ["agnews", "g/two"]  # the worst first; its group has risen
        by_hand = {n: 100 * (np.mean(top[n]) - np.mean(base[n])) for n in NAMES}
        assert {n: e.difference for n, e in fell.items()} == pytest.approx(
            {n: by_hand[n] for n in fell}
        )
        assert {entry.mark for entry in fell.values()} == {"†"}
        assert own.rose == sum(value > 1e-9 for value in by_hand.values()) == 3
        grouped = [by_hand["nq"], by_hand["fiqa"], by_hand["agnews"]]
        grouped += [(by_hand["g/one"] + by_hand["g/two"]) / 2]
        assert own.mean == pytest.approx(np.mean(grouped))
        assert own.mean > 2
    text = write_report([tmp_path], tmp_path / "out", "Alarms")
    lines = text.splitlines()
    assert lines[0].startswith("Alarm: falls of more than 1 point below a baseline by top 70.")
    assert lines[0].endswith("The mean hides it, since it rises, for top 70.")
    place = lines.index("  top 70 against uniform: mean +2.9; of 5 sets, nDCG@10: 3 rose, 2 fell")
    assert lines[place + 1] == "    agnews -6.0†, g/two -3.0†"
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.index("Alarms: falls of more than 1 point<") < page.index("<h4>nDCG@10</h4>")
    assert "agnews -6.0†, g/two -3.0†" in page
    assert "agnews -6.0†, g/two -3.0†" in (tmp_path / "out" / "report.md").read_text()
    entries = json.loads((tmp_path / "out" / "significance.json").read_text())
    by_pair = {(one["retriever"], one["against"]): one["alarms"] for one in entries}
    assert by_pair["bm25", "uniform"] == []
    (alarm,) = by_pair["top 70", "uniform"]
    assert [entry["name"] for entry in alarm["fell"]] == ["agnews", "g/two"]
    assert (alarm["of"], alarm["alarm"], alarm["rose"], alarm["count"]) == ("sets", 1.0, 3, 5)
    assert by_pair["proportional", "uniform"][0]["fell"] == []  # fiqa falls by one point, not more


def test_a_fall_of_just_the_amount_is_none(tmp_path: Path) -> None:
    pairs = ((0.35, 0.34), (0.29, 0.28), (0.58, 0.57), (0.07, 0.06), (0.9, 0.89))
    sets = {f"s{i}": pair for i, pair in enumerate(pairs)}
    ours, theirs = ({n: {"ndcg@10": p[i]} for n, p in sets.items()} for i in (1, 0))
    assert any(100 * base - 100 * score > 1 for base, score in pairs)  # by rounding
    write_run(tmp_path, "r", files={"metrics": metrics(uniform=theirs, top=ours)})
    own = found(tmp_path)["top", "uniform", "sets"]
    assert names(own, 1.0) == []
    assert len(names(own, 0.999)) == len(pairs)
    assert falls(-0.0001, 0.0)
    assert not falls(0.0, 0.0)


def test_where_nothing_falls_a_line_says_so(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "r", {"uniform": BASE, "top 70": moved(BASE, nq=2, fiqa=-0.5)})
    changes = list(found(tmp_path).values())
    line = "No alarm: no evaluation set falls by more than 1 point below a baseline."
    assert alarm_lines(changes, 1.0) == alarm_headline(changes, 1.0) == line
    assert alarm_table(changes, 1.0) is None
    assert names(found(tmp_path)["top 70", "uniform", "sets"], 0.4) == ["fiqa"]
    text = write_report([tmp_path], tmp_path / "out", "Quiet", alarm=0.25)
    assert text.startswith("Alarm: falls of more than 0.25 points below a baseline by top 70.")


def test_without_a_baseline_nothing_is_said(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "r", {"top 70": BASE})
    assert found(tmp_path) == {}
    assert alarm_lines([], 1.0) == ""
    assert "larm" not in write_report([tmp_path], tmp_path / "out", "Bare")


def test_seeds_are_averaged(tmp_path: Path) -> None:
    for seed, (nq, fiqa) in enumerate(((-4.0, -2.0), (1.0, -2.0), (1.0, 3.5))):
        scores = {"uniform": BASE, "top 70": moved(BASE, nq=nq, fiqa=fiqa, agnews=-1.5)}
        write_evaluated(tmp_path, "r", scores, seed=seed, folder=str(seed))
    own = found(tmp_path)["top 70", "uniform", "sets"]
    fell = own.fell(0.5)
    assert [(e.name, round(e.difference, 6)) for e in fell] == [("agnews", -1.5), ("nq", -0.666667)]
    assert "Fewer than 5 seeds stand behind top 70 (3)" in alarm_table([own], 1.0).caption


def test_sets_of_answers_count_by_their_own_metric(tmp_path: Path) -> None:
    labelled = {"uniform": BASE, "top 70": moved(BASE, nq=3)}
    write_evaluated(tmp_path, "r", labelled)
    asked = {label: {"mkqa": own["fiqa"]} for label, own in labelled.items()}
    asked["top 70"] = {"mkqa": [score - 0.05 for score in BASE["fiqa"]]}
    write_evaluated(tmp_path, "r", asked, metric="accuracy@10", folder="asked")
    runs = collect_runs([tmp_path])
    results = results_over_seeds(runs)
    ranked = compare_with_each(results, BASELINES, "ndcg@10")
    answered = comparisons_by_other_metrics(results, BASELINES, "ndcg@10")
    first, second = set_changes(results, [*ranked, *answered])
    assert ("mkqa" in {e.name for e in first.entries}, names(first)) == (False, [])
    assert (second.metric, names(second)) == ("accuracy@10", ["mkqa"])
    write_report([tmp_path], tmp_path / "out", "Both")
    entries = json.loads((tmp_path / "out" / "significance.json").read_text())
    assert [one["metric"] for one in entries] == ["ndcg@10", "accuracy@10"]


def test_what_a_rising_mean_hides_comes_first(tmp_path: Path) -> None:
    labelled = {
        "uniform": BASE,
        "bad": moved(BASE, nq=-30, fiqa=-30),
        "risen": moved(BASE, nq=9, fiqa=-2),
        "risen too": moved(BASE, nq=9, fiqa=-4),
    }
    write_evaluated(tmp_path, "r", labelled)
    changes = list(found(tmp_path).values())
    table = alarm_table(changes, 1.0)
    assert table is not None
    assert [row[0].text for row in table.rows] == ["risen too", "risen", "bad"]
    assert alarm_headline(changes, 1.0) == (
        "Alarm: falls of more than 1 point below a baseline by risen too, risen, bad. "
        "The mean hides it, since it rises, for risen too, risen."
    )


def test_output_is_bounded(tmp_path: Path) -> None:
    scores = {f"s{i:02}": [0.5, 0.6] for i in range(30)}
    labelled = {"uniform": scores} | {
        f"x{i}": {n: [one - 0.02 - i / 1000 for one in own] for n, own in scores.items()}
        for i in range(ROWS + 4)
    }
    write_evaluated(tmp_path, "r", labelled)
    changes = list(found(tmp_path).values())
    table, lines = alarm_table(changes, 1.0), alarm_lines(changes, 1.0).splitlines()
    assert table is not None
    assert len(table.rows) == ROWS
    assert [cell.text for cell in table.rows[0]][:3] == [
        f"x{ROWS + 3}",
        "uniform",
        "30 sets, nDCG@10",
    ]
    assert table.rows[0][-1].text.endswith(" and 27 more")
    assert "And 4 more, which significance.json lists." in table.caption
    assert lines[-1] == "  And 4 more, which significance.json lists."
    assert len(lines) == 1 + 2 * ROWS + 1


def validated(root: Path, label: str, history: Mapping[str, list[float]], **given: object) -> None:
    """A fine-tuning with the validation of its domains, and scores on one set."""
    run = write_evaluated(root, f"c/{label}", {label: {"nq": BASE["nq"]}}, **given)
    lines = ["step,metric,value"]
    for metric, values in history.items():
        lines += [f"{10 * i},{metric},{value}" for i, value in enumerate(values, 1)]
    (run / "history.csv").write_text("\n".join(lines) + "\n")


def test_domains_fall_at_the_kept_step(tmp_path: Path) -> None:
    base = {
        "validation/ndcg@10": [0.5, 0.6, 0.55],
        "validation/ndcg@10/agnews": [0.5, 0.60, 0.9],
        "validation/ndcg@10/a.b/é": [0.3, 0.3, 0.3],
        "validation/ndcg@10/one row": [float("nan")] * 3,
        "validation/loss/agnews": [1.0, 1.0, 1.0],
    }
    ours = base | {
        "validation/ndcg@10": [0.7, 0.6, 0.7],  # of equal ones, the first step is kept
        "validation/ndcg@10/agnews": [0.48, 0.1, 0.1],
        "validation/ndcg@10/a.b/é": [0.4, 0.1, 0.1],
        "validation/ndcg@10/one row": [1.0, 1.0, 1.0],
    }
    validated(tmp_path, "uniform", base)
    validated(tmp_path, "top 70", ours)
    own = found(tmp_path)["top 70", "uniform", "domains"]
    assert {e.name: (e.baseline, e.score) for e in own.entries} == {
        "agnews": pytest.approx((60.0, 48.0)),
        "a.b/é": pytest.approx((30.0, 40.0)),
    }
    assert (own.metric, names(own), own.rose) == ("ndcg@10", ["agnews"], 1)
    assert own.mean == pytest.approx((-12 + 10) / 2)
    text = write_report([tmp_path], tmp_path / "out", "Domains")
    line = "  top 70 against uniform: mean -1.0; of 2 domains, nDCG@10: 1 rose, 1 fell\n"
    assert f"{line}    agnews -12.0\n" in text


def test_losses_count_where_only_they_are_there(tmp_path: Path) -> None:
    last = {"validation/loss/a": [1.0, 0.50], "validation/loss/b": [1.0, 0.50]}
    validated(tmp_path, "uniform", last)
    validated(
        tmp_path, "top 70", {"validation/loss/a": [1.0, 0.53], "validation/loss/b": [1.0, 0.2]}
    )
    own = found(tmp_path)["top 70", "uniform", "domains"]
    assert {e.name: e.difference for e in own.entries} == pytest.approx({"a": -3.0, "b": 30.0})
    assert (own.metric, names(own)) == ("loss", ["a"])
    assert "a point is a rise by 0.01" in alarm_table([own], 1.0).caption


def test_domains_validated_on_other_rows_are_not_compared(tmp_path: Path) -> None:
    history = {"validation/ndcg@10/a": [0.5]}
    for label, held_out, every in (("uniform", 1, 10), ("same", 1, 50), ("other", 2, 10)):
        validated(tmp_path, label, history)
        record = tmp_path / "c" / label / "run.json"
        content = json.loads(record.read_text())
        content["config"] = {"validation": {"held_out": held_out, "every": every}}
        record.write_text(json.dumps(content))
    kinds = {(name, kind) for name, _, kind in found(tmp_path)}
    assert ("same", "domains") in kinds
    assert ("other", "domains") not in kinds


def test_the_training_of_an_encoder_that_was_evaluated_apart_is_found(tmp_path: Path) -> None:
    for label, value in (("uniform", 0.5), ("top 70", 0.4)):
        write_run(tmp_path, f"c/{label}", history={"validation/ndcg@10/a": [value]})
    inputs = {
        f"encoder {label}": {"path": str(tmp_path / f"c/{label}/encoder"), "sha256": "0"}
        for label in ("uniform", "top 70")
    }
    scores = {"uniform": {"nq": BASE["nq"]}, "top 70": {"nq": BASE["nq"]}}
    write_evaluated(tmp_path, "c/evaluate", scores, inputs=inputs)
    assert names(found(tmp_path)["top 70", "uniform", "domains"]) == ["a"]
