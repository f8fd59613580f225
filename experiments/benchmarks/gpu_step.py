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
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from steps import NEGATIVES, Settings, batches, encoder, module, shape, trained

from tdro_lightning.files import GIGA
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.planning.memory import estimate
from tdro_lightning.planning.model import model_shape
from tdro_lightning.report.tables import Column, Table, cells, terminal_table
from tdro_lightning.training.callbacks.throughput import useful_flops
from tdro_lightning.training.roofline import GPUS


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


def measured(stage: str, settings: Settings, model: dict[str, Any]) -> dict[str, Any]:
    """Train some steps of a stage and describe the timed ones."""
    if settings.device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    negatives = NEGATIVES[stage] if settings.negatives is None else settings.negatives
    proxy = encoder(settings, model, settings.seed, trained=True)
    flops = useful_flops(proxy, references=int(stage == "tdro"))
    estimated = _estimated(stage, settings, proxy, negatives)
    made = batches(stage, settings, negatives, model["architecture"]["vocab_size"])
    all_seconds = trained(module(stage, settings, model, proxy), made, settings)
    seconds = statistics.mean(all_seconds)
    timed = made[settings.warmup :]
    tokens = statistics.mean(len(b.queries.ids) + len(b.passages.ids) for b in timed)
    hardware = _hardware(settings.device)
    known = (gpu.half / 1e12 for name, gpu in GPUS.items() if name in hardware)
    peak = settings.peak_tflops or next(known, None)
    return {
        "stage": stage,
        "step_seconds": round(seconds, 4),
        "all_step_seconds": [round(value, 4) for value in all_seconds],
        "passages_per_second": round(settings.batch * (1 + negatives) / seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1),
        "mfu": round(flops * tokens / seconds / (peak * 1e12), 4) if peak else None,
        "peak_gb": round(_peak_bytes(settings.device) / GIGA, 2),
        "estimated_gb": round(estimated / GIGA, 2),
        "tokens": round(tokens),
        "flops_per_token": flops,
        "peak_tflops": peak,
        "hardware": hardware,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "settings": {**asdict(settings), "stage": stage, "negatives": negatives, "output": None},
    }


def _estimated(stage: str, settings: Settings, proxy: Encoder, negatives: int) -> int:
    """What `stage=plan` says of this run."""
    limits = settings.query_tokens + (1 + negatives) * settings.passage_tokens
    return estimate(
        model_shape(proxy.backbone),
        tokens=min(settings.batch * limits, max(settings.chunk_tokens, settings.kept_tokens)),
        vectors=settings.batch * (2 + negatives),
        mixed=settings.precision == "bf16-mixed",
        checkpointing=settings.activation_checkpointing,
        reference=stage == "tdro",
    ).total


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
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--model", help="a file of conf/model, or a .yaml like them")
    add("--stage", choices=("tdro", "finetune", "both"), help="what is measured")
    add("--full", action="store_true", help="train every weight, in float32, instead of a LoRA")
    add("--lora-dropout", type=float, help="share of a LoRA's inputs")
    add("--batch", type=int, help="queries in a step")
    add("--negatives", type=int, help="a query; None is 7 in tdro, 1 in finetune")
    add("--query-tokens", type=int, help="longest query")
    add("--passage-tokens", type=int, help="longest passage")
    add("--chunk-tokens", type=int, help="padded tokens in one forward pass")
    add("--kept-tokens", type=int, help="padded tokens that keep activations")
    add("--activation-checkpointing", action="store_true", help="of the encoder that trains")
    add("--steps", type=int, help="timed steps")
    add("--warmup", type=int, help="steps before them")
    add("--device", choices=("cuda", "cpu"), help="where")
    add("--precision", choices=("bf16-mixed", "32-true"), help="of the Trainer")
    add("--peak-tflops", type=float, help="of the device, for MFU; None is a known GPU's")
    add("--seed", type=int, help="of weights and texts")
    add("--output", type=Path, help="append the JSON lines to this file")
    parser.set_defaults(**asdict(Settings()))
    return parser


if __name__ == "__main__":
    main()
