"""Run folders to plain values: finds the runs, reads their files, checks every field."""

import csv
import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tdro_lightning.dro.weights_file import read_weights
from tdro_lightning.errors import DataError
from tdro_lightning.files import read_checked_json, read_json, slug
from tdro_lightning.records.outputs import RECORD, SPARSE_VECTORS, require_intact
from tdro_lightning.report.data_view import read_view
from tdro_lightning.report.identity import FILES, distinct_sets, without_repeats
from tdro_lightning.report.runs import (
    DomainWeight,
    Input,
    RetrieverScores,
    Run,
    Series,
    SetScores,
    Usage,
)
from tdro_lightning.report.sparse_vectors import Vectors, read_vectors
from tdro_lightning.report.sweeps import swept_settings

SOURCES = ("reference", "weights")  # inputs that are results of a run before
OBJECT, LIST = "a JSON object", "a list of strings"
TEXT, NUMBER, COUNT = "a string that is not empty", "a finite number", "a whole number from 0"
KINDS: Mapping[str, Callable[[Any], bool]] = {
    OBJECT: lambda value: isinstance(value, dict),
    LIST: lambda value: isinstance(value, list),
    TEXT: lambda value: isinstance(value, str) and value != "",
    NUMBER: lambda value: type(value) in (int, float) and math.isfinite(value),
    COUNT: lambda value: type(value) is int and value >= 0,
}
LONGEST = 200  # characters of the name of a set or retriever, which is part of file names


def collect_runs(folders: Sequence[Path], *, with_sources: bool = False) -> tuple[Run, ...]:
    """Read all runs in or below the folders, in order of name with numbers counted as numbers.

    Folders are searched at all depths, since a chain holds its steps. A run that is reached in
    several ways is read once; chains and reports have no numbers of their own and are left out.
    Different folders with the same run name get the folder appended, and different sets of one
    name their SHA-256; an encoder that several runs have evaluated alike is listed once.

    Args:
        folders: run folders, or folders above them.
        with_sources: also read the runs whose encoders or weights these runs began from.

    Raises:
        DataError: a folder is missing or holds no run, or a file is broken.
    """
    places = {path.resolve(): path for folder in folders for path in _run_folders(folder)}
    if not places:
        raise DataError("no run folders given; pass at least one folder that holds run.json files")
    runs = [run for run in map(read_run, places.values()) if run.stage not in ("chain", "report")]
    for run in runs if with_sources else ():  # a list that grows in the loop
        for folder in (Path(i.path).parent for i in run.inputs if i.label in SOURCES):
            if folder.resolve() not in places and (folder / RECORD).is_file():
                places[folder.resolve()] = folder
                runs.append(read_run(folder))
    count = Counter(run.name for run in runs)
    runs = [
        run if count[run.name] == 1 else dataclasses.replace(run, name=f"{run.name} [{difference}]")
        for run, difference in zip(runs, _differences(runs), strict=True)
    ]
    return without_repeats(distinct_sets(sorted(runs, key=lambda run: natural_order(run.name))))


def _differences(runs: Sequence[Run]) -> list[str]:
    """For each run, what distinguishes it from the others of its name."""
    short = [
        ", ".join(f"{k.rpartition('.')[2]}={v}" for k, v in run.swept.items()) or f"seed {run.seed}"
        for run in runs
    ]
    count = Counter((run.name, text) for run, text in zip(runs, short, strict=True))
    return [
        text if count[run.name, text] == 1 else run.folder.as_posix()
        for run, text in zip(runs, short, strict=True)
    ]


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which `top 70` comes before `top 100`."""
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
        own: whether the run itself reads, at its end, when its record does not say finished.

    Raises:
        DataError: `run.json` is missing, a file was changed after the run, lacks a field or holds
            a wrong value.
    """
    path = folder / RECORD
    record = _require(read_checked_json(path), OBJECT, str(path))

    def field(key: str, kind: str, *, optional: bool = True) -> Any:
        return _require(record.get(key), kind, f"{path}: `{key}`", optional=optional)

    name, stage, status = (field(key, TEXT, optional=False) for key in ("name", "stage", "status"))
    if status == "finished":
        require_intact(folder)
    has_results = own or status == "finished"
    inputs = _table(record.get("inputs"), f"{path}: `inputs`")
    config = _require(record.get("config", {}), OBJECT, f"{path}: `config`")
    model = _require(config.get("model", {}), OBJECT, f"{path}: `config.model`")
    base = _require(model.get("path"), TEXT, f"{path}: `config.model.path`", optional=True)
    return Run(
        name=name,
        bare_name=name,
        folder=folder,
        stage=stage,
        status=status,
        command=field("command", TEXT),
        seed=field("seed", COUNT),
        model=None if base is None else Path(base).name,
        git_commit=field("git_commit", TEXT),
        started=field("started", TEXT),
        seconds=field("seconds", NUMBER),
        versions={k: str(v) for k, v in (field("versions", OBJECT) or {}).items()},
        hardware={k: str(v) for k, v in (field("hardware", OBJECT) or {}).items()},
        inputs=tuple(_input(label, value, path) for label, value in inputs.items()),
        retrievers=_retrievers(folder, inputs) if has_results else (),
        weights=_weights(folder / "weights.json") if has_results else (),
        history=_history(folder / "history.csv"),
        view=_view(folder / "data_view.json") if has_results else {},
        usage=_usage(folder / "data_usage.json"),
        config=config,
        chain=_chain(folder.parent / RECORD),
        swept=swept_settings(folder),
        warnings=tuple(
            _require(text, TEXT, f"{path}: `warnings`") for text in field("warnings", LIST) or ()
        ),
        best_step=_require(
            (field("best_step", OBJECT) or {}).get("step"),
            COUNT,
            f"{path}: `best_step.step`",
            optional=True,
        ),
    )


