"""Time and money of what is planned, from counted FLOPs and bytes or from a measured speed."""

from dataclasses import dataclass

import torch

from tdro_lightning.assembly.encoders import configured_reading
from tdro_lightning.assembly.modules import reference_path
from tdro_lightning.config.schema import Config
from tdro_lightning.console.durations import format_duration
from tdro_lightning.errors import ConfigError
from tdro_lightning.models.language_model import sparse_head
from tdro_lightning.planning.model import (
    backbone_of,
    kept_tokens,
    may_run_in_one_pass,
    resized_model,
    with_lora,
)
from tdro_lightning.training.roofline import GPUS, Kernel, Rates, head_passes, passes, seconds

# Of a data sheet's FLOPs and bandwidth; assumed. What was measured: experiments/gpu.
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
    peak = gpu_rates(given.gpu).half
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


def passage_seconds(config: Config, layers: int, flops: int, training_flops: int) -> float:
    """Estimated seconds a token of a passage that is encoded on one device.

    Args:
        config: as in `estimate_cost`.
        layers: of the model.
        flops: of a token's forward pass.
        training_flops: useful ones of a token that is trained on, to which a given speed belongs.

    Raises:
        ConfigError: as in `estimate_cost`.
    """
    given = config.plan
    if given.tokens_per_second is not None:
        return flops / (given.tokens_per_second * training_flops)
    if given.mfu is not None:
        return flops / (given.mfu * gpu_rates(given.gpu).half)
    one, two = (_chunk_seconds(config, number)[0] for number in (1, 2))
    return one + (layers - 1) * (two - one)


def gpu_rates(gpu: str) -> Rates:
    """What a GPU does a second by its data sheet.

    Raises:
        ConfigError: it is not known.
    """
    if gpu not in GPUS:
        raise ConfigError(
            f"plan.gpu={gpu!r} must be one of {', '.join(GPUS)}; or give "
            "plan.tokens_per_second of any device"
        )
    return GPUS[gpu]


def token_seconds(config: Config, layers: int, device_tokens: float) -> float:
    """Estimated seconds a token on one GPU, from counted FLOPs and bytes.

    A step is a forward and a backward pass over every chunk, a forward pass of the reference, and
    once more the forward pass of what runs twice: the tokens beyond those that are kept, unless an
    adapter's gradients are held apart by domain, and all of them with activation checkpointing.
    Not counted: padding, exchange between devices, the loss, the update, and the loader.

    Args:
        config: the stage, its model, chunks and precision.
        layers: of the model; one and two of them are counted, and the others are like the second.
        device_tokens: of one device's share of a batch.

    Raises:
        ConfigError: a kind of model whose kernels depend on its values, as experts do.
    """
    counts = zip(_chunk_seconds(config, 1), _chunk_seconds(config, 2), strict=True)
    forward, backward, reference = (one + (layers - 1) * (two - one) for one, two in counts)
    whole = config.strategy.kind != "fsdp" and may_run_in_one_pass(config)
    apart = config.model.lora is not None and whole
    twice = 0.0 if apart else max(0.0, 1 - kept_tokens(config) / device_tokens)
    again = twice + config.strategy.activation_checkpointing
    return forward * (1 + again) + backward + reference


def _chunk_seconds(config: Config, layers: int) -> tuple[float, float, float]:
    """Seconds a token of a forward, a backward and a reference's pass of so many layers."""
    sheet, length = gpu_rates(config.plan.gpu), config.data.passage_tokens
    rates = Rates(
        REACHED_FLOPS * sheet.half, REACHED_FLOPS * sheet.single, REACHED_MEMORY * sheet.memory
    )
    texts = max(1, config.trainer.chunk_tokens // length)
    mixed = config.trainer.precision == "bf16-mixed"
    shape = configured_reading(config).sparse
    made = resized_model(config.model, {"num_hidden_layers": layers}, "meta", shape)
    backbone = backbone_of(made, shape)
    head = None if shape is None else sparse_head(made, shape)
    model = with_lora(backbone, config.model).train()
    frozen: list[Kernel] = []
    try:
        forward, backward = passes(model, texts, length, mixed=mixed)
        if reference_path(config) is not None:
            with torch.no_grad():
                frozen, _ = passes(model.eval(), texts, length, mixed=mixed)
        if head is not None:
            pooled, to_states = head_passes(head, texts, length)
            frozen = frozen and frozen + pooled
            forward, backward = forward + pooled, backward + to_states
    except RuntimeError as error:
        raise ConfigError(
            f"stage=plan cannot count the kernels of a {backbone.config.model_type} "
            f"({str(error).splitlines()[0][:200]}); give plan.mfu or plan.tokens_per_second"
        ) from None
    whole = (seconds(kernels, rates) / (texts * length) for kernels in (forward, backward, frozen))
    return tuple(whole)  # type: ignore[return-value]


def format_hours(hours: float) -> str:
    """Hours with three digits or whole; a time below six minutes in seconds."""
    if hours < 0.1:
        return format_duration(3600 * hours)
    return f"{hours:,.0f} hours" if hours >= 1000 else f"{hours:.3g} hours"


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
