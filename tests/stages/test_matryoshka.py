"""A training whose first values are vectors of their own, through evaluation and export."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from tdro_lightning.assembly.evaluate import encoder_retrievers
from tdro_lightning.export.folder import write_merged
from tdro_lightning.losses.contrastive import all_passage_losses, sum_over_prefixes
from tdro_lightning.models.loading import load_encoder
from tests.command import assert_one_message
from tests.evaluation.judged_set import write_judged_set
from tests.fixtures.commands import Command
from tests.made_up import WORDS

GIVEN = (
    "--config-dir=conf", "+experiment=finetune_uniform", "domains=made", "model.path=model",
    "model.lora=null", "data.batch_size=4", "data.query_tokens=40", "data.passage_tokens=16",
    "data.workers=0", "trainer.steps=3", "trainer.precision=32-true", "logger.wandb=disabled",
    "optimiser.lr=0.05", "optimiser.warmup_steps=0", "run_dir=run", "model.pooling=last",
)  # fmt: skip
SIZES = (16, 8, 4)
TEXTS = [" ".join(WORDS[i : i + 3]) for i in range(8)]


def test_the_loss_is_the_sum_over_prefixes() -> None:
    """In float64 by hand, and so are its gradients."""
    random = np.random.default_rng(0)
    queries, passages = random.normal(size=(3, 8)), random.normal(size=(6, 8))
    positive, expected = np.array([0, 2, 4]), np.zeros(3)
    for size in (8, 4, 2):
        q, p = (
            v[:, :size] / np.linalg.norm(v[:, :size], axis=1)[:, None] for v in (queries, passages)
        )
        scores = q @ p.T / 0.1
        expected += np.log(np.exp(scores).sum(1)) - scores[np.arange(3), positive]
    ours = [torch.tensor(v, requires_grad=True) for v in (queries, passages)]
    losses = sum_over_prefixes(all_passage_losses, (8, 4, 2), *ours, torch.tensor(positive), 0.1)
    np.testing.assert_allclose(losses.detach().numpy(), expected, rtol=1e-9)
    assert torch.autograd.gradcheck(
        lambda q, p: sum_over_prefixes(
            all_passage_losses, (8, 4, 2), q, p, torch.tensor(positive), 0.1
        ),
        ours,
    )
    units = [torch.nn.functional.normalize(v, dim=1) for v in ours]
    plain = all_passage_losses(*units, torch.tensor(positive), 0.1)
    assert torch.equal(
        plain, sum_over_prefixes(all_passage_losses, (), *units, torch.tensor(positive), 0.1)
    )


def test_each_dimension_is_trained_evaluated_and_exported(command: Command, folder: Path) -> None:
    write_judged_set(folder, "Find it")
    ended = command("model.dimensions=[4,16,8]", "benchmark=made")
    assert ended.code == 0, ended.err
    metrics = json.loads((folder / "run/metrics.json").read_text())
    assert [*metrics["retrievers"]] == ["uniform", "uniform (8)", "uniform (4)"]
    encoder = load_encoder(
        str(folder / "run/encoder"), pooling="mean", query_tokens=1, passage_tokens=1
    )
    assert encoder.head.prefixes == SIZES
    other = command("run_dir=plain")
    assert other.code == 0, other.err
    plain = load_encoder(
        str(folder / "plain/encoder"), pooling="mean", query_tokens=1, passage_tokens=1
    )
    assert abs(plain.embed_passages(TEXTS) - encoder.embed_passages(TEXTS)).max() > 1e-3
    retrievers = encoder_retrievers("one", encoder)
    made = [one.embed_documents(TEXTS) for one in retrievers.values()]  # type: ignore[attr-defined]
    ours = dict(zip(SIZES, made, strict=True))
    write_merged(encoder, folder / "export", {"query": None})
    for size, vectors in ours.items():
        theirs = SentenceTransformer(str(folder / "export"), device="cpu", truncate_dim=size)
        read = theirs.encode_document(TEXTS, normalize_embeddings=True)
        assert vectors.shape == read.shape == (len(TEXTS), size)
        np.testing.assert_allclose(vectors, read, atol=1e-6)


def test_more_values_than_there_are_are_refused(command: Command) -> None:
    ended = command("model.dimensions=[32,8]")
    assert ended.code == 2
    assert_one_message(ended, r"dimensions=\[32, 8\]: vectors of model\.path=model have 16 values")


@pytest.mark.parametrize("size", [16, 4])
def test_a_truncated_retriever_has_files_of_its_own(folder: Path, size: int) -> None:
    encoder = load_encoder(
        str(folder / "model"), pooling="mean", query_tokens=16, passage_tokens=16, dimensions=[4]
    )
    whole, narrow = encoder_retrievers("one", encoder).values()
    assert whole.fingerprint != narrow.fingerprint  # type: ignore[attr-defined]
    chosen = {16: whole, 4: narrow}[size]
    lengths = np.linalg.norm(chosen.embed_queries(TEXTS, "Find it"), axis=1)  # type: ignore[attr-defined]
    np.testing.assert_allclose(lengths, 1, atol=1e-6)
