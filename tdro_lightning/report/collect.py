"""Run folders to plain values: finds the runs, reads their files, checks every field."""

import csv
import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tdro_lightning.errors import DataError
from tdro_lightning.files import read_checked_json, read_json, slug
from tdro_lightning.records.outputs import RECORD, require_intact
from tdro_lightning.report.identity import FILES, distinct_sets, without_repeats
from tdro_lightning.report.runs import DomainWeight, Input, RetrieverScores, Run, Series, Usage
from tdro_lightning.report.sweeps import swept_settings

PER_QUERY = "per_query"
LONGEST = 200  # characters of the name of a set or retriever, which is part of file names


def collect_runs(folders: Sequence[Path], *, with_sources: bool = False) -> tuple[Run, ...]:
    """Read all runs in or below the folders, in order of name with numbers counted as numbers.

    Folders are searched at all depths, since a chain holds its steps. A run reached twice is read
    once; chains and reports have no numbers of their own and are left out. Different folders with
    the same run name get the folder appended, and different sets of one name their SHA-256; an
    encoder that several runs have evaluated alike is listed once.

    Args:
        folders: run folders, or folders above them.
        with_sources: also read the runs whose encoders or weights these runs began from.

    Raises:
        DataError: a folder is missing or holds no run, or a file is broken.
    """
    found = {path.resolve(): path for folder in folders for path in _run_folders(folder)}
    if not found:
        raise DataError("no run folders given; pass at least one folder that holds run.json files")
    runs = [run for run in map(read_run, found.values()) if run.stage not in ("chain", "report")]
    for run in runs if with_sources else ():  # grows as it goes on
        for folder in _sources(run):
            if folder.resolve() not in found:
                found[folder.resolve()] = folder
                runs.append(read_run(folder))
    count = Counter(run.name for run in runs)
    runs = [
        run if count[run.name] == 1 else dataclasses.replace(run, name=f"{run.name} [{place}]")
        for run, place in zip(runs, _places(runs), strict=True)
    ]
    ordered = sorted(runs, key=lambda run: natural_order(run.name))
    return without_repeats(distinct_sets(ordered))


def _places(runs: Sequence[Run]) -> list[str]:
    """For each run, what tells it from the others of its name."""
    short = [", ".join(f"{k.rpartition('.')[2]}={v}" for k, v in run.swept.items()) for run in runs]
    short = [s or f"seed {run.seed}" for s, run in zip(short, runs, strict=True)]
    count = Counter((run.name, one) for run, one in zip(runs, short, strict=True))
    return [
        one if count[run.name, one] == 1 else run.folder.as_posix()
        for run, one in zip(runs, short, strict=True)
    ]


def _sources(run: Run) -> list[Path]:
    """Folders of the training runs that wrote the run's reference or weights, if they are there."""
    paths = [Path(one.path) for one in run.inputs if one.label in ("reference", "weights")]
    return [path.parent for path in paths if (path.parent / "run.json").is_file()]


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which `top 70` stands before `top 100`."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.split(r"(\d+)", name)
        if part
    ]


