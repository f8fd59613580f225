"""Time and memory of one tDRO step and one fine-tuning step, at a published shape.

Weights are random and texts are random token ids, so nothing is downloaded; the modules, the
Trainer and the precision are those of a run. See README.md beside this file.
"""

import argparse
import gc
import json
import logging
import resource
import statistics
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from lightning import Callback, LightningModule, Trainer
from omegaconf import OmegaConf
from torch.utils.data import DataLoader
from transformers import Qwen2Tokenizer

from tdro_lightning.data.collator import Batch
from tdro_lightning.dro.measurement import Measurement
from tdro_lightning.dro.weights import DomainWeights
from tdro_lightning.errors import ConfigError
from tdro_lightning.memory import GIGA, estimate
from tdro_lightning.modules.finetune import FinetuneModule
from tdro_lightning.modules.tdro import TDROModule
from tdro_lightning.optim import Optimisation
from tdro_lightning.parallel import checkpoint_activations
from tdro_lightning.report.tables import Column, Table, cells, terminal_table
from tdro_lightning.retrieval.adapter import Lora, attach_lora
from tdro_lightning.retrieval.encoder import Encoder
from tdro_lightning.retrieval.shapes import from_architecture
from tdro_lightning.retrieval.tokenizer import TextTokenizer
from tdro_lightning.retrieval.tokens import Tokens
from tdro_lightning.stages.plan import counted

MODELS = Path(__file__).resolve().parents[2] / "conf" / "model"
DOMAINS = 25
TEMPERATURE = 0.002
NEGATIVES = {"tdro": 7, "finetune": 1}  # the paper's
H200_TFLOPS = 989.0  # dense bf16 of an H100 or H200, from their data sheets


@dataclass(frozen=True)
class Settings:
    """The command line."""

    model: str
    stage: str
    full: bool
    batch: int
    negatives: int | None
    query_tokens: int
    passage_tokens: int
    chunk_tokens: int
    kept_tokens: int
    activation_checkpointing: bool
    steps: int
    warmup: int
    device: str
    precision: str
    peak_tflops: float | None
    seed: int
    output: Path | None


