"""What a training is measured by, as configured: rows held out of it, or an evaluation set."""

from collections.abc import Sequence
from pathlib import Path

from tdro_lightning.config.schema import Config
from tdro_lightning.config.training import ValidationConfig
from tdro_lightning.console.output import tell
from tdro_lightning.data.domains import Domain
from tdro_lightning.data.held_out import split_domain
from tdro_lightning.distributed.processes import is_first_process
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.evaluation.benchmark import build_retrieval_set
from tdro_lightning.evaluation.dev_sets import (
    DevSet,
    DevSets,
    dev_set_of_folder,
    dev_set_of_rows,
)
from tdro_lightning.evaluation.sets.beir import beir_corpus, beir_questions
from tdro_lightning.files import write_json
from tdro_lightning.records.outputs import BEST_STEP
from tdro_lightning.training.callbacks.throughput import Throughput
from tdro_lightning.training.callbacks.validation import BestStep, BestStepKept
from tdro_lightning.training.encoder_module import EncoderModule
from tdro_lightning.training.kept import Kept


def split_for_validation(
    config: Config, domains: Sequence[Domain]
) -> tuple[list[Domain], list[DevSet]]:
    """The domains without the rows that are held out, and the dev sets; one line says what is what.

    Raises:
        ConfigError: nothing of any domain is held out.
        DataError: the folder has no such set, or a broken or a large one.
    """
    asked = config.validation
    if asked is None:
        return [*domains], []
    if asked.folder is not None:
        return [*domains], _say_cost(asked, [_folder_set(asked, asked.folder)])
    split = [split_domain(domain, asked.held_out, asked.most) for domain in domains]
    whole = [domain.name for domain, rows in split if not rows]
    if len(whole) == len(split):
        raise ConfigError(
            f"validation.held_out={asked.held_out:g} holds out no row of any domain, or all of "
            "one; use another share, or validation.folder"
        )
    count = sum(map(len, domains)) - sum(len(domain) for domain, _ in split)
    tell(f"  validation: {count:,} rows of {len(split) - len(whole)} domains are held out")
    if whole:
        tell(f"  validation: too few rows to hold any out of {', '.join(whole)}")
    data = config.data
    sets = [
        dev_set_of_rows(domain, rows, data.negatives, data.prompt_symmetric_passages)
        for domain, rows in split
        if rows
    ]
    return [domain for domain, _ in split], _say_cost(asked, sets)


def _folder_set(asked: ValidationConfig, folder: str) -> DevSet:
    try:
        corpus, questions = beir_corpus(Path(folder)), beir_questions(Path(folder), asked.split)
        dataset = build_retrieval_set("validation", corpus, questions, prompt=asked.prompt)
        return dev_set_of_folder(dataset)
    except DataError as error:
        where = f"validation.folder={folder} with validation.split={asked.split}"
        raise DataError(f"{where}: {error}") from None


def _say_cost(asked: ValidationConfig, sets: list[DevSet]) -> list[DevSet]:
    texts = sum(one.texts for one in sets)
    tell(f"  validation: {texts:,} texts are embedded every {asked.every:,} steps")
    return sets


def configured_validation(
    config: Config, module: EncoderModule, sets: Sequence[DevSet], kept: Kept, clock: Throughput
) -> BestStepKept | None:
    """What measures a training by dev sets; None where there are none.

    Args:
        config: `validation`.
        module: that trains.
        sets: the dev sets.
        kept: what is copied at the best step.
        clock: does not count the time of a validation as a step's.
    """
    asked = config.validation
    if asked is None:
        return None
    encoder, _ = module.encoders()
    measure = DevSets(sets, encoder, module.temperature).measure
    metric, patience = asked.metric, asked.patience
    return BestStepKept(measure, kept, asked.every, metric, patience, clock.restart_clock)


def write_best_step(config: Config, best: BestStep, steps: int) -> None:
    """Say which step is kept, and where the training ended, in `best_step.json` and in a line.

    Args:
        config: of the run.
        best: the best step; step 0 where nothing was measured.
        steps: done, of those configured.
    """
    asked, planned = config.validation, config.trainer.steps
    if asked is None or not best.step or not is_first_process():
        return
    content = {
        "metric": asked.metric,
        "step": best.step,
        "value": best.value,
        "steps": steps,
        "planned": planned,
    }
    write_json(Path(config.run_dir) / BEST_STEP, content)
    kept = f"step {best.step} is kept, {asked.metric} {best.value:.4f}"
    if steps < planned:
        kept = f"stopped after step {steps} of {planned}, as no later one was better; {kept}"
    tell(f"  validation: {kept}")
