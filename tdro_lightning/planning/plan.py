"""What a training reads, takes and costs; weights are not even downloaded."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tdro_lightning.assembly.modules import reference_path
from tdro_lightning.config.schema import Config, TDROConfig
from tdro_lightning.console.durations import format_duration
from tdro_lightning.console.output import tell
from tdro_lightning.errors import ConfigError
from tdro_lightning.models.model_files import require_positions
from tdro_lightning.planning.data import (
    data_table,
    domain_shares,
    find_local_data,
    histogram,
    model_files,
    step_tokens,
)
from tdro_lightning.planning.model import (
    caption,
    case_values,
    headline,
    kept_tokens,
    memory_cases,
    memory_table,
    model_shape,
    planned_encoder,
    random_model,
    resized_model,
    with_lora,
)
from tdro_lightning.planning.trial import TrialRun, run_trial
from tdro_lightning.report.tables import terminal_table
from tdro_lightning.runs.inputs import require_intact_training
from tdro_lightning.training.callbacks.throughput import useful_flops
from tdro_lightning.training.roofline import GPUS, Kernel, Rates, passes, seconds

# Of a data sheet's FLOPs and bandwidth; assumed: no GPU has been measured yet.
REACHED_FLOPS, REACHED_MEMORY = 0.6, 0.9


@dataclass(frozen=True)
class Cost:
    """Time and money of the planned steps on the GPUs that `plan` names.

    Attributes:
        tokens: in a global batch, without padding.
        flops: useful ones of all steps, as `speed/mfu` counts them where no loss is cached.
        devices: that share every batch.
        tokens_per_second: of one device, without padding.
        mfu: useful FLOPs as a share of the GPU's bf16 peak.
        hours: on so many devices.
        price: of all devices' hours together.
    """

    tokens: float
    flops: float
    devices: int
    tokens_per_second: float
    mfu: float
    hours: float
    price: float


def estimate_cost(config: Config, layers: int, flops: int, tokens: float) -> Cost:
    """Hours and money of the configured steps.

    Args:
        config: its model, steps, devices and `plan`.
        layers: of the model.
        flops: useful ones of a token.
        tokens: in a global batch.

    Raises:
        ConfigError: the GPU is not known, or the model's kernels cannot be counted.
    """
    given, devices, steps = config.plan, config.trainer.devices or 1, config.trainer.steps
    if given.gpu not in GPUS:
        raise ConfigError(
            f"plan.gpu={given.gpu!r} must be one of {', '.join(GPUS)}; or give "
            "plan.tokens_per_second of any device"
        )
    peak = GPUS[given.gpu].half
    if given.tokens_per_second is not None:
        speed = given.tokens_per_second
    elif given.mfu is not None:
        speed = given.mfu * peak / flops
    else:
        speed = 1 / token_seconds(config, layers, tokens / devices)
    hours = steps * tokens / (speed * devices) / 3600
    return Cost(
        tokens=tokens,
        flops=steps * tokens * flops,
        devices=devices,
        tokens_per_second=speed,
        mfu=speed * flops / peak,
        hours=hours,
        price=hours * devices * given.price,
    )


def token_seconds(config: Config, layers: int, device_tokens: float) -> float:
    """Estimated seconds a token on one GPU, from counted FLOPs and bytes.

    A step is a forward and a backward pass over every chunk, a forward pass of the reference, and
    once more the forward pass of what runs twice: the tokens beyond those that are kept, unless an
    adapter's gradients are held apart by domain, and all of them with activation checkpointing.
    Not counted: padding, exchange between devices, the update, and the loader.

    Args:
        config: the stage, its model, chunks and precision.
        layers: of the model; one and two of them are counted, and the others are like the second.
        device_tokens: of one device's share of a batch.

    Raises:
        ConfigError: a kind of model whose kernels depend on its values, as experts do.
    """
    counts = zip(_chunk_seconds(config, 1), _chunk_seconds(config, 2), strict=True)
    forward, backward, reference = (one + (layers - 1) * (two - one) for one, two in counts)
    tdro, sharded = isinstance(config.module, TDROConfig), config.strategy.kind == "fsdp"
    apart = config.model.lora is not None and tdro and not sharded
    twice = 0.0 if apart else max(0.0, 1 - kept_tokens(config) / device_tokens)
    again = twice + config.strategy.activation_checkpointing
    return forward * (1 + again) + backward + reference


def _chunk_seconds(config: Config, layers: int) -> tuple[float, float, float]:
    """Seconds a token of a forward, a backward and a reference's pass of so many layers."""
    sheet, length = GPUS[config.plan.gpu], config.data.passage_tokens
    rates = Rates(
        REACHED_FLOPS * sheet.half, REACHED_FLOPS * sheet.single, REACHED_MEMORY * sheet.memory
    )
    texts = max(1, config.trainer.chunk_tokens // length)
    mixed = config.trainer.precision == "bf16-mixed"
    backbone = resized_model(config.model, {"num_hidden_layers": layers}, "meta")
    model = with_lora(backbone, config.model).train()
    frozen: list[Kernel] = []
    try:
        forward, backward = passes(model, texts, length, mixed=mixed)
        if reference_path(config) is not None:
            with torch.no_grad():
                frozen, _ = passes(model.eval(), texts, length, mixed=mixed)
    except RuntimeError as error:
        raise ConfigError(
            f"stage=plan cannot count the kernels of a {backbone.config.model_type} "
            f"({str(error).splitlines()[0][:200]}); give plan.mfu or plan.tokens_per_second"
        ) from None
    whole = (seconds(kernels, rates) / (texts * length) for kernels in (forward, backward, frozen))
    return tuple(whole)  # type: ignore[return-value]


def format_hours(hours: float) -> str:
    """Hours with three digits; a time below six minutes in seconds."""
    return f"{hours:.3g} hours" if hours >= 0.1 else format_duration(3600 * hours)


def cost_lines(config: Config, cost: Cost, flops: int) -> str:
    """The cost in words, with what it assumes."""
    given = config.plan
    if given.tokens_per_second is not None:
        how = f"{given.tokens_per_second:,.0f} tokens a second and device (plan.tokens_per_second)"
    elif given.mfu is not None:
        how = f"{given.gpu}, {given.mfu:.0%} of its bf16 peak (plan.gpu, plan.mfu)"
    else:
        how = (
            f"{given.gpu} (plan.gpu),\n{cost.tokens_per_second:,.0f} tokens a second and device, "
            f"{cost.mfu:.1%} of its bf16 peak.\n"
            "Counted, not measured: a kernel takes the longer of its FLOPs and its bytes,\n"
            f"at {REACHED_FLOPS:.0%} of the data sheet's FLOPs and "
            f"{REACHED_MEMORY:.0%} of its bandwidth (assumed).\n"
            "A measured run's plan.mfu or plan.tokens_per_second goes before"
        )
    devices = "1 device" if cost.devices == 1 else f"{cost.devices} devices"
    return (
        f"{config.trainer.steps:,} steps of {cost.tokens:,.0f} tokens: "
        f"{cost.flops:.2e} useful FLOPs\n({flops / 1e9:.3g} G a token)\n"
        f"{format_hours(cost.hours)} on {devices}: {how}\n"
        f"{cost.price:.2f} in money, at {given.price:g} a GPU hour (plan.price)\n"
    )


def total_of(plans: dict[str, Any]) -> dict[str, float | None]:
    """Cost of all training steps of a workflow, which it prints."""
    here = [plan["here"]["seconds"] for plan in plans.values() if plan["here"] is not None]
    total = {
        "gpu_hours": sum(p["cost"]["hours"] * p["cost"]["devices"] for p in plans.values()),
        "price": sum(plan["cost"]["price"] for plan in plans.values()),
        "seconds_here": sum(here) if here and len(here) == len(plans) else None,
    }
    tell(
        f"Training of all {len(plans)} steps: {format_hours(total['gpu_hours'])} of GPU time, "
        f"{total['price']:.2f} in money"
        + ("" if total["seconds_here"] is None else f"; here {format_duration(sum(here))}")
    )
    return total


def plan_training(config: Config) -> dict[str, Any]:
    """Print what a training reads, takes and costs, and return the numbers.

    Raises:
        ConfigError: settings that cannot be, or an unknown GPU.
        DataError: a row, a weights file or a tokenizer that a run would refuse.
    """
    require_intact_training(config)
    backbone = random_model(config.model, "meta")
    data = config.data
    require_positions(backbone.config, config.model.path, data.query_tokens, data.passage_tokens)
    encoder = planned_encoder(config, backbone, None)
    model = model_shape(encoder.backbone)
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
    notes = local.notes + _not_here(config)
    tell(headline(config, model))
    tell(terminal_table(data_table(config, domains)) + "\n")
    tell(terminal_table(memory_table(memory)))
    tell(caption(config) + "\n")
    tell(cost_lines(config, cost, flops) + _trial_line(trial, here))
    for note in notes:
        tell(f"Not on this machine: {note}")
    limit = config.data.passage_tokens
    return {
        "model": config.model.path,
        "module": config.module.kind,
        "shape": asdict(model),
        "notes": notes,
        "domains": {
            part.name: {
                "rows": part.rows,
                "passages": part.passages,
                "drawn": part.drawn,
                "epochs": part.epochs,
                "probability": part.probability,
                "passage_lengths": histogram(part.texts, limit) if local.domains else None,
            }
            for part in domains
        },
        "steps": config.trainer.steps,
        "cases": [case_values(case) for case in memory],
        "flops_per_token": flops,
        "cost": asdict(cost),
        "trial": asdict(trial),
        "here": here,
    }


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
