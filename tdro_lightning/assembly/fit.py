"""Training as configured: tDRO, fine-tuning (with uniform weights the reference), adaptation."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.utils.data._utils import signal_handling

from tdro_lightning.assembly.domains import configured_domains, require_room_for_queries
from tdro_lightning.assembly.encoders import (
    configured_encoder,
    configured_language_model,
    configured_reference,
)
from tdro_lightning.assembly.evaluate import encoder_retrievers, evaluate_and_print
from tdro_lightning.assembly.mixture import (
    configured_mixture,
    mixture_label,
    write_configured_mixture,
)
from tdro_lightning.assembly.modules import (
    data_module,
    domain_weights,
    optimisation,
    passage_data,
    reference_path,
    tdro_module,
    warn_of_temperature,
)
from tdro_lightning.assembly.validation import (
    configured_validation,
    split_for_validation,
    write_best_step,
)
from tdro_lightning.config.benchmarks import benchmark_sets
from tdro_lightning.config.schema import Config, FinetuneConfig, MNTPConfig, TDROConfig
from tdro_lightning.console.libraries import quiet_libraries
from tdro_lightning.data.domains import Domain
from tdro_lightning.distributed.processes import (
    barrier,
    from_first,
    is_first_process,
    local_processes,
    rank,
    world_size,
)
from tdro_lightning.dro.weights import DomainWeights
from tdro_lightning.dro.weights_file import WeightsFile, write_weights
from tdro_lightning.errors import NonFiniteError, ResourceError
from tdro_lightning.evaluation.dev_sets import DevSet
from tdro_lightning.files import fingerprint, read_checked_json, write_json
from tdro_lightning.losses.reference_cache import ReferenceLosses, loss_fingerprint
from tdro_lightning.records.outputs import RECORD
from tdro_lightning.runs.record import WITHOUT_EFFECT
from tdro_lightning.runs.resume import CHECKPOINTS, checkpoint_to_resume, result_dependencies
from tdro_lightning.runs.trackers import close_trackers, loggers, require_trackers
from tdro_lightning.training.callbacks.checkpoints import Checkpoints, StopRequests
from tdro_lightning.training.callbacks.progress import Progress
from tdro_lightning.training.callbacks.throughput import Throughput
from tdro_lightning.training.checkpoint import require_room, step_of
from tdro_lightning.training.datamodules import RetrievalDataModule
from tdro_lightning.training.encoder_module import EncoderModule
from tdro_lightning.training.finetune import FinetuneModule
from tdro_lightning.training.kept import Kept, KeptParameters, KeptWeights
from tdro_lightning.training.mntp import MNTPModule
from tdro_lightning.training.strategies import strategy


def fit(config: Config) -> None:
    """Train, then write the stage's files."""
    quiet_libraries()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    lightning.seed_everything(config.seed, verbose=False)
    require_trackers(config)
    with close_trackers(config):
        adapts = isinstance(config.module, MNTPConfig)
        rows = configured_domains(config, negatives=config.data.negatives > 0 and not adapts)
        domains, dev_sets = split_for_validation(config, rows)
        if isinstance(config.module, TDROConfig):
            fit_tdro(config, config.module, domains, dev_sets)
        elif isinstance(config.module, MNTPConfig):
            fit_language_model(config, config.module, domains)
        else:
            fit_retriever(config, config.module, domains, dev_sets)


def fit_tdro(
    config: Config, settings: TDROConfig, domains: list[Domain], dev_sets: list[DevSet]
) -> None:
    """Learn domain weights; writes `weights.json` and `data_usage.json`.

    With dev sets the weights are those of the best step, which `best_step.json` names.
    """
    weights = domain_weights(settings, [domain.name for domain in domains])
    path = reference_path(config)
    proxy = configured_encoder(config, config.model.path, trained=True)
    warn_of_temperature(proxy, settings.temperature)
    require_room_for_queries(domains, proxy.tokenizer, proxy.query_tokens, proxy.templates)
    reference = None if path is None else configured_reference(config, path, proxy)
    uniform = dict.fromkeys(weights.names, 1 / len(domains))
    data = data_module(config, domains, proxy, uniform)
    _write_usage(config, data, uniform, config.trainer.steps)
    cache = None
    if settings.reference_cache is not None and reference is not None:
        known = loss_fingerprint(reference, settings.temperature, config.trainer.precision)
        unit = reference.head.normalized
        cache = ReferenceLosses(Path(settings.reference_cache), known, settings.temperature, unit)
    module = tdro_module(config, settings, weights, proxy, reference, cache)
    throughput = Throughput(proxy, reference)
    steps = _train(config, module, data, throughput, dev_sets, KeptWeights(weights))
    _write_usage(config, data, uniform, steps)
    if is_first_process():
        _write_weights(config, settings, domains, weights)