def read_run(folder: Path, *, own: bool = False) -> Run:
    """Read one run folder; only `run.json` must be there.

    A run that is not finished has no results: what lies in its folder may be half written.

    Args:
        folder: the run folder.
        own: the run itself asks, at its end.

    Raises:
        DataError: `run.json` is missing, a file was changed after the run, lacks a field or holds
            a wrong value.
    """
    path = folder / RECORD
    record = _object(read_checked_json(path), str(path))
    name, stage, status = (
        _text(record.get(key), f"{path}: `{key}`") for key in ("name", "stage", "status")
    )
    if status == "finished":
        require_intact(folder)
    has_results = own or status == "finished"
    inputs = _table(record.get("inputs"), f"{path}: `inputs`")
    return Run(
        name=name,
        bare_name=name,
        folder=folder,
        stage=stage,
        status=status,
        command=_optional_text(record.get("command"), f"{path}: `command`"),
        seed=_optional_count(record.get("seed"), f"{path}: `seed`"),
        model=_model(record, path),
        git_commit=_optional_text(record.get("git_commit"), f"{path}: `git_commit`"),
        started=_optional_text(record.get("started"), f"{path}: `started`"),
        seconds=_optional_number(record.get("seconds"), f"{path}: `seconds`"),
        versions=_facts(record.get("versions"), f"{path}: `versions`"),
        hardware=_facts(record.get("hardware"), f"{path}: `hardware`"),
        inputs=tuple(
            Input(
                label,
                _text(value.get("path"), f"{path}: `inputs.{label}.path`"),
                _optional_text(value.get("sha256"), f"{path}: `inputs.{label}.sha256`"),
            )
            for label, value in inputs.items()
        ),
        retrievers=_retrievers(folder, inputs) if has_results else (),
        weights=_weights(folder / "weights.json") if has_results else (),
        history=_history(folder / "history.csv"),
        usage=_usage(folder / "data_usage.json"),
        config=_object(record.get("config", {}), f"{path}: `config`"),
        chain=_chain(folder.parent / "run.json"),
        swept=swept_settings(folder),
        warnings=_texts(record.get("warnings"), f"{path}: `warnings`"),
    )


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; pass run folders or a folder above them")
    found = sorted(path.parent for path in folder.rglob("run.json"))
    if not found:
        raise DataError(f"{folder}: no run.json in it or below it; pass a folder that holds runs")
    return found


def _model(record: dict[str, Any], path: Path) -> str | None:
    """Name of the model that the run began from: the last part of its path or hub name."""
    config = _object(record.get("config", {}), f"{path}: `config`")
    model = _object(config.get("model", {}), f"{path}: `config.model`")
    name = _optional_text(model.get("path"), f"{path}: `config.model.path`")
    return None if name is None else Path(name).name


def _chain(path: Path) -> str | None:
    """Command of the chain whose record this is, if there is one."""
    if not path.is_file():
        return None
    record = _object(read_checked_json(path), str(path))
    return _optional_text(record.get("command"), str(path)) if record["stage"] == "chain" else None


def _retrievers(
    folder: Path, inputs: Mapping[str, Mapping[str, Any]]
) -> tuple[RetrieverScores, ...]:
    path = folder / "metrics.json"
    if not path.is_file():
        return ()
    record = _object(read_json(path), str(path))
    recorded = _table(record.get("sets"), f"{path}: `sets`")
    retrievers = []
    for label, value in _table(record.get("retrievers"), f"{path}: `retrievers`").items():
        place = f"{path}: `retrievers.{label}.sets`"
        sets = _table(value.get("sets"), place)
        for name in (label, *sets):
            if len(name) > LONGEST:
                raise DataError(
                    f"{path}: the name {name[:40]!r}... has {len(name)} characters; rename it to "
                    f"at most {LONGEST}"
                )
        scores = {
            name: {
                metric: _number(score, f"{place}, `{name}.{metric}`")
                for metric, score in metrics.items()
                if metric != "queries"
            }
            for name, metrics in sets.items()
        }
        queries = {
            name: _count(metrics.get("queries"), f"{place}, `{name}.queries`")
            for name, metrics in sets.items()
        }
        per_query = {name: folder / PER_QUERY / slug(label) / f"{slug(name)}.json" for name in sets}
        known = {name: _set_fingerprint(name, recorded, inputs, path) for name in sets}
        encoder = inputs.get(f"encoder {label}", {}).get("path", folder / "encoder")
        retrievers.append(
            RetrieverScores(
                label,
                scores,
                queries,
                per_query,
                {name: sha256 for name, sha256 in known.items() if sha256},
                Path(encoder) if Path(encoder).is_dir() else None,
            )
        )
    return tuple(retrievers)


