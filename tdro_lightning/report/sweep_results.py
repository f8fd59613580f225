"""What a sweep came to: a point for each trained retriever of its jobs, and their table."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tdro_lightning.report.alarms import falls, score_differences
from tdro_lightning.report.gains import BaselineComparison
from tdro_lightning.report.results import TITLES, UNTRAINED, Result
from tdro_lightning.report.runs import RetrieverScores, Run
from tdro_lightning.report.sweeps import Job, Sweep
from tdro_lightning.report.tables import (
    NOTHING,
    Column,
    Table,
    cells,
    format_difference,
    format_number,
    plain_text,
)
from tdro_lightning.report.training_tables import (
    effective_domains,
    last_loss,
    sorted_weights,
)


@dataclass(frozen=True)
class JobGain:
    """What a job's retriever gains over one baseline.

    Attributes:
        difference: of the averages over the sets that both have, in points.
        mark: of significance, where the job is the only one of its kind.
        fell: number of these sets that fall by more than the alarm.
        sets: their number.
    """

    difference: float
    mark: str
    fell: int
    sets: int


@dataclass(frozen=True)
class Point:
    """What a job came to: one trained retriever, or none.

    Attributes:
        step: the name of the chain's step, empty outside chains.
        score: average times 100 over the sets on which all retrievers of the sweep were evaluated.
        gains: over each baseline of the same seed, by what the report was asked to compare with.
    """

    job: Job
    runs: Sequence[Run]
    step: str = ""
    score: float | None = None
    gains: Mapping[str, JobGain] = field(default_factory=dict)


def sweep_points(
    sweep: Sweep,
    runs: Sequence[Run],
    comparisons: Sequence[BaselineComparison],
    metric: str | None,
    alarm: float,
) -> list[Point]:
    """What every job came to, in the order of the jobs.

    Args:
        sweep: the plan.
        runs: those of its jobs, among others.
        comparisons: by the metric.
        metric: None where nothing is evaluated.
        alarm: by how many points a set falls that is counted.
    """
    owned = [
        [run for run in runs if job.folder and run.folder.is_relative_to(job.folder)]
        for job in sweep.jobs
    ]
    trained = [
        [
            (run, one)
            for run in own
            for one in run.retrievers
            if metric is not None and one.label.casefold() not in UNTRAINED
        ]
        for own in owned
    ]
    every = [one for entries in trained for _, one in entries]
    shared = [name for one in every[:1] for name in one.sets if all(name in o.sets for o in every)]
    points: list[Point] = []
    for job, own, entries in zip(sweep.jobs, owned, trained, strict=True):
        scored = [
            Point(
                job,
                own,
                _step(run, job),
                Result.of_run(run, one).average(shared, metric or ""),
                _gains(run, one, comparisons, alarm),
            )
            for run, one in entries
        ]
        points += scored or [Point(job, own)]
    return points


def sweep_table(
    sweep: Sweep,
    points: Sequence[Point],
    metric: str | None,
    asked: Sequence[str],
    alarm: float,
) -> Table:
    """A row a job, or a row a trained retriever of a job; columns that say nothing are left out.

    Args:
        sweep: the plan.
        points: what its jobs came to.
        metric: None where nothing is evaluated.
        asked: what the report was asked to compare with, in order of the columns.
        alarm: by how many points a set falls that is counted.
    """
    columns = _sweep_columns(sweep, points, metric, asked, alarm)
    shown = [(column, texts) for column, texts, filled in columns if filled]
    failed = sum(job.status != "finished" for job in sweep.jobs)
    return Table(
        f"Sweep over {', '.join(sweep.keys) or 'nothing'}",
        f"{len(sweep.jobs)} jobs in {sweep.folder.as_posix()}, {failed or 'none'} of them not "
        "finished. Averages are over the sets that all have. Differences are from the baseline of "
        "the same seed; * and † as in the table of gains, each of one seed. Beside them stands on "
        f"how many sets the job is below that baseline by more than {alarm:g} points.",
        tuple(column for column, _ in shown),
        tuple(cells(row) for row in zip(*(texts for _, texts in shown), strict=True)),
    )


def _sweep_columns(
    sweep: Sweep,
    points: Sequence[Point],
    metric: str | None,
    asked: Sequence[str],
    alarm: float,
) -> list[tuple[Column, list[str], bool]]:
    """Each column with a text for each point, and whether it says anything."""
    learned = [next((run for run in point.runs if run.weights), None) for point in points]
    losses = [[last_loss(run) for run in p.runs if "loss" in run.history] for p in points]
    seconds = [[run.seconds for run in p.runs if run.seconds is not None] for p in points]
    scored = any(point.score is not None for point in points)
    return [
        *(
            (
                Column(key.rpartition(".")[2], key.rpartition(".")[0], numeric=False),
                [point.job.swept.get(key, NOTHING) for point in points],
                True,
            )
            for key in sweep.keys
        ),
        (Column("Job", numeric=False), [_ending(point.job) for point in points], True),
        (
            Column("Retriever", numeric=False),
            [point.step or NOTHING for point in points],
            any(point.step for point in points),
        ),
        (
            Column(TITLES.get(metric or "", ""), "average"),
            [format_number(point.score, ".1f") for point in points],
            scored,
        ),
        *(
            (column, texts, scored)
            for against in asked
            if any(against in point.gains for point in points)
            for column, texts in _gain_columns(points, against, alarm)
        ),
        (
            Column("Effective domains"),
            [effective_domains(run) if run else NOTHING for run in learned],
            any(learned),
        ),
        (
            Column("Largest weight"),
            [_largest_weight(run) if run else NOTHING for run in learned],
            any(learned),
        ),
        (Column("Loss", "at the end"), [(own or [NOTHING])[-1] for own in losses], any(losses)),
        (
            Column("Minutes"),
            [format_number(sum(own) / 60 if own else None, ".1f") for own in seconds],
            True,
        ),
    ]


def _ending(job: Job) -> str:
    return ": ".join([job.status, *job.error.strip().splitlines()[:1]])


def _largest_weight(run: Run) -> str:
    top = sorted_weights(run.weights)[0]
    return f"{top.domain} {top.last:.3f}"


def _step(run: Run, job: Job) -> str:
    """Where in the job's folder the run is: a step of a chain, or the job itself."""
    assert job.folder is not None
    place = run.folder.relative_to(job.folder).as_posix()
    return "" if place == "." else plain_text(place)


