"""What came of a sweep's settings: a point for each retriever that its jobs trained."""

from collections.abc import Sequence
from dataclasses import dataclass

from tdro_lightning.evaluation.averages import mean_over_sets
from tdro_lightning.report.comparison import effective_domains, last_loss
from tdro_lightning.report.domains import sorted_weights
from tdro_lightning.report.gains import Comparison
from tdro_lightning.report.results import TITLES, UNTRAINED
from tdro_lightning.report.runs import Retriever, Run
from tdro_lightning.report.sweeps import Job, Sweep
from tdro_lightning.report.tables import NOTHING, Column, Table, cells, plain_text, signed


@dataclass(frozen=True)
class Point:
    """What a job came to: one trained retriever, or none.

    Attributes:
        step: the name of the chain's step, empty outside chains.
        score: average times 100 over the sets on which all retrievers of the sweep were evaluated.
        gain: difference from the baseline of the same seed, with a mark of significance.
    """

    job: Job
    runs: Sequence[Run]
    step: str = ""
    score: float | None = None
    gain: tuple[float, str] | None = None


def points(
    sweep: Sweep, runs: Sequence[Run], comparisons: Sequence[Comparison], metric: str | None
) -> list[Point]:
    """What every job came to, in the order of the jobs."""
    jobs = [
        (job, [run for run in runs if job.folder and run.folder.is_relative_to(job.folder)])
        for job in sweep.jobs
    ]
    trained = [[(run, one) for run in own for one in _trained(run, metric)] for _, own in jobs]
    every = [one for entries in trained for _, one in entries]
    shared = [name for one in every[:1] for name in one.sets if all(name in o.sets for o in every)]
    found: list[Point] = []
    for (job, own), entries in zip(jobs, trained, strict=True):
        found += [
            Point(
                job, own, _step(run, job), _average(one, shared, metric or ""),
                _gain(run, one, comparisons),
            )
            for run, one in entries
        ] or [Point(job, own)]  # fmt: skip
    return found


def sweep_table(sweep: Sweep, found: Sequence[Point], metric: str | None) -> Table:
    """A row a job, or a row a trained retriever of a job."""
    scored = any(point.score is not None for point in found)
    weighted = any(run.weights for point in found for run in point.runs)
    steps = any(point.step for point in found)
    titles = [
        Column(key.rpartition(".")[2], key.rpartition(".")[0], numeric=False) for key in sweep.keys
    ]
    titles += [Column("Job", numeric=False)]
    titles += [Column("Retriever", numeric=False)] if steps else []
    titles += [Column(TITLES[metric], "average"), Column("Gain")] if scored and metric else []
    titles += [Column("Effective domains"), Column("Largest weight")] if weighted else []
    trained = any("loss" in run.history for point in found for run in point.runs)
    titles += [Column("Loss", "at the end")] if trained else []
    titles += [Column("Minutes")]
    rows = []
    for point in found:
        seconds = [run.seconds for run in point.runs if run.seconds is not None]
        row = [point.job.swept.get(key, NOTHING) for key in sweep.keys]
        row.append(": ".join([point.job.status, *point.job.error.strip().splitlines()[:1]]))
        row += [point.step or NOTHING] if steps else []
        if scored and metric:
            row.append(NOTHING if point.score is None else f"{point.score:.1f}")
            row.append(NOTHING if point.gain is None else signed(point.gain[0]) + point.gain[1])
        if weighted:
            run = next((run for run in point.runs if run.weights), None)
            top = sorted_weights(run.weights)[0] if run else None
            row.append(effective_domains(run) if run else NOTHING)
            row.append(f"{top.domain} {top.last:.3f}" if top else NOTHING)
        losses = [last_loss(run) for run in point.runs if "loss" in run.history]
        row += (losses[-1:] or [NOTHING]) if trained else []
        row += [f"{sum(seconds) / 60:.1f}" if seconds else NOTHING]
        rows.append(cells(row))
    failed = sum(job.status != "finished" for job in sweep.jobs)
    return Table(
        f"Sweep over {', '.join(sweep.keys) or 'nothing'}",
        f"{len(sweep.jobs)} jobs in {sweep.folder.as_posix()}, {failed or 'none'} of them not "
        "finished. Averages are over the sets that all have. Gain is the difference from the "
        "baseline of the same seed; * and † as in the table of gains, each of one seed.",
        tuple(titles),
        tuple(rows),
    )


def _step(run: Run, job: Job) -> str:
    """Where in the job's folder the run is: a step of a chain, or the job itself."""
    assert job.folder is not None
    place = run.folder.relative_to(job.folder).as_posix()
    return "" if place == "." else plain_text(place)


def _trained(run: Run, metric: str | None) -> list[Retriever]:
    if metric is None:
        return []
    return [one for one in run.retrievers if one.label.casefold() not in UNTRAINED]


def _average(retriever: Retriever, names: Sequence[str], metric: str) -> float | None:
    known = {name: retriever.sets[name] for name in names}
    scores = {name: 100 * one[metric] for name, one in known.items() if metric in one}
    return mean_over_sets(scores) if scores else None


def _gain(
    run: Run, retriever: Retriever, comparisons: Sequence[Comparison]
) -> tuple[float, str] | None:
    for one in comparisons:
        if one.trial.by_seed.get(run.seed) == retriever and run.seed in one.by_seed:
            mark = one.average.mark if len(one.by_seed) == 1 else ""
            return one.by_seed[run.seed], mark
    return None
