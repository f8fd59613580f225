"""Whether and from where a training run resumes, and whether it still is the same run."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tdro_lightning.config.schema import Config
from tdro_lightning.console.output import tell
from tdro_lightning.errors import CheckpointError, ConfigError
from tdro_lightning.files import read_checked_json
from tdro_lightning.records.outputs import HISTORY, RECORD
from tdro_lightning.runs.inputs import Described, with_commits
from tdro_lightning.runs.record import flatten, hardware, with_added_keys
from tdro_lightning.training.checkpoint import (
    RUN,
    checkpoints,
    manifest,
    newest_valid,
    remove_checkpoint,
    step_of,
)
from tdro_lightning.training.history import history_digest, steps_in

CHECKPOINTS = "checkpoints"  # folder in a run's

FREE = {  # may change when a run resumes; paths are compared by the content that they lead to
    "model": ("path", "architecture", "tiny", "attention"),
    "data": ("workers",),
    "module": ("reference", "reference_cache"),
    "transfer": ("weights",),
    "optimiser": (),
}
STEPS = "trainer.steps"
MACHINE = ("processor", "instructions", "threads")  # of these, last digits depend
NOTED = (STEPS, HISTORY, *MACHINE)  # in a checkpoint, and may change: the run says what that means


def result_dependencies(config: Config, inputs: Mapping[str, Described]) -> dict[str, Any]:
    """What a training run's result depends on: flat keys to plain values.

    Processes and loggers are left out. What is in `NOTED` may change when a run is resumed.

    Args:
        config: the run's configuration.
        inputs: path and SHA-256 of what it reads, as the run's record has them.
    """
    values: dict[str, Any] = {"seed": config.seed, "trainer.precision": config.trainer.precision}
    for section, free in FREE.items():
        content = asdict(getattr(config, section))
        values |= flatten({section: {key: v for key, v in content.items() if key not in free}})
    validation = None
    if config.validation is not None:
        validation = {k: v for k, v in asdict(config.validation).items() if k != "folder"}
    values |= flatten({"validation": validation})
    for name in config.domains.only or config.domains.catalogue:
        entry = config.domains.catalogue[name]
        values[f"domains.{name}.prompts"] = list(entry.prompts)
        values[f"domains.{name}.symmetric"] = entry.symmetric
        values[f"domains.{name}.rows"] = (config.domains.rows or {}).get(name)
    for label, place in with_commits(inputs).items():
        if not label.startswith(("set ", "corpus ", "hub ")):  # what is evaluated
            parts = filter(None, (place["path"], place.get("commit")))
            values[f"content of {label}"] = place["sha256"] or "@".join(parts)
    here = hardware()
    return values | {STEPS: config.trainer.steps} | {key: here[key] for key in MACHINE}


def checkpoint_to_resume(config: Config, now: dict[str, Any]) -> Path | None:
    """The checkpoint from which the run of `config.run_dir` resumes; None for a start at step 0.

    Args:
        config: `trainer.resume` is `never`, `must`, or `auto`: resume an unfinished run. A run
            that starts again removes the checkpoints of the one before.
        now: what the run depends on, by `result_dependencies`.

    Raises:
        CheckpointError: `must` and there is none; or there are some, and none can be used; or an
            unfinished run has gone beyond its first checkpoint, and none is left.
        ConfigError: the checkpoint is of a run that depends on something else.
    """
    run_dir, how = Path(config.run_dir), config.trainer.resume
    previous = read_checked_json(run_dir / RECORD)["previous"]
    if how == "never" or (how == "auto" and previous in (None, "finished")):
        for old in checkpoints(run_dir / CHECKPOINTS):  # or a later run would resume from them
            remove_checkpoint(old)
        return None
    newest = newest_valid(run_dir / CHECKPOINTS)
    if newest is None:
        every, steps_logged = config.trainer.checkpoint_every, steps_in(run_dir / HISTORY)
        # A step after the first save has been logged: there was a checkpoint once.
        if how == "must" or (every is not None and steps_logged > every):
            raise CheckpointError(
                f"{run_dir / CHECKPOINTS} holds no checkpoint, though trainer.resume={how} and the "
                f"run's history has {steps_logged} steps; trainer.resume=never starts again"
            )
        return None
    require_same_run(newest, now)
    if step_of(newest) > config.trainer.steps:
        raise ConfigError(
            f"trainer.steps={config.trainer.steps}, but {newest} is already at step "
            f"{step_of(newest)}; ask for as many steps or more, or start again with "
            "trainer.resume=never"
        )
    digest = history_digest(run_dir / HISTORY, step_of(newest))
    tell("\n".join(resume_notes(newest, now | {HISTORY: digest})))
    return newest


def resume_notes(checkpoint: Path, now: dict[str, Any]) -> list[str]:
    """Where a run resumes, and what makes its end differ from that of a run left alone.

    Args:
        checkpoint: from which the run resumes.
        now: what the run depends on, by `result_dependencies`, and its history's digest.
    """
    then = manifest(checkpoint)[RUN]
    before = then.get(STEPS, now[STEPS])
    notes = [f"  resuming at step {step_of(checkpoint)} of {now[STEPS]}"]
    if before != now[STEPS]:
        notes[0] += f" (was {before}: the learning-rate schedule changes)"
    changed = [k for k in MACHINE if k in then and then[k] != now[k]]
    if changed:
        what = ", ".join(f"{key} {now[key]} (was {then[key]})" for key in changed)
        notes.append(f"  {what}: the results equal an uninterrupted run's up to rounding only")
    if then.get(HISTORY, now[HISTORY]) != now[HISTORY]:
        notes.append(f"  {HISTORY} has changed: its lines before that step are not the run's own")
    if "threads" in changed:
        notes.append(f"  for the same bits: trainer.threads={then['threads']}")
    return notes


def require_same_run(checkpoint: Path, now: dict[str, Any]) -> None:
    """Refuse to resume a run with other settings or inputs than it began with.

    Raises:
        ConfigError: a table of what differs: key, then, now.
    """
    then = with_added_keys(manifest(checkpoint)[RUN], now)
    compared = (then.keys() | now.keys()) - set(NOTED)
    keys = sorted(key for key in compared if not _same(then.get(key), now.get(key)))
    if not keys:
        return
    differences = [(key, _short(then.get(key)), _short(now.get(key))) for key in keys]
    rows = [("what", "checkpoint", "now"), *differences]
    what, before = (max(len(row[column]) for row in rows) for column in (0, 1))
    table = "\n".join(f"{row[0]:{what}}  {row[1]:{before}}  {row[2]}".rstrip() for row in rows)
    raise ConfigError(
        f"{checkpoint} is of another run than this one:\n{table}\n"
        "restore these to resume it, or start again with trainer.resume=never"
    )


def _same(then: Any, now: Any) -> bool:
    """Equal; or a hub name and the same with its commit, which version 0.1.0 did not record."""
    return bool(then == now or (isinstance(now, str) and then == now.rpartition("@")[0] != ""))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
