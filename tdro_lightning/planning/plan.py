"""What a training or an evaluation reads, takes and costs; weights are not even downloaded."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tdro_lightning.assembly.encoders import configured_reading
from tdro_lightning.assembly.modules import reference_path
from tdro_lightning.config.schema import Config, FinetuneConfig, MNTPConfig
from tdro_lightning.console.durations import format_duration
from tdro_lightning.errors import ConfigError
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.model_files import require_positions
from tdro_lightning.planning.cost import cost_lines, estimate_cost, passage_seconds
from tdro_lightning.planning.data import (
    DomainShare,
    LocalData,
    data_table,
    domain_shares,
    find_local_data,
    histogram,
    model_files,
    step_tokens,
)
from tdro_lightning.planning.evaluation import EvaluationCost, evaluation_cost, evaluation_lines
from tdro_lightning.planning.memory import Model
from tdro_lightning.planning.model import (
    MemoryCase,
    caption,
    case_values,
    encoder_shape,
    headline,
    memory_cases,
    memory_table,
    planned_encoder,
    random_model,
)
from tdro_lightning.planning.trial import TrialRun, run_trial
from tdro_lightning.report.tables import terminal_table
from tdro_lightning.runs.inputs import require_intact_training
from tdro_lightning.training.callbacks.throughput import useful_flops
from tdro_lightning.training.checkpoint import KEPT
from tdro_lightning.training.roofline import ACTIVE
from tdro_lightning.training.strategies import require_frozen_head


@dataclass(frozen=True)
class RunPlan:
    """A planned run in words and numbers.

    Attributes:
        text: what a user reads of it.
        notes: what is not on this machine, each with the key that names it.
        content: all numbers, for `plan.json`.
    """

    text: str
    notes: list[str]
    content: dict[str, Any]


def plan_training(config: Config) -> RunPlan:
    """What a training reads, takes and costs.

    Raises:
        ConfigError: settings that cannot be, or an unknown GPU.
        DataError: a row, a weights file or a tokenizer that a run would refuse.
    """
    if isinstance(config.module, MNTPConfig):
        raise ConfigError(
            "stage=plan does not count module=mntp yet; with module=finetune it counts a training "
            "of the same model"
        )
    require_intact_training(config)
    encoder, model = _planned_model(config)
    if config.strategy.kind == "fsdp" and encoder.sparse:
        require_frozen_head(encoder, offloaded=config.strategy.cpu_offload)
    local = find_local_data(config)
    domains = domain_shares(config, local)
    flops = useful_flops(encoder, references=int(reference_path(config) is not None))
    cost = estimate_cost(config, model.layers, flops, step_tokens(config, domains))
    memory = list(memory_cases(config, model))
    probability = {part.name: part.probability for part in domains}
    trial = run_trial(config, local, flops * cost.tokens, probability)
    here = None  # the whole run on this machine, where whole steps were tried
    if trial.whole:
        all_steps = config.trainer.steps * cost.tokens * trial.seconds / trial.tokens
        here = {"seconds": all_steps, "process_gb": trial.process_gb}
    evaluated = isinstance(config.module, FinetuneConfig) and config.benchmark is not None
    evaluation = _evaluation_cost(config, 1, encoder, model) if evaluated else None
    notes = local.notes + _not_here(config) + _unknown_sets(config, evaluation)
    text = "\n".join(
        [
            headline(config, model),
            terminal_table(data_table(config, domains)) + "\n",
            terminal_table(memory_table(memory)),
            caption(config, model) + "\n",
            cost_lines(config, cost, flops) + _trial_line(trial, here),
            *([] if evaluation is None else [evaluation_lines(config, evaluation)]),
        ]
    )
    content = {
        "model": config.model.path,
        "module": config.module.kind,
        "shape": asdict(model),
        "notes": notes,
        "domains": {one.name: _share_values(one, local, config) for one in domains},
        "steps": config.trainer.steps,
        "cases": [case_values(case) for case in memory],
        "memory_bytes": _configured_case(config, memory).memory.total,
        "kept_bytes": _kept_bytes(config, model),
        "flops_per_token": flops,
        "cost": asdict(cost),
        "trial": asdict(trial),
        "here": here,
        "evaluation": None if evaluation is None else asdict(evaluation),
    }
    return RunPlan(text, notes, content)


def _share_values(share: DomainShare, local: LocalData, config: Config) -> dict[str, Any]:
    """A domain's share of a run as plain values."""
    lengths = histogram(share.texts, config.data.passage_tokens) if local.domains else None
    return {
        "rows": share.rows,
        "passages": share.passages,
        "drawn": share.drawn,
        "epochs": share.epochs,
        "probability": share.probability,
        "passage_lengths": lengths,
    }