def _input(label: str, value: Mapping[str, Any], path: Path) -> Input:
    place = f"{path}: `inputs.{label}"
    sha256 = _require(value.get("sha256"), TEXT, f"{place}.sha256`", optional=True)
    return Input(label, _require(value.get("path"), TEXT, f"{place}.path`"), sha256)


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; pass run folders or a folder above them")
    runs = sorted(path.parent for path in folder.rglob(RECORD))
    if not runs:
        raise DataError(f"{folder}: no run.json in it or below it; pass a folder that holds runs")
    return runs


def _chain(path: Path) -> str | None:
    """Command of the chain whose record this is, if there is one."""
    if not path.is_file():
        return None
    record = _require(read_checked_json(path), OBJECT, str(path))
    command = record.get("command") if record["stage"] == "chain" else None
    return cast(str | None, _require(command, TEXT, str(path), optional=True))


def _retrievers(
    folder: Path, inputs: Mapping[str, Mapping[str, Any]]
) -> tuple[RetrieverScores, ...]:
    path = folder / "metrics.json"
    record = _require(read_json(path) if path.is_file() else {}, OBJECT, str(path))
    recorded = _table(record.get("sets"), f"{path}: `sets`")
    vectors = _vectors(folder / SPARSE_VECTORS)
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
            name: SetScores(
                {
                    metric: _require(score, NUMBER, f"{place}, `{name}.{metric}`")
                    for metric, score in metrics.items()
                    if metric != "queries"
                },
                _require(metrics.get("queries"), COUNT, f"{place}, `{name}.queries`"),
                folder / "per_query" / slug(label) / f"{slug(name)}.json",
                _set_fingerprint(name, recorded, inputs, path),
                vectors.get(label, {}).get(name),
            )
            for name, metrics in sets.items()
        }
        source = inputs.get(f"encoder {label}", {}).get("path")
        encoder = Path(folder / "encoder" if source is None else source)
        kept = encoder if encoder.is_dir() else None
        retrievers.append(RetrieverScores(label, scores, kept, encoder.parent, source))
    return tuple(retrievers)


def _set_fingerprint(
    name: str,
    recorded: Mapping[str, Mapping[str, Any]],
    inputs: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> str:
    """SHA-256 of an evaluation set; of its files, and so marked, where an older run has no other.

    The labels are those of `config.benchmarks.benchmark_locations`; empty where nothing is known.
    """
    if name in recorded:
        return str(_require(recorded[name].get("sha256"), TEXT, f"{path}: `sets.{name}.sha256`"))
    labels = [f"{hub}{what} {name}" for what in ("set", "corpus of") for hub in ("", "hub ")]
    files = [inputs[label].get("sha256") for label in labels if label in inputs]
    return FILES + "".join(map(str, files)) if files and all(files) else ""


def _view(path: Path) -> Mapping[str, Any]:
    """The data view of a validation; empty where an earlier version, or another stage, wrote."""
    return read_view(read_json(path), path) if path.is_file() else {}


def _vectors(path: Path) -> Mapping[str, Vectors]:
    """What is recorded of sparse vectors, by encoder; empty where there are none."""
    return read_vectors(read_json(path), path) if path.is_file() else {}


def _weights(path: Path) -> tuple[DomainWeight, ...]:
    if not path.is_file():
        return ()
    found = read_weights(path)
    mean, ema = found.mean or {}, found.ema or {}
    return tuple(
        DomainWeight(
            name,
            _require(found.size.get(name), COUNT, f"{path}: `size.{name}`"),
            weight,
            mean.get(name),
            ema.get(name),
        )
        for name, weight in found.last.items()
    )


def _history(path: Path) -> dict[str, Series]:
    """The logged metrics; a step that was logged again counts as it was the last time."""
    if not path.is_file():
        return {}
    points: dict[str, dict[int, float]] = defaultdict(dict)
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = csv.reader(stream)
            if next(lines, None) != ["step", "metric", "value"]:
                raise DataError(f"{path}:1: the header must be `step,metric,value`")
            for number, line in enumerate(lines, start=2):
                try:
                    step, metric, value = line
                    points[metric][int(step)] = float(value)
                except ValueError:
                    raise DataError(
                        f"{path}:{number}: expected a whole number, a metric and a number, "
                        f"got {','.join(line)!r}"
                    ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a UTF-8 CSV file ({error})") from None
    return {
        metric: Series(*zip(*sorted(values.items()), strict=True))
        for metric, values in points.items()
    }


def _usage(path: Path) -> tuple[Usage, ...]:
    record = _table(read_json(path) if path.is_file() else {}, str(path))
    return tuple(
        Usage(
            name,
            _require(value.get("rows"), COUNT, f"{path}: `{name}.rows`"),
            _require(value.get("epochs"), NUMBER, f"{path}: `{name}.epochs`"),
        )
        for name, value in record.items()
    )


def _table(value: Any, place: str) -> dict[str, dict[str, Any]]:
    entries = _require({} if value is None else value, OBJECT, place)
    return {name: _require(entry, OBJECT, f"{place}, `{name}`") for name, entry in entries.items()}


def _require(value: Any, kind: str, place: str, *, optional: bool = False) -> Any:
    """The value if it is of the kind, or None if it may be; numbers as float.

    Args:
        value: parsed JSON.
        kind: one of `KINDS`.
        place: file and key, for the message.
        optional: whether None is allowed.

    Raises:
        DataError: the value is of another kind.
    """
    if value is None and optional:
        return None
    if not KINDS[kind](value):
        actual = "missing" if value is None else repr(value)[:60]
        raise DataError(f"{place} must be {kind}, is {actual}")
    return float(value) if kind == NUMBER else value