def _set_fingerprint(
    name: str,
    recorded: Mapping[str, Mapping[str, Any]],
    inputs: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> str | None:
    """SHA-256 of an evaluation set; of its files, and so marked, where an older run has no other.

    The labels are those of `stages.benchmarks.benchmark_places`.
    """
    if name in recorded:
        return _text(recorded[name].get("sha256"), f"{path}: `sets.{name}.sha256`")
    labels = [f"{hub}{what} {name}" for what in ("set", "corpus of") for hub in ("", "hub ")]
    files = [inputs[label].get("sha256") for label in labels if label in inputs]
    return FILES + "".join(map(str, files)) if files and all(files) else None


def _weights(path: Path) -> tuple[DomainWeight, ...]:
    if not path.is_file():
        return ()
    record = _object(read_checked_json(path), str(path))
    last = _object(record.get("domain_weights"), f"{path}: `domain_weights`")
    size = _object(record.get("size"), f"{path}: `size`")
    mean = _object(record.get("mean_weights", {}), f"{path}: `mean_weights`")
    ema = _object(record.get("ema_weights", {}), f"{path}: `ema_weights`")
    return tuple(
        DomainWeight(
            name,
            _count(size.get(name), f"{path}: `size.{name}`"),
            _number(weight, f"{path}: `domain_weights.{name}`"),
            _optional_number(mean.get(name), f"{path}: `mean_weights.{name}`"),
            _optional_number(ema.get(name), f"{path}: `ema_weights.{name}`"),
        )
        for name, weight in last.items()
    )


def _history(path: Path) -> dict[str, Series]:
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            points = _points(csv.reader(stream), path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a UTF-8 CSV file ({error})") from None
    ordered = {metric: sorted(values.items()) for metric, values in points.items()}
    return {
        metric: Series(tuple(step for step, _ in values), tuple(value for _, value in values))
        for metric, values in ordered.items()
    }


def _points(lines: Iterator[list[str]], path: Path) -> dict[str, dict[int, float]]:
    if next(lines, None) != ["step", "metric", "value"]:
        raise DataError(f"{path}:1: the header must be `step,metric,value`")
    points: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, start=2):
        try:
            step, metric, value = line
            points.setdefault(metric, {})[int(step)] = float(value)
        except ValueError:
            raise DataError(
                f"{path}:{number}: expected a whole number, a metric and a number, "
                f"got {','.join(line)!r}"
            ) from None
    return points


def _usage(path: Path) -> tuple[Usage, ...]:
    if not path.is_file():
        return ()
    record = _table(read_json(path), str(path))
    return tuple(
        Usage(
            name,
            _count(value.get("rows"), f"{path}: `{name}.rows`"),
            _number(value.get("epochs"), f"{path}: `{name}.epochs`"),
        )
        for name, value in record.items()
    )


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{place} must be a JSON object, is {_found(value)}")
    return value


def _table(value: Any, place: str) -> dict[str, dict[str, Any]]:
    entries = _object({} if value is None else value, place)
    return {name: _object(entry, f"{place}, `{name}`") for name, entry in entries.items()}


def _facts(value: Mapping[str, Any] | None, place: str) -> dict[str, str]:
    return {} if value is None else {k: str(v) for k, v in _object(value, place).items()}


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value:
        raise DataError(f"{place} must be a string that is not empty, is {_found(value)}")
    return value


def _texts(value: Any, place: str) -> tuple[str, ...]:
    if value is not None and not isinstance(value, list):
        raise DataError(f"{place} must be a list of strings, is {_found(value)}")
    return tuple(_text(one, place) for one in value or ())


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{place} must be a finite number, is {_found(value)}")
    return float(value)


def _count(value: Any, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"{place} must be a whole number from 0, is {_found(value)}")
    return value


def _optional_text(value: Any, place: str) -> str | None:
    return None if value is None else _text(value, place)


def _optional_number(value: Any, place: str) -> float | None:
    return None if value is None else _number(value, place)


def _optional_count(value: Any, place: str) -> int | None:
    return None if value is None else _count(value, place)


def _found(value: Any) -> str:
    return "missing" if value is None else repr(value)[:60]
