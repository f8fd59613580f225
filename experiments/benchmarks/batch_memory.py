"""Peak memory of a fine-tuning step against its batch size, on a CPU.

Each case runs in a process of its own; what counts is how much its memory grows during one step.
"""

import json
import logging
import subprocess
import sys
import warnings
from typing import Any

from rounds import MEGA, growth
from steps import Settings, batches, encoder, module, trained

from tdro_lightning.report.tables import Column, Table, cells, terminal_table

MODEL: dict[str, Any] = {
    "dtype": "float32",
    "architecture": {
        "model_type": "qwen2",
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 8000,
    },
}
CHUNK, EVERYTHING = 16_384, 10**9
CASES = {  # batch size, tokens whose activations are kept
    "256, cached": (256, CHUNK),
    "512, cached": (512, CHUNK),
    "1024, cached": (1024, CHUNK),
    "2048, cached": (2048, CHUNK),
    "256, all kept": (256, EVERYTHING),
    "512, all kept": (512, EVERYTHING),
}


def grown(batch: int, kept_tokens: int) -> float:
    """MB by which this process grows in one step."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    settings = Settings(
        stage="finetune",
        full=True,
        batch=batch,
        query_tokens=64,
        passage_tokens=128,
        chunk_tokens=CHUNK,
        kept_tokens=kept_tokens,
        steps=1,
        warmup=0,
        device="cpu",
        precision="32-true",
    )
    made = batches("finetune", settings, 1, MODEL["architecture"]["vocab_size"])
    stage = module("finetune", settings, MODEL, encoder(settings, MODEL, 0, trained=True))
    return growth(lambda: trained(stage, made, settings))


def embeddings(batch: int) -> float:
    """MB of a batch's embeddings and their gradient: a query and two passages a row."""
    return 2 * batch * 3 * MODEL["architecture"]["hidden_size"] * 4 / MEGA


def main() -> None:
    """Measure every case and print a table."""
    found = {}
    for label, case in CASES.items():
        command = [sys.executable, __file__, json.dumps(case)]
        found[label] = float(subprocess.run(command, capture_output=True, check=True).stdout)
        print(f"{label}: {found[label]:.0f} MB", flush=True)
    first = found["256, cached"]
    rows = tuple(
        cells((label, f"{peak:,.0f}", f"{embeddings(CASES[label][0]):.1f}", f"{peak / first:.2f}"))
        for label, peak in found.items()
    )
    columns = (
        Column("batch", numeric=False),
        Column("peak", "MB"),
        Column("embeddings", "MB"),
        Column("peak / that of 256"),
    )
    print(terminal_table(Table("Memory of a step", "", columns, rows)))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(grown(*json.loads(sys.argv[1])))
    else:
        main()