class Stopwatch(Callback):
    """Seconds of each training step, with the GPU's work finished at both ends."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._began = _now()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop it."""
        self.seconds.append(_now() - self._began)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print a table and one JSON line a stage, and append the lines to `--output`."""
    parser = _parser()
    settings = Settings(**vars(parser.parse_args(arguments)))
    if settings.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU here; give --device cpu")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "Found .* in eval mode|.*isinstance|.*many workers")
    model = shape(settings.model)
    stages = ("tdro", "finetune") if settings.stage == "both" else (settings.stage,)
    results = [measured(stage, settings, model) for stage in stages]
    print(terminal_table(_table(results)))
    lines = [json.dumps(result) for result in results]
    print("\n".join(lines))
    if settings.output is not None:
        with settings.output.open("a", encoding="utf-8") as stream:
            stream.writelines(f"{line}\n" for line in lines)
    return results


def shape(name: str) -> dict[str, Any]:
    """A model file: a name in conf/model, or the path of a .yaml file.

    Raises:
        ConfigError: the file has no architecture.
    """
    path = Path(name) if name.endswith(".yaml") else MODELS / f"{name}.yaml"
    model = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(model, dict)
    if "architecture" not in model:
        raise ConfigError(f"--model {name}: {path} has no section `architecture`")
    return {str(key): value for key, value in model.items()}


def measured(stage: str, settings: Settings, model: dict[str, Any]) -> dict[str, Any]:
    """Train some steps of a stage and describe the timed ones."""
    if settings.device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    negatives = NEGATIVES[stage] if settings.negatives is None else settings.negatives
    proxy = encoder(settings, model, settings.seed, trained=True)
    dense, estimated = dense_parameters(proxy), _estimated(stage, settings, proxy, negatives)
    made = batches(stage, settings, negatives, model["architecture"]["vocab_size"])
    all_seconds = trained(module(stage, settings, model, proxy), made, settings)
    seconds = statistics.mean(all_seconds)
    timed = made[settings.warmup :]
    tokens = statistics.mean(len(b.queries.ids) + len(b.passages.ids) for b in timed)
    passes = (6 if settings.full else 4) + (2 if stage == "tdro" else 0)
    peak = settings.peak_tflops or (H200_TFLOPS if settings.device == "cuda" else None)
    return {
        "stage": stage,
        "step_seconds": round(seconds, 4),
        "all_step_seconds": [round(value, 4) for value in all_seconds],
        "passages_per_second": round(settings.batch * (1 + negatives) / seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1),
        "mfu": round(passes * dense * tokens / seconds / (peak * 1e12), 4) if peak else None,
        "peak_gb": round(_peak_bytes(settings.device) / GIGA, 2),
        "estimated_gb": round(estimated / GIGA, 2),
        "tokens": round(tokens),
        "dense_parameters": dense,
        "peak_tflops": peak,
        "hardware": _hardware(settings.device),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "settings": {**asdict(settings), "stage": stage, "negatives": negatives, "output": None},
    }


def trained(module: LightningModule, made: list[Batch], settings: Settings) -> list[float]:
    """Train on the batches; seconds of each step after the warm-up."""
    watch = Stopwatch()
    trainer = Trainer(
        max_steps=len(made),
        max_epochs=-1,
        accelerator="gpu" if settings.device == "cuda" else "cpu",
        devices=1,
        precision=settings.precision,  # type: ignore[arg-type]
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, DataLoader(made, batch_size=None))  # type: ignore[arg-type]
    return watch.seconds[settings.warmup :]


def dense_parameters(proxy: Encoder) -> int:
    """Parameters that every token is multiplied with: no embeddings, no adapter."""
    embeddings = proxy.backbone.get_input_embeddings().weight.numel()
    named = proxy.backbone.named_parameters()
    return sum(p.numel() for name, p in named if "lora_" not in name) - embeddings


def encoder(settings: Settings, model: dict[str, Any], seed: int, *, trained: bool) -> Encoder:
    """An encoder of random weights; the one that trains has the adapter, unless it is full."""
    dtype = torch.float32 if settings.full else getattr(torch, model["dtype"])
    backbone = from_architecture(model["architecture"], settings.device, dtype, seed)
    made = Encoder(
        attach_lora(backbone, Lora()) if trained and not settings.full else backbone,
        # Never asked for a token: the batches are made of ids.
        TextTokenizer(
            Qwen2Tokenizer().train_new_from_iterator(["a"], 257, show_progress=False), "last"
        ),
        "last",
        settings.query_tokens,
        settings.passage_tokens,
        settings.chunk_tokens,
        settings.kept_tokens,
    )
    if trained and settings.activation_checkpointing:
        checkpoint_activations(made)
    return made


def module(
    stage: str, settings: Settings, model: dict[str, Any], proxy: Encoder
) -> LightningModule:
    """The module of a stage, set as in the paper."""
    optimisation = Optimisation(
        steps=1000, lr=1e-4, warmup_steps=100, min_lr_ratio=0.1, weight_decay=0.1, clip_norm=1.0
    )
    names = [f"domain {i}" for i in range(DOMAINS)]
    if stage == "finetune":
        scale = [1.0] * DOMAINS
        return FinetuneModule(
            encoder=proxy,
            names=names,
            loss_scale=scale,
            temperature=TEMPERATURE,
            optimisation=optimisation,
            seed=settings.seed,
        )
    return TDROModule(
        proxy=proxy,
        reference=encoder(settings, model, settings.seed + 1, trained=False),
        weights=DomainWeights(names, learning_rate=0.02),
        measurement=Measurement("ratio"),
        temperature=TEMPERATURE,
        optimisation=optimisation,
        seed=settings.seed,
    )


def batches(stage: str, settings: Settings, negatives: int, vocabulary: int) -> list[Batch]:
    """One batch a step, of texts between a quarter of their limit and the limit."""
    random = np.random.default_rng(settings.seed)

    def texts(count: int, limit: int) -> Tokens:
        lengths = random.integers(-(-limit // 4), limit, count, endpoint=True)
        ids = random.integers(vocabulary, size=lengths.sum())
        return Tokens(torch.from_numpy(ids), torch.from_numpy(lengths))

    rows = torch.arange(settings.batch)
    return [
        Batch(
            queries=texts(settings.batch, settings.query_tokens),
            passages=texts(settings.batch * (1 + negatives), settings.passage_tokens),
            domain=rows % DOMAINS if stage == "tdro" else torch.zeros_like(rows),
            query_ids=tuple(str(row) for row in range(settings.batch)),
        )
        for _ in range(settings.warmup + settings.steps)
    ]


def _estimated(stage: str, settings: Settings, proxy: Encoder, negatives: int) -> int:
    """What `stage=plan` says of this run."""
    limits = settings.query_tokens + (1 + negatives) * settings.passage_tokens
    return estimate(
        counted(proxy.backbone),
        tokens=min(settings.batch * limits, max(settings.chunk_tokens, settings.kept_tokens)),
        vectors=settings.batch * (2 + negatives),
        mixed=settings.precision == "bf16-mixed",
        checkpointing=settings.activation_checkpointing,
        reference=stage == "tdro",
    ).total


def _now() -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _hardware(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def _table(results: list[dict[str, Any]]) -> Table:
    columns = (
        Column("stage", numeric=False),
        Column("step", "s"),
        Column("passages/s"),
        Column("tokens/s"),
        Column("MFU", "%"),
        Column("peak", "GB"),
        Column("estimate", "GB"),
    )
    rows = tuple(
        cells(
            (
                result["stage"],
                f"{result['step_seconds']:.2f}",
                f"{result['passages_per_second']:,.1f}",
                f"{result['tokens_per_second']:,.0f}",
                "–" if result["mfu"] is None else f"{100 * result['mfu']:.1f}",
                f"{result['peak_gb']:.1f}",
                f"{result['estimated_gb']:.1f}",
            )
        )
        for result in results
    )
    return Table("Steps", "", columns, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="qwen05b", help="a file of conf/model, or a .yaml like them")
    add("--stage", default="both", choices=("tdro", "finetune", "both"))
    add("--full", action="store_true", help="train every weight, in float32, instead of a LoRA")
    add("--batch", type=int, default=256, help="queries in a step")
    add("--negatives", type=int, help="a query; default 7 in tdro, 1 in finetune")
    add("--query-tokens", type=int, default=128, help="longest query")
    add("--passage-tokens", type=int, default=512, help="longest passage")
    add("--chunk-tokens", type=int, default=16384, help="padded tokens in one forward pass")
    add("--kept-tokens", type=int, default=16384, help="padded tokens that keep activations")
    add("--activation-checkpointing", action="store_true")
    add("--steps", type=int, default=5, help="timed steps")
    add("--warmup", type=int, default=2, help="steps before them")
    add("--device", default="cuda", choices=("cuda", "cpu"))
    add("--precision", default="bf16-mixed", choices=("bf16-mixed", "32-true"))
    add("--peak-tflops", type=float, help="of the device, for MFU; default 989 on a GPU")
    add("--seed", type=int, default=0)
    add("--output", type=Path, help="append the JSON lines to this file")
    return parser


if __name__ == "__main__":
    main()