def fit_retriever(
    config: Config, settings: FinetuneConfig, domains: list[Domain], dev_sets: list[DevSet]
) -> None:
    """Fine-tune, and evaluate where there is a benchmark.

    Writes `encoder/`, `mixture.yaml`, `data_usage.json` and, with a benchmark, `metrics.json`. With
    dev sets the encoder is that of the best step, which `best_step.json` names.
    """
    names = [domain.name for domain in domains]
    sizes = {domain.name: len(domain) for domain in domains}
    mixture = configured_mixture(config, sizes, domains)
    if is_first_process():
        write_configured_mixture(config, mixture, domains)
    domains = mixture.used_rows(domains)
    sets = benchmark_sets(config.benchmark) if config.benchmark else None
    encoder = configured_encoder(config, config.model.path, trained=True)
    warn_of_temperature(encoder, settings.temperature)
    require_room_for_queries(domains, encoder.tokenizer, encoder.query_tokens, encoder.templates)
    data = data_module(config, domains, encoder, mixture.probability)
    _write_usage(config, data, mixture.probability, config.trainer.steps)
    module = FinetuneModule(
        encoder,
        names,
        [mixture.loss_scale[name] for name in names],
        settings.temperature,
        optimisation(config),
        config.seed,
        settings.mask_duplicates,
        settings.loss,
    )
    steps = _train(config, module, data, Throughput(encoder), dev_sets, KeptParameters(module))
    _write_usage(config, data, mixture.probability, steps)
    folder = Path(config.run_dir) / "encoder"
    encoder.save(folder)
    barrier()
    if sets is not None:
        del module, encoder  # the evaluation needs their room, and no shards
        retrievers = encoder_retrievers(
            mixture_label(config), configured_encoder(config, str(folder))
        )
        evaluate_and_print(retrievers, sets, Path(config.run_dir))


def fit_language_model(config: Config, settings: MNTPConfig, domains: list[Domain]) -> None:
    """Adapt a decoder to tokens that see both sides; writes `encoder/` and `data_usage.json`."""
    rows = sum(map(len, domains))
    share = {domain.name: len(domain) / rows for domain in domains}
    model = configured_language_model(config)
    data = passage_data(config, settings, domains, model)
    _write_usage(config, data, share, config.trainer.steps)
    module = MNTPModule(model, list(share), optimisation(config), config.seed)
    _train(config, module, data, Throughput(model), [], KeptParameters(module))
    model.save(Path(config.run_dir) / "encoder", adapted=True)
    barrier()


def _train(
    config: Config,
    module: EncoderModule,
    data: RetrievalDataModule,
    throughput: Throughput,
    dev_sets: list[DevSet],
    kept: Kept,
) -> int:
    """Run the Trainer to the configured step, or until the dev sets say that it is enough.

    With dev sets, what trains is then as it was after the best step.

    Returns:
        the number of steps done.

    Raises:
        KeyboardInterrupt: the user stopped it; Lightning would end the process with exit code 1.
        RunStopped: a signal asked for it, and there is a checkpoint.
        NonFiniteError: rows whose loss is NaN or infinite; they are in `diagnostics/`, by id.
        ResourceError: the memory or the disk does not suffice.
    """
    validation = configured_validation(config, module, dev_sets, kept, throughput)
    start, depends = _start(config, module)
    data.step = step_of(start) if start else 0
    folder = Path(config.run_dir) / CHECKPOINTS
    checkpoints = Checkpoints(folder, config.trainer.checkpoint_every, depends)
    trainer = Trainer(
        max_steps=config.trainer.steps,
        max_epochs=-1,
        devices=local_processes(),
        num_nodes=world_size() // local_processes(),
        strategy=strategy(
            config.strategy.kind, config.trainer.devices, config.strategy.cpu_offload
        ),
        precision=config.trainer.precision,  # type: ignore[arg-type]
        logger=loggers(config, data.step),
        callbacks=[
            throughput,
            *([validation] if validation else []),
            Progress(config.name),
            checkpoints,
            StopRequests(checkpoints, config.trainer.max_hours),
        ],
        log_every_n_steps=config.trainer.log_every,
        # SLURM's variables say nothing of how we were started.
        plugins=[TorchElasticEnvironment() if world_size() > 1 else LightningEnvironment()],
        use_distributed_sampler=False,  # our samplers slice by rank themselves
        enable_checkpointing=False,  # ours writes them
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=config.run_dir,
    )
    # Lightning removes torch's handler of loader processes that end, and torch sets it only once in
    # a process, so without this private call a chain's later stages would not learn of such an end.
    signal_handling._set_SIGCHLD_handler()
    with _explained(config, trainer):
        trainer.fit(module, data, ckpt_path=start)
    if validation is not None:
        validation.end_with_best()
        write_best_step(config, validation.best, trainer.global_step)
    return trainer.global_step


