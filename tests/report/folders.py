"""Run folders as the other stages write them, for the tests of the report."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tdro_lightning.files import slug


def write_run(
    root: Path,
    name: str,
    *,
    folder: str | None = None,
    seed: int | None = 42,
    history: Mapping[str, list[float]] | None = None,
    files: Mapping[str, Any] | None = None,
    **record: Any,
) -> Path:
    """Write a run folder: `run.json`, `history.csv` with steps from 1, and further JSON files."""
    place = root / (folder or name)
    place.mkdir(parents=True)
    run = {
        "name": name,
        "stage": "fit",
        "status": "finished",
        "command": f"python -m tdro_lightning +experiment={name}",
        "seed": seed,
        "git_commit": "0123456789abcdef",
        "versions": {"torch": "2.13.0"},
        "hardware": {"device": "cpu", "count": 2},
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 200.4,
        "config": {},
        "inputs": {"data": {"path": "data/rows.jsonl", "sha256": "0f" * 32}},
    }
    (place / "run.json").write_text(json.dumps(run | record))
    for stem, value in (files or {}).items():
        (place / f"{stem}.json").write_text(json.dumps(value))
    if history is not None:
        with (place / "history.csv").open("w", newline="") as stream:
            lines = csv.writer(stream)
            lines.writerow(["step", "metric", "value"])
            for metric, values in history.items():
                lines.writerows([step, metric, value] for step, value in enumerate(values, 1))
    return place


def metrics(**scores: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """A `metrics.json`: {label with _ for a space: {set: {metric: fraction}}}, 7 queries a set."""
    return {
        "retrievers": {
            label.replace("_", " "): {
                "sets": {name: {**values, "queries": 7} for name, values in sets.items()},
                "average": {},
            }
            for label, sets in scores.items()
        }
    }


def write_evaluated(
    root: Path,
    name: str,
    scores: Mapping[str, Mapping[str, list[float]]],
    *,
    seed: int = 42,
    metric: str = "ndcg@10",
    folder: str | None = None,
    model: str | None = None,
    sha256: Mapping[str, str] | None = None,
    **record: Any,
) -> Path:
    """Write a run with the scores of each query: {label: {set: [a fraction for each query]}}.

    `sha256` is what `metrics.json` says of its sets; `record` goes into `run.json`.
    """
    sets = {
        label: {
            one: {metric: sum(values) / len(values), "queries": len(values)}
            for one, values in by_set.items()
        }
        for label, by_set in scores.items()
    }
    content: dict[str, Any] = {
        "retrievers": {label: {"sets": by_set} for label, by_set in sets.items()}
    }
    if sha256:
        content["sets"] = {one: {"sha256": known, "queries": 3} for one, known in sha256.items()}
    config = {"model": {"path": model}} if model else {}
    run = write_run(
        root, name, folder=folder, seed=seed, files={"metrics": content}, config=config, **record
    )
    for label, by_set in scores.items():
        for one, values in by_set.items():
            path = run / "per_query" / slug(label) / f"{slug(one)}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            queries = {f"q{i}": {metric: value} for i, value in enumerate(values)}
            path.write_text(json.dumps(queries))
    return run


def weights(**last: float) -> dict[str, Any]:
    """A `weights.json` with 100 rows a domain, and the uniform weights as mean and average."""
    uniform = dict.fromkeys(last, 1 / len(last))
    return {
        "domain_ids": {name: i for i, name in enumerate(last)},
        "domain_weights": last,
        "size": dict.fromkeys(last, 100),
        "epoch": {name: len(last) * p for name, p in last.items()},
        "mean_weights": uniform,
        "ema_weights": uniform,
        "lineage": {},
    }
