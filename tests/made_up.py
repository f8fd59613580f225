"""Small made-up domains and models for tests that train."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from tdro_lightning.data.jsonl import write_rows
from tdro_lightning.models.tiny import build_tiny_model
from tdro_lightning.training.datamodules import usable_workers
from tests.fixtures.models import bert_tokenizer

WORDS = [
    *("red", "blue", "green", "round", "square", "small", "large"),
    *("stone", "river", "cloud", "tree", "bird", "fish", "night", "day"),
]
needs_shared_memory = pytest.mark.skipif(
    usable_workers(1) == 0, reason="a loader process needs shared memory, and /dev/shm gives none"
)
TDRO = (  # a tDRO run in a folder of `write_inputs`
    "--config-dir=conf", "+experiment=tdro_qwen05b", "domains=made", "model.path=model",
    "model.lora=null", "module.reference=reference", "data.batch_size=6", "data.query_tokens=40",
    "data.passage_tokens=16", "data.workers=0", "trainer.precision=32-true",
    "logger.wandb=disabled", "run_dir=run",
)  # fmt: skip

CHEAP = (  # a run of a second, in a folder of `write_cheap_inputs`
    "--config-dir=conf", "+experiment=validate", "domains=made",
)  # fmt: skip


def rows(name: str, count: int, overlap: int, negatives: int = 7) -> list[dict]:
    """Rows whose positive shares `overlap` words with the query: fewer are harder."""
    random = np.random.default_rng(len(name) + overlap)
    made = []
    for i in range(count):
        words = list(random.permutation(WORDS))
        query, rest = words[:4], words[4:]
        passages = [" ".join([*query[:overlap], *rest[:3], f"{name}{i}"])]
        passages += [" ".join(random.permutation(WORDS)[:6]) for _ in range(negatives)]
        made.append(
            {
                "query_id": f"{name}-{i}",
                "query": f"{' '.join(query)} {i}",
                "positive_passages": [{"docid": "p", "title": "", "text": passages[0]}],
                "negative_passages": [
                    {"docid": f"n{j}", "title": "", "text": text}
                    for j, text in enumerate(passages[1:])
                ],
            }
        )
    return made


def write_domains(folder: Path, count: int = 40, share: int | None = None) -> dict[str, dict]:
    """Three domains of unequal difficulty in a folder, and their catalogue.

    With `share`, each so many rows that follow one another share their positive, which also is a
    negative of the row after them.
    """
    catalogue = {}
    for name, overlap in (("easy", 4), ("middle", 2), ("hard", 0)):
        made = rows(name, count, overlap)
        for number, row in enumerate(made if share else ()):
            row["positive_passages"] = made[number - number % share]["positive_passages"]
            row["negative_passages"][0] = {**made[number - 1]["positive_passages"][0], "docid": "n"}
        write_rows(folder / f"{name}.jsonl", made)
        catalogue[name] = {
            "file": f"{name}.jsonl",
            "prompts": [f"Find the {name} passage", "Find it"],
            "symmetric": False,
        }
    return catalogue


def write_domain_option(folder: Path, catalogue: dict[str, dict]) -> None:
    """Write `conf/domains/made.yaml` for rows in `rows`: `--config-dir=conf domains=made`."""
    lines = [
        f"  {name}: {{file: {entry['file']}, language: English, category: Test, size: null, "
        "symmetric: false, prompts: [Find it]}"
        for name, entry in catalogue.items()
    ]
    (folder / "conf" / "domains").mkdir(parents=True)
    option = ["root: rows", "hub: null", "only: null", "catalogue:", *lines]
    (folder / "conf" / "domains" / "made.yaml").write_text("\n".join(option) + "\n")


def write_cheap_inputs(folder: Path) -> None:
    """What the run of `CHEAP` reads: three domains of two rows."""
    write_domain_option(folder, write_domains(folder / "rows", count=2))


def tiny_model(folder: Path, seed: int = 0, layers: int = 1) -> str:
    """An untrained model folder with a tokenizer of 300 tokens."""
    texts = [row["query"] for row in rows("easy", 50, 2)]
    build_tiny_model(texts, folder, vocabulary=300, width=16, layers=layers, heads=2, seed=seed)
    return str(folder)


def cross_encoder_model(folder: Path, labels: int = 1) -> str:
    """An untrained Bert that reads two texts, with a tokenizer of 200 tokens."""
    tokenizer = bert_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        config = BertConfig(
            vocab_size=len(tokenizer), **sizes, num_attention_heads=2, initializer_range=0.3,
            num_labels=labels,
        )  # fmt: skip
        BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_inputs(folder: Path) -> Path:
    """What a small tDRO run reads: domains (`domains=made`), a model and a reference."""
    write_domain_option(folder, write_domains(folder / "rows"))
    tiny_model(folder / "model")
    tiny_model(folder / "reference", seed=1)
    return folder


@contextmanager
def unrounded_norms() -> Iterator[None]:
    """Norms in the model's precision; they round to float32 even in a float64 model."""

    def forward(self: Qwen2RMSNorm | LlamaRMSNorm, states: torch.Tensor) -> torch.Tensor:
        shape, epsilon = self.weight.shape, self.variance_epsilon
        return torch.nn.functional.rms_norm(states, shape, self.weight, epsilon)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qwen2RMSNorm, "forward", forward)
        patch.setattr(LlamaRMSNorm, "forward", forward)
        yield