def _start(config: Config, module: EncoderModule) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint to resume from, if any, and what new ones depend on (in the first process)."""
    depends, start = {}, None
    if is_first_process():
        run_dir = Path(config.run_dir)
        depends = result_dependencies(config, read_checked_json(run_dir / RECORD)["inputs"])
        start = checkpoint_to_resume(config, depends)
        if config.trainer.checkpoint_every is not None:
            trained = [p for p in module.parameters() if p.requires_grad]
            # Each with AdamW's two moments, and once more as it was at the best step.
            copies = 3 if config.validation is None or isinstance(config.module, TDROConfig) else 4
            size = copies * sum(p.numel() * p.element_size() for p in trained)
            require_room(run_dir / CHECKPOINTS, size)
    return from_first(start), depends


@contextmanager
def _explained(config: Config, trainer: Trainer) -> Iterator[None]:
    """Turn what ends a training into errors that say what to do; see `_train`."""
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except NonFiniteError as error:
        if error.rows:
            name = f"nonfinite-step-{trainer.global_step}-rank-{rank()}.json"
            write_json(Path(config.run_dir) / "diagnostics" / name, error.rows)
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ResourceError(
            f"out of memory in step {trainer.global_step} ({str(error).partition(chr(10))[0]}); "
            "lower trainer.chunk_tokens, trainer.kept_tokens or data.batch_size, or set "
            "strategy.activation_checkpointing=true or strategy=fsdp; `stage=plan` estimates them"
        ) from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader"):
            raise
        raise ResourceError(
            f"a loader process ended or hangs ({str(error).partition(chr(10))[0]}): memory or "
            f"/dev/shm may not hold data.workers={config.data.workers} of them; lower it"
        ) from None


def _write_usage(
    config: Config, data: RetrievalDataModule, probability: dict[str, float], steps: int
) -> None:
    """Say how often the rows of each domain are drawn in the first steps."""
    if not is_first_process():
        return
    drawn = data.sampler().rows_drawn(steps)
    usage = {
        domain.name: {
            "rows": len(domain),
            "drawn": count,
            "epochs": count / len(domain),
            "probability": probability[domain.name],
        }
        for domain, count in zip(data.dataset.domains, drawn, strict=True)
    }
    write_json(Path(config.run_dir) / "data_usage.json", usage)


def _write_weights(
    config: Config, settings: TDROConfig, domains: list[Domain], weights: DomainWeights
) -> None:
    def named(values: torch.Tensor) -> dict[str, Any]:
        return dict(zip(weights.names, values.tolist(), strict=True))

    lineage = {
        "reference": settings.reference,
        "reference_sha256": fingerprint(Path(settings.reference)) if settings.reference else None,
        "domains": {domain.name: domain.fingerprint for domain in domains},
        "steps": weights.updates,
        "absences": named(weights.absences),
        "module": {k: v for k, v in asdict(settings).items() if k not in WITHOUT_EFFECT["module"]},
        "seed": config.seed,
    }
    content = WeightsFile(
        last=named(weights.last),
        size={domain.name: len(domain) for domain in domains},
        mean=named(weights.mean),
        ema=named(weights.ema),
        lineage=lineage,
    )
    write_weights(Path(config.run_dir) / "weights.json", content)
