"""Our steps and our encoding against their floors and against the same work done otherwise.

One table: medians and ratios over interleaved repeats, on the same rows, weights and threads, and
the memory that each adds. See README.md beside this file.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import CASES, ROOFLINE
from rates import counted_seconds, measured_rates, roofline_table
from results import comparison_table, comparisons, notes, surroundings
from rounds import growth
from scaling import scaled, scaling_table
from workbench import Case, Choice, Workbench

from tdro_lightning.console.libraries import quiet_libraries
from tdro_lightning.models.tokens import length_chunks, padded_tokens
from tdro_lightning.report.tables import markdown_table
from tdro_lightning.training.roofline import Kernels

DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {
        "model": str(Path(__file__).with_name("small.yaml")),
        "lora_model": str(Path(__file__).with_name("wide.yaml")),
        "deep_model": str(Path(__file__).with_name("deep.yaml")),
        "tdro_batch": 25,
        "finetune_batch": 128,
        "deep_batch": 6,
        "minilm_model": str(Path(__file__).with_name("minilm.yaml")),
        "repeated_batch": 512,
        "texts": 512,
        "chunk_tokens": 512,
        "kept_tokens": 10**9,
    },
    "cuda": {
        "model": "qwen05b",
        "lora_model": "qwen05b",
        "deep_model": str(Path(__file__).with_name("deep.yaml")),
        "tdro_batch": 256,
        "finetune_batch": 2048,
        "deep_batch": 512,
        "minilm_model": str(Path(__file__).with_name("minilm.yaml")),
        "repeated_batch": 512,
        "texts": 20_000,
        "chunk_tokens": 8192,
        "kept_tokens": 32_768,
    },
}
AGREEMENT = 1e-4


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print a table, and append the same as a line of JSON to `--output`."""
    given = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options = parser.parse_args(given)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU here; give --device cpu")
    quiet_libraries()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "The number of training batches")  # there are few rounds
    choice = _choice(options)
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(choice, Path(folder))
        if options.peak:
            found: dict[str, Any] = {"peak_mb": peak(bench, options.peak)}
            print(json.dumps(found))
            return found
        if options.scaling:
            found = {"scaling": scaled(bench)}
            tables = [scaling_table(title, fit) for title, fit in found["scaling"].items()]
        else:
            found = compared(bench, given, peaks=options.peaks)
            tables = [
                comparison_table(found["comparisons"]),
                roofline_table(found["roofline"], found["seconds"]),
            ]
    models = ("model", "lora_model", "deep_model", "minilm_model")
    names = {key: Path(getattr(choice, key)).name for key in models}
    found["settings"] = asdict(choice) | names
    found |= surroundings()
    print("\n\n".join(markdown_table(table) for table in tables), end="\n\n")
    shown = ("comparisons", "roofline", "seconds", "scaling")
    print(notes({k: v for k, v in found.items() if k not in shown}))
    if options.output is not None:
        with options.output.open("a", encoding="utf-8") as stream:
            stream.write(f"{json.dumps(found)}\n")
    return found


def compared(bench: Workbench, given: list[str], *, peaks: bool) -> dict[str, Any]:
    """Measure every case, then the memory of each contender in a process of its own.

    Args:
        bench: makes what is measured.
        given: the command line, for those processes.
        peaks: whether memory is measured.
    """
    taken: dict[str, list[float]] = {}
    found: dict[str, Any] = {"padding": {}, "difference": {}, "other_settings": {}, "roofline": {}}
    rates = measured_rates(bench.choice.device)
    found["rates"] = asdict(rates)
    for make, names in CASES.items():
        case = make(bench)
        if case.checked is not None:
            found["difference"][names[0]] = agreeing(case, names[0])
        rounds = bench.seconds(case, 1 + bench.choice.repeats, names)
        taken |= {name: rounds[name][1:] for name in names}
        chunks = length_chunks(case.lengths, bench.choice.chunk_tokens)
        tokens = padded_tokens(case.lengths, chunks)
        found["padding"][names[0]] = 1 - int(case.lengths.sum()) / tokens
        if case.setting is not None:
            option, value = case.setting
            found["other_settings"][option] = value
            given = [*given, f"--{option.replace('_', '-')}={value}"]
        for name in (name for name in names if name in ROOFLINE):
            with Kernels() as counted:
                bench.seconds(case, 1, [name])
            found["roofline"][name] = counted_seconds(counted.kernels, rates)
        print(f"{names[0]}: timed", file=sys.stderr, flush=True)
    memory = {name: _peak_of(name, given) for name in taken} if peaks else {}
    return {"comparisons": comparisons(taken, memory), **found, "seconds": taken}


def agreeing(case: Case, name: str) -> float:
    """The largest difference between what two contenders compute of the same rows.

    Raises:
        ArithmeticError: it is too large, so that a comparison of times would mean nothing.
    """
    assert case.checked is not None
    ours, theirs = (np.asarray(compute()) for compute in case.checked)
    if not np.allclose(ours, theirs, rtol=AGREEMENT, atol=AGREEMENT):
        raise ArithmeticError(f"{name}: ours computes {ours}, the other {theirs}")
    return float(abs(ours - theirs).max())


def peak(bench: Workbench, name: str) -> float:
    """MB that one contender adds when it is done once."""
    make = next(make for make, names in CASES.items() if name in names)
    case = make(bench)
    return growth(lambda: bench.seconds(case, 1, [name]))


def _peak_of(name: str, given: list[str]) -> float:
    command = [sys.executable, __file__, *given, f"--peak={name}"]
    printed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(printed.splitlines()[-1])["peak_mb"]


def _choice(options: argparse.Namespace) -> Choice:
    defaults = DEFAULTS[options.device]
    named = {field.name: getattr(options, field.name) for field in fields(Choice)}
    return Choice(**{k: defaults.get(k) if v is None else v for k, v in named.items()})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--model", help="as of gpu_step.py; default small.yaml, on a GPU qwen05b")
    add("--lora-model", help="the same, of the two runs; default wide.yaml, on a GPU qwen05b")
    add("--deep-model", help="the same, of the deep fine-tuning step; default deep.yaml")
    add("--lora", action="store_true", help="train a LoRA instead of every weight")
    add("--tdro-batch", type=int, help="queries, each with 7 hard negatives")
    add("--finetune-batch", type=int, help="queries, each with 1 hard negative")
    add("--deep-batch", type=int, help="the same, of the deep model")
    add("--minilm-model", help="the same, of the second steps on repeated passages; minilm.yaml")
    add("--repeated-batch", type=int, help="queries of those, each with 7 hard negatives")
    add("--texts", type=int, help="passages that are encoded")
    add("--chunk-tokens", type=int, help="padded tokens in one of our forward passes")
    add("--kept-tokens", type=int, help="padded tokens of which our tDRO step keeps activations")
    for option, what in (
        ("--padded-batch", "texts in a mini-batch of the padded step"),
        ("--mini-batch-tokens", "of sentence-transformers"),
        ("--deep-mini-batch-tokens", "the same, with the deep model"),
        ("--encode-batch", "texts in a batch of sentence-transformers"),
    ):
        add(option, type=int, help=f"{what}; default the fastest")
    add("--repeats", type=int, default=5)
    add("--seed", type=int, default=0)
    add("--no-peaks", dest="peaks", action="store_false", help="do not measure memory")
    add("--scaling", action="store_true", help="time against batch size and number of domains")
    add("--output", type=Path, help="append the result as a line of JSON to this file")
    add("--peak", help=argparse.SUPPRESS)  # the one contender whose memory this process measures
    return parser


if __name__ == "__main__":
    main()