def plan_evaluation(config: Config) -> RunPlan:
    """What the encoders of `stage=evaluate` take, each counted as the configured model.

    Raises:
        ConfigError: settings that cannot be, or an unknown GPU.
    """
    assert config.evaluate is not None
    encoder, model = _planned_model(config)
    cost = _evaluation_cost(config, len(config.evaluate.encoders), encoder, model)
    notes = _unknown_sets(config, cost)
    content = {
        "model": config.model.path,
        "notes": notes,
        "memory_bytes": model.size + (model.output.size if model.output else 0),
        "kept_bytes": 0,
        "evaluation": asdict(cost),
    }
    return RunPlan(evaluation_lines(config, cost), notes, content)


def _planned_model(config: Config) -> tuple[Encoder, Model]:
    shape = configured_reading(config).sparse
    made = random_model(config.model, "meta", shape)
    data = config.data
    require_positions(made.config, config.model.path, data.query_tokens, data.passage_tokens)
    encoder = planned_encoder(config, made, None, shape)
    return encoder, encoder_shape(encoder)


def _evaluation_cost(
    config: Config, encoders: int, encoder: Encoder, model: Model
) -> EvaluationCost:
    training = useful_flops(encoder, references=0)
    forward = useful_flops(encoder, references=1) - training
    seconds = passage_seconds(config, model.layers, forward, training)
    terms = ACTIVE if encoder.sparse else None
    return evaluation_cost(config, encoders, encoder.dimensions, seconds, terms)


def _configured_case(config: Config, cases: list[MemoryCase]) -> MemoryCase:
    strategy = config.strategy
    wanted = (strategy.kind, strategy.activation_checkpointing)
    return next(case for case in cases if (case.strategy, case.checkpointing) == wanted)


def _kept_bytes(config: Config, model: Model) -> int:
    """Disk of what stays of a training: the encoder, and checkpoints with AdamW's two moments."""
    trained, encoder = model.trained_size, model.trained_size if model.frozen else model.size
    if model.output is not None:
        trained += model.output.trained_size
        encoder += model.output.trained_size if model.frozen else model.output.size
    checkpoints = 0 if config.trainer.checkpoint_every is None else KEPT
    return encoder + checkpoints * 3 * trained


def _unknown_sets(config: Config, cost: EvaluationCost | None) -> list[str]:
    if cost is None or not cost.unknown:
        return []
    assert config.benchmark is not None
    names = ", ".join(cost.unknown)
    return [f"benchmark.root={config.benchmark.root}: {names}; their evaluation is not counted"]


def _not_here(config: Config) -> list[str]:
    path, reference = config.model.path, getattr(config.module, "reference", None)
    missing = reference not in (None, "any") and not Path(reference).is_dir()
    notes = {
        f"model.path={path}: weights; a run loads or downloads them": (
            model_files(path, "model.safetensors") is None
        ),
        "module.reference is not set: counted as one like the proxy": reference == "any",
        f"module.reference={reference}: counted as one like the proxy": missing,
    }
    return [note for note, holds in notes.items() if holds]


def _trial_line(trial: TrialRun, here: dict[str, float | None] | None) -> str:
    if here is None or here["seconds"] is None:
        return "Tried: one step of a small model of this kind, on made-up texts"
    memory = here["process_gb"]
    return (
        f"Tried: {trial.steps + 1} whole steps with random weights. All of them on this machine:\n"
        f"about {format_duration(here['seconds'])}"
        + ("" if memory is None else f", {memory:.2f} GB of memory for the process")
        + ";\nstart-up and evaluation come on top"
    )
