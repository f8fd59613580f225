"""A mixture in the trainer of sentence-transformers: the same draws as in our fine-tuning."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, interleave_datasets
from torch import nn
from torch.utils.data import BatchSampler, ConcatDataset, SequentialSampler

from tdro_lightning import load_mixture
from tdro_lightning.data.randomness import choose_rows
from tdro_lightning.data.samplers import HomogeneousBatches
from tdro_lightning.dro.mixture_file import MixtureFile, MixtureShare, write_mixture
from tdro_lightning.errors import ConfigError
from tests.processes import in_processes

STEPS = 50
SHARES = {
    "large": MixtureShare(0.5, 100, 100),
    "dropped": MixtureShare(0.0, 9, 9),
    "part": MixtureShare(0.3, 12, 40),
    "small": MixtureShare(0.2, 6, 6),
}
MIXTURE = MixtureFile("given", 7, 8, STEPS, SHARES)
NAMES = ["large", "part", "small"]


class Sum(nn.Module):
    """A loss of the features' ids that has a gradient: what is trained does not matter here."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Any, labels: Any) -> torch.Tensor:
        return sum(self.model(part)["sentence_embedding"].square().mean() for part in features)


def texts(name: str) -> list[str]:
    return [f"{name} {row}" for row in range(SHARES[name].of)]


def expected(batch_size: int = 8, world_size: int = 1) -> list[list[str]]:
    """The texts of each global batch, from our sampler; of `part`, the rows that are used."""
    used = {n: texts(n) for n in NAMES}
    used["part"] = [used["part"][row] for row in choose_rows("part", 40, 12)]
    sampler = HomogeneousBatches(
        NAMES, [len(used[name]) for name in NAMES], batch_size, STEPS, 7,
        world_size=world_size, probability=[0.5, 0.3, 0.2],
    )  # fmt: skip
    return [
        [used[NAMES[domain]][row] for _, domain, row in sampler.global_batch(step)]
        for step in range(STEPS)
    ]


def train(folder: Path, batch_size: int) -> list[list[str]]:
    """Train with the real trainer; the texts of each batch of this process."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "large": 1, "small": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu")
    mixture = load_mixture(folder / "mixture.yaml")
    rows = {n: Dataset.from_dict({"a": texts(n), "b": texts(n)}) for n in reversed(SHARES)}
    seen: list[list[str]] = []
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / f"out-{os.environ.get('RANK', 0)}"),
        per_device_train_batch_size=batch_size,
        max_steps=mixture.steps,
        multi_dataset_batch_sampler=mixture,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=mixture.arrange(rows), loss=Sum(model)
    )
    collate = trainer.data_collator

    def noted(examples: list[dict[str, str]]) -> Any:
        seen.append([example["a"] for example in examples])
        return collate(examples)

    noted.valid_label_columns = collate.valid_label_columns  # type: ignore[attr-defined]
    trainer.data_collator = noted
    trainer.train()
    return seen


def test_the_real_trainer_draws_as_ours(tmp_path: Path) -> None:
    """The same domain at every step and, at the same batch size, the same rows."""
    write_mixture(tmp_path / "mixture.yaml", MIXTURE)
    assert train(tmp_path, 8) == expected()
    drawn = [batch[0].split()[0] for batch in train(tmp_path, 4)]
    assert drawn == [batch[0].split()[0] for batch in expected()]
    assert {*drawn} == {*NAMES}


def _train_in_process(rank: int, folder: Path, port: int) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    (folder / f"seen-{rank}.json").write_text(json.dumps(train(folder, 4)))


@pytest.mark.nightly
def test_two_processes_share_each_batch(tmp_path: Path) -> None:
    write_mixture(tmp_path / "mixture.yaml", MIXTURE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    in_processes(2, _train_in_process, tmp_path, port)
    seen = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2)]
    batches = expected(8, world_size=2)
    assert seen[0] == [batch[::2] for batch in batches]
    assert seen[1] == [batch[1::2] for batch in batches]


def sampled(content: MixtureFile, sizes: dict[str, int], tmp_path: Path, epochs: int = 1) -> Any:
    """Batches of numbers in the concatenation, over some epochs."""
    write_mixture(tmp_path / "mixture.yaml", content)
    mixture = load_mixture(tmp_path / "mixture.yaml")
    rows = mixture.arrange({name: [*range(size)] for name, size in sizes.items()})
    samplers = [BatchSampler(SequentialSampler(part), 8, False) for part in rows.values()]
    sampler = mixture(ConcatDataset(rows.values()), samplers)  # type: ignore[arg-type]
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        assert len(sampler) == len(batches := [*sampler])
        found += batches
    return found


def test_a_further_epoch_continues_the_draws(tmp_path: Path) -> None:
    sizes = {name: share.of for name, share in SHARES.items()}
    twice = sampled(MIXTURE, sizes, tmp_path, epochs=2)
    long = MixtureFile("given", 7, 8, 2 * STEPS, SHARES)
    assert twice == sampled(long, sizes, tmp_path)
    assert all(len({*batch}) == len(batch) for batch in twice)


def test_datasets_of_other_sizes_are_drawn_alike(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {name: share.of for name, share in SHARES.items()}
    other = sampled(MIXTURE, sizes | {"part": 55}, tmp_path)
    assert "part has 55 rows and had 40" in caplog.text
    firsts = [sum(batch[0] >= start for start in (100, 155)) for batch in other]
    assert firsts == [NAMES.index(batch[0].split()[0]) for batch in expected()]


def test_other_datasets_are_refused(tmp_path: Path) -> None:
    write_mixture(tmp_path / "mixture.yaml", MIXTURE)
    mixture = load_mixture(tmp_path / "mixture.yaml")
    with pytest.raises(ConfigError, match=r"missing \['part', 'small'\], unknown \['other'\]"):
        mixture.arrange({"large": 1, "other": 2})
    with pytest.raises(ConfigError, match="has 1 datasets and the mixture 3"):
        mixture(ConcatDataset([[1]]), [])  # type: ignore[list-item]
    scaled = {**SHARES, "small": MixtureShare(0.2, 6, 6, loss_scale=2.0)}
    write_mixture(tmp_path / "mixture.yaml", MixtureFile("loss", 7, 8, STEPS, scaled))
    with pytest.raises(ConfigError, match="scales the losses"):
        load_mixture(tmp_path / "mixture.yaml")


def test_interleaving_has_the_probabilities() -> None:
    """Of the library's own draws, within five standard deviations."""
    parts = [Dataset.from_dict({"name": [name] * 4000}) for name in NAMES]
    drawn = interleave_datasets(
        parts, probabilities=[0.5, 0.3, 0.2], seed=7, stopping_strategy="first_exhausted"
    )["name"]
    for name, p in zip(NAMES, (0.5, 0.3, 0.2), strict=True):
        deviation = (p * (1 - p) / len(drawn)) ** 0.5
        assert abs([*drawn].count(name) / len(drawn) - p) < 5 * deviation
