"""A tracked run, read back from the files that the trackers wrote."""

import csv
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from tdro_lightning.report.collect import read_run
from tdro_lightning.runs import trackers
from tdro_lightning.stages.workspace import workspace
from tests.command import Ended, run
from tests.made_up import TDRO, write_inputs

BLOCK, HEADER = 32768, 7
Curves = dict[str, dict[int, float]]


def records(path: Path) -> Iterator[Record]:
    """What a .wandb file holds: LevelDB's log format (checksum, length, kind; parts in blocks)."""
    data, place, whole = path.read_bytes(), HEADER, b""
    while place + HEADER <= len(data):
        if (room := BLOCK - place % BLOCK) < HEADER:
            place += room
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + HEADER])
        whole += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # the whole, or its last part
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def logged(path: Path) -> tuple[Curves, dict[str, Any]]:
    """Curves by metric and step, and the last value of everything in the summary."""
    curves: Curves = {}
    summary: dict[str, Any] = {}
    for record in records(path):
        row = {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in record.history.item
        }
        if trackers.STEP in row:
            for name, value in row.items():
                curves.setdefault(name, {})[row[trackers.STEP]] = value
        summary |= {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in (*record.summary.update, *record.history.item)
        }
    return curves, summary


def own_curves(path: Path) -> Curves:
    curves: Curves = {}
    for step, metric, value in list(csv.reader(path.open(encoding="utf-8")))[1:]:
        curves.setdefault(metric, {})[int(step)] = float(value)
    return curves


@pytest.fixture
def tracked(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> tuple[Ended, Path]:
    """A tDRO run of five steps with both trackers."""
    write_inputs(tmp_path)
    own = ("trainer.steps=5", "name=made/tdro", "logger.wandb=offline", "logger.tensorboard=true")
    ended = run(capfd, tmp_path, *TDRO, *own)
    assert ended.code == 0, ended.err
    return ended, tmp_path / "run"


def test_every_curve_is_in_both_trackers_at_every_step(tracked: tuple[Ended, Path]) -> None:
    ended, folder = tracked
    own = own_curves(folder / "history.csv")
    for title in ("weights", "measurement", "loss/proxy", "loss/reference"):
        for domain in ("easy", "middle", "hard"):
            assert own[f"{title}/{domain}"].keys() == set(range(5))
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    curves, summary = logged(file)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for name, values in own.items():
        assert curves[name] == pytest.approx(values), name
        shown = {event.step: event.value for event in events.Scalars(name)}
        assert shown == pytest.approx(values, rel=1e-6), name
    # The end: weights as the summary, the heat map's table, and the run's files.
    weights = json.loads((folder / "weights.json").read_text())["domain_weights"]
    for domain, weight in weights.items():
        assert summary[f"final_weight/{domain}"] == weight
    assert summary["domains/nrows"] == 15 or summary["domains"]["nrows"] == 15
    kept = [r.request.log_artifact.artifact for r in records(file)] + [
        r.artifact for r in records(file)
    ]
    (artifact,) = [a for a in kept if a.type == "run"]
    names = {entry.path for entry in artifact.manifest.contents}
    assert {"history.csv", "weights.json", "data_usage.json", "run.json"} <= names
    (line,) = re.findall(r"wandb sync (\S+)", ended.out)
    assert line == str(file.parent.relative_to(folder.parent))
    rows = trackers.history_rows(read_run(folder))
    assert len(rows) == 15
    step, domain, *values = rows[-1]
    assert (step, values[0]) == (4, own[f"weights/{domain}"][4])


def test_a_long_run_s_table_is_thinned_and_keeps_the_last_step(tracked, monkeypatch) -> None:
    monkeypatch.setattr(trackers, "TABLE_STEPS", 2)
    rows = trackers.history_rows(read_run(tracked[1]))
    assert sorted({row[0] for row in rows}) == [1, 4]


def test_the_workspace_has_curves_and_a_comparison() -> None:
    view = workspace("someone", "tdro_lightning", "tDRO")._to_model().model_dump_json()
    for part in ("weights/", "measurement/", "loss/proxy/", "loss/reference/", trackers.STEP):
        assert part in view
    assert "Run Comparer" in view


def test_saving_the_workspace_needs_a_login(capfd, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    ended = run(capfd, tmp_path, "+experiment=wandb_workspace", "workspace.entity=someone")
    assert ended.code == 2
    assert "nobody is logged in: wandb login" in ended.err