def _gain_columns(
    points: Sequence[Point], against: str, alarm: float
) -> list[tuple[Column, list[str]]]:
    """The difference from a baseline, and the number of sets that fall."""
    gains = [point.gains.get(against) for point in points]
    return [
        (
            Column(f"vs {against}"),
            [format_difference(g.difference) + g.mark if g else NOTHING for g in gains],
        ),
        (
            Column("Fell", f"> {alarm:g}"),
            [f"{g.fell} of {g.sets}" if g else NOTHING for g in gains],
        ),
    ]


def _gains(
    run: Run, retriever: RetrieverScores, comparisons: Sequence[BaselineComparison], alarm: float
) -> dict[str, JobGain]:
    """What a job's retriever gains over each baseline of its seed."""
    found = {}
    for one in comparisons:
        if one.result.by_seed.get(run.seed) == retriever and run.seed in one.by_seed:
            own = score_differences(retriever, one.baseline.by_seed[run.seed], one.metric)
            found[one.against] = JobGain(
                one.by_seed[run.seed],
                one.average.mark if len(one.by_seed) == 1 else "",
                sum(falls(difference, alarm) for difference in own.values()),
                len(own),
            )
    return found


def baseline_scores(points: Sequence[Point], asked: Sequence[str]) -> dict[str, float]:
    """Average score of each baseline, of those that are asked for, that all jobs share.

    Where gains are over other sets than the averages, the jobs disagree, and it is left out.
    """
    scores: dict[str, set[float]] = defaultdict(set)
    for point in points:
        for against, gain in point.gains.items():
            if point.score is not None:
                scores[against].add(round(point.score - gain.difference, 6))
    return {against: scores[against].pop() for against in asked if len(scores[against]) == 1}
