"""Which evaluation sets, and which models, of several runs are the same."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from tdro_lightning.report.runs import RetrieverScores, Run, SetScores

FILES = "files "  # before the SHA-256 of a set's files, which older runs have instead of its own
CLOSE = 5e-4  # fractions; scores of one model may differ so between machines
MANY = 4  # names in a note


def distinct_sets(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs, where every set has a name of its own.

    A name of several sets with different SHA-256 gets the first digits of it appended, so that
    nothing pairs or averages their scores: `nq [1a2b3c4d]`. Where a set's SHA-256 is not recorded,
    it is taken for the one set of its name, or kept apart where there are several.
    """
    digests: dict[str, set[str]] = defaultdict(set)
    for _, name, one in _evaluated(runs):
        digests[name].add(one.fingerprint)
    several = {name for name, own in digests.items() if _differ(own)}

    def renamed(retriever: RetrieverScores) -> RetrieverScores:
        sets = {
            name + _suffix(one.fingerprint) if name in several else name: one
            for name, one in retriever.sets.items()
        }
        return dataclasses.replace(retriever, sets=sets)

    return tuple(
        dataclasses.replace(run, retrievers=tuple(map(renamed, run.retrievers))) for run in runs
    )


def set_notes(runs: Sequence[Run]) -> list[str]:
    """A line on sets of one name that differ, and one on those of which that is not recorded.

    Args:
        runs: as `distinct_sets` returns them.
    """
    apart: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    others: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run, name, one in _evaluated(runs):
        suffix = _suffix(one.fingerprint)
        if name.endswith(suffix):
            apart[name.removesuffix(suffix)][name].append(run.name)
        else:
            others[name][one.fingerprint].append(run.name)
    notes = []
    if apart:
        each = [
            f"{name} in {list_names(own)}"
            for by_name in apart.values()
            for name, own in by_name.items()
        ]
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
        names = list_names(run for own in unsure.values() for run in own)
        notes.append(
            "Whether all runs used the same evaluation set is not recorded for "
            f"{list_names(unsure)} (in {names}); scores there are compared by the set's name."
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
    sets: dict[str, SetScores] = {}
    for part in parts:
        sets |= {name: one for name, one in part.sets.items() if name not in sets}
    return dataclasses.replace(parts[0], sets=sets)


def _evaluated(runs: Sequence[Run]) -> Iterable[tuple[Run, str, SetScores]]:
    return (
        (run, name, one)
        for run in runs
        for retriever in run.retrievers
        for name, one in retriever.sets.items()
    )


def _differ(digests: Iterable[str]) -> bool:
    """Whether there are two fingerprints of a kind; those of two kinds cannot be compared."""
    kinds = [one.startswith(FILES) for one in digests if one]
    return max(kinds.count(True), kinds.count(False)) > 1


def _suffix(fingerprint: str) -> str:
    kind = FILES if fingerprint.startswith(FILES) else ""
    return f" [{kind}{fingerprint.removeprefix(FILES)[:8]}]" if fingerprint else " [not recorded]"


def _trained_there(run: Run, one: RetrieverScores) -> bool:
    return one.encoder is not None and one.encoder.resolve() == (run.folder / "encoder").resolve()


def _agree(one: RetrieverScores, other: RetrieverScores) -> bool:
    """Whether two evaluations have the same scores on every set and metric that both have."""
    return all(
        abs(value - other.sets[name].scores[metric]) <= CLOSE
        for name, own in one.sets.items()
        for metric, value in own.scores.items()
        if name in other.sets and metric in other.sets[name].scores
    )


def list_names(names: Iterable[str]) -> str:
    """The first few of some names, and how many more there are."""
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - MANY} more" if len(distinct) > MANY else ""
    return ", ".join(distinct[:MANY]) + more
