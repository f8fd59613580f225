"""Which evaluation sets, and which models, of several runs are the same."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from tdro_lightning.report.runs import RetrieverScores, Run

FILES = "files "  # before the SHA-256 of a set's files, which older runs have instead of its own
CLOSE = 5e-4  # fractions; scores of one model may differ so between machines
MANY = 4  # names in a note
BY_SET = ("sets", "queries", "per_query", "fingerprints")  # fields of scores by name of the set


def distinct_sets(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs, where every set has a name of its own.

    A name of several sets with different SHA-256 gets the first digits of it appended, so that
    nothing pairs or averages their scores: `nq [1a2b3c4d]`. Where a set's SHA-256 is not recorded,
    it is taken for the one set of its name, or kept apart where there are several.
    """
    digests: dict[str, set[str]] = {}
    for _, scores, name in _evaluated(runs):
        digests.setdefault(name, set()).add(scores.fingerprints.get(name, ""))
    several = {name for name, own in digests.items() if _differ(own)}
    return tuple(
        dataclasses.replace(
            run, retrievers=tuple(_rename_sets(one, several) for one in run.retrievers)
        )
        for run in runs
    )


def set_notes(runs: Sequence[Run]) -> list[str]:
    """A line on sets of one name that differ, and one on those of which that is not recorded.

    Args:
        runs: as `distinct_sets` returns them.
    """
    apart: dict[str, dict[str, list[str]]] = {}
    others: dict[str, dict[str, list[str]]] = {}
    for run, one, name in _evaluated(runs):
        sha256 = one.fingerprints.get(name, "")
        if name.endswith(_suffix(sha256)):
            base = name.removesuffix(_suffix(sha256))
            apart.setdefault(base, {}).setdefault(name, []).append(run.name)
        else:
            others.setdefault(name, {}).setdefault(sha256, []).append(run.name)
    notes = []
    if apart:
        each = (
            "; ".join(f"{name} in {_some(own)}" for name, own in by_name.items())
            for by_name in apart.values()
        )
        notes.append(
            "These evaluation sets have one name and differ in queries, corpus or judgements, so "
            f"their scores are not compared: {'; '.join(each)}."
        )
    unsure = {
        name: sorted({run for own in by_sha.values() for run in own})
        for name, by_sha in others.items()
        if by_sha.keys() == {""} or len(by_sha) > 1
    }
    if unsure := {name: own for name, own in unsure.items() if len(own) > 1}:
        own = dict.fromkeys(run for runs_of in unsure.values() for run in runs_of)
        notes.append(
            f"Whether all runs used the same evaluation set is not recorded for {_some(unsure)} "
            f"(in {_some(own)}); scores there are compared by the set's name."
        )
    return notes


def without_repeats(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs, where an encoder that several have evaluated with the same scores is listed once.

    What others measured of it is added to the run that trained it, or else to the first one. Where
    they disagree on a score, each stays.
    """
    entries = {(n, i): one for n, run in enumerate(runs) for i, one in enumerate(run.retrievers)}
    first_places: dict[Path, tuple[int, int]] = {}
    for place in sorted(entries, key=lambda key: not _trained_there(runs[key[0]], entries[key])):
        scores = entries[place]
        first = (
            first_places.setdefault(scores.encoder.resolve(), place) if scores.encoder else place
        )
        if first != place and _agree(entries[first], scores):
            entries[first] = merge_scores([entries[first], scores])
            del entries[place]
    return tuple(
        dataclasses.replace(
            run, retrievers=tuple(one for (number, _), one in entries.items() if number == n)
        )
        for n, run in enumerate(runs)
    )


def merge_scores(parts: Sequence[RetrieverScores]) -> RetrieverScores:
    """One retriever's evaluations together; of a duplicate set, the first counts."""
    changes: dict[str, Any] = {field: {} for field in BY_SET}
    for part in parts:
        for field, values in changes.items():
            values |= {n: v for n, v in getattr(part, field).items() if n not in values}
    return dataclasses.replace(parts[0], **changes)


def _evaluated(runs: Sequence[Run]) -> Iterable[tuple[Run, RetrieverScores, str]]:
    return ((run, one, name) for run in runs for one in run.retrievers for name in one.sets)


def _differ(digests: Iterable[str]) -> bool:
    """Whether there are two fingerprints of a kind; those of two kinds cannot be compared."""
    kinds = [one.startswith(FILES) for one in digests if one]
    return max(kinds.count(True), kinds.count(False)) > 1


def _suffix(fingerprint: str) -> str:
    kind = FILES if fingerprint.startswith(FILES) else ""
    return f" [{kind}{fingerprint.removeprefix(FILES)[:8]}]" if fingerprint else " [not recorded]"


def _trained_there(run: Run, one: RetrieverScores) -> bool:
    return one.encoder is not None and one.encoder.resolve() == (run.folder / "encoder").resolve()


def _rename_sets(scores: RetrieverScores, several: Collection[str]) -> RetrieverScores:
    names = {n: n + _suffix(scores.fingerprints.get(n, "")) for n in scores.sets if n in several}
    changes: dict[str, Any] = {
        field: {names.get(name, name): value for name, value in getattr(scores, field).items()}
        for field in BY_SET
    }
    return dataclasses.replace(scores, **changes)


def _agree(one: RetrieverScores, other: RetrieverScores) -> bool:
    """Whether two evaluations have the same scores on every set and metric that both have."""
    return all(
        abs(value - other.sets[name][metric]) <= CLOSE
        for name, scores in one.sets.items()
        for metric, value in scores.items()
        if metric in other.sets.get(name, {})
    )


def _some(names: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - MANY} more" if len(distinct) > MANY else ""
    return ", ".join(distinct[:MANY]) + more
