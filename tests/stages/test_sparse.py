"""Sparse retrieval as a user runs it: fine-tuning, tDRO, evaluation and mining by commands."""

import csv
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from transformers import LlamaForCausalLM, LlamaModel

from tdro_lightning.assembly import encoders
from tdro_lightning.data.collator import Batch
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.sparse_head import SparseHead, SparseShape
from tdro_lightning.models.sparse_rows import BatchVectors, whole
from tdro_lightning.models.tokenizer import TextTokenizer
from tdro_lightning.training.tdro import TDROModule
from tests.command import Ended, assert_one_message, run
from tests.made_up import write_domain_option, write_domains
from tests.models.test_sparse_encoder import write_bert, write_llama

SMALL = (
    *(
        "--config-dir=conf",
        "domains=made",
        "model=tiny",
        "model.path=model",
        "logger.wandb=disabled",
    ),
    *("data.batch_size=6", "data.query_tokens=40", "data.passage_tokens=24", "data.negatives=2"),
    *("data.workers=0", "trainer.steps=3", "trainer.precision=32-true", "seed=1"),
)
SET = (
    *("+benchmark.layout=beir", "+benchmark.root=sets", "+benchmark.depth=10"),
    *("+benchmark.sets.town.folder=town", "+benchmark.sets.town.prompt='Find it'"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Domains, a set and a language model."""
    folder = tmp_path_factory.mktemp("sparse")
    catalogue = write_domains(folder / "rows")
    write_domain_option(folder, catalogue)
    write_llama(folder / "model", tied=True)
    lines = [json.loads(line) for line in (folder / "rows/easy.jsonl").read_text().splitlines()]
    texts = [row["positive_passages"][0]["text"] for row in lines]
    town = folder / "sets/town"
    (town / "qrels").mkdir(parents=True)
    with (town / "corpus.jsonl").open("w") as stream:
        for i, text in enumerate(texts):
            stream.write(json.dumps({"_id": f"d{i}", "title": "", "text": text}) + "\n")
    with (town / "queries.jsonl").open("w") as stream:
        for i, row in enumerate(lines[:8]):
            stream.write(json.dumps({"_id": f"q{i}", "text": row["query"]}) + "\n")
    rows = "".join(f"q{i}\td{i}\t1\n" for i in range(8))
    (town / "qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    return folder


def commanded(capfd: pytest.CaptureFixture[str], place: Path, *arguments: str) -> Ended:
    ended = run(capfd, place, *SMALL, *arguments)
    assert ended.code == 0, ended.err
    return ended


def test_from_a_reference_to_weights_evaluation_and_mining(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each stage by its command; nDCG@10 against products of the saved encoder's vectors."""
    commanded(capfd, place, "+experiment=finetune_sparse", *SET, "run_dir=tuned")
    result = json.loads((place / "tuned/metrics.json").read_text())["retrievers"]["uniform"]
    encoder = load_encoder(
        str(place / "tuned/encoder"), pooling="last", query_tokens=40, passage_tokens=24
    )
    town = place / "sets/town"
    documents = [json.loads(line)["text"] for line in (town / "corpus.jsonl").open()]
    queries = [json.loads(line)["text"] for line in (town / "queries.jsonl").open()]
    q = encoder.embed_queries(queries, "Find it").toarray().astype(np.float64)
    d = encoder.embed_passages(documents).toarray().astype(np.float64)
    ranks = [int((row > row[i]).sum()) for i, row in enumerate(q @ d.T)]
    expected = np.mean([1 / np.log2(2 + rank) if rank < 10 else 0 for rank in ranks])
    assert result["sets"]["town"]["ndcg@10"] == pytest.approx(expected, abs=1e-6)
    history = (place / "tuned/history.csv").read_text()
    for name in ("flops/queries", "flops/passages", "terms/queries", "terms/passages"):
        assert f",sparsity/{name}," in history

    tdro = ("+experiment=tdro_qwen05b", "model.head=sparse", "model.sparse.scale=quarter")
    reference = "module.reference=tuned/encoder"
    commanded(capfd, place, *tdro, "module.temperature=1", reference, "run_dir=tdro")
    weights = json.loads((place / "tdro/weights.json").read_text())["domain_weights"]
    assert sum(weights.values()) == pytest.approx(1)
    assert len(set(weights.values())) == 3

    ended = commanded(
        capfd, place, "+experiment=evaluate", *SET, "+evaluate.encoders.again=tuned/encoder",
        "run_dir=evaluated",
    )  # fmt: skip
    assert "its folder has a sparse head, which holds" in ended.out
    retrievers = json.loads((place / "evaluated/metrics.json").read_text())["retrievers"]
    assert retrievers["again"]["sets"] == result["sets"]
    assert set(retrievers) == {"again", "bm25"}

    mine = ("+experiment=mine_dense", "mine.encoder=tuned/encoder", "mine.input=rows")
    mine = (
        *mine,
        "mine.negatives=2",
        "mine.depth=8",
        "mine.skip=0",
        "mine.ratio=null",
        "mine.margin=null",
        "mine.max_score=null",
    )
    commanded(capfd, place, *mine, "run_dir=mined")
    assert sorted(path.name for path in (place / "mined/train").iterdir()) == [
        f"{name}.jsonl.gz" for name in ("easy", "hard", "middle")
    ]
    export = ("+experiment=export", "export.encoder=tuned/encoder", "run_dir=exported")
    ended = commanded(capfd, place, *export)
    assert "sentence-transformers" in ended.out
    card = (place / "exported/export/README.md").read_text()
    assert "model = SparseEncoder(" in card
    assert "a weight for each of 300 terms" in card

    ended = run(capfd, place, *SMALL, *mine, "mine.index=ivf", "run_dir=ivf")
    assert ended.code == 2
    assert_one_message(ended, "mine.index=ivf is for dense vectors, and mine.encoder=tuned/encoder")


def test_the_weights_of_a_command_are_those_of_numpy(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten steps: vectors, Eq. 2, Eq. 5 and Eq. 4 from the token states of both models in float64.

    A regulariser is on, and no loss has it.
    """
    limits = {"query_tokens": 40, "passage_tokens": 24, "pooling": "mean"}
    shape = SparseShape("quarter", "no_special")
    model = LlamaForCausalLM.from_pretrained(place / "model")
    for name, factor in (("soft", 0.2), ("other", 0.3)):  # losses far above their rounding
        model.get_input_embeddings().weight.data *= factor
        model.save_pretrained(place / name)
        TextTokenizer.load(str(place / "model"), "mean").save(place / name)
        model.get_input_embeddings().weight.data /= factor
    load_encoder(str(place / "other"), sparse=shape, **limits).save(place / "slow/encoder")
    seen: dict[str, list[np.ndarray]] = {"vectors": [], "losses": [], "alpha": [np.full(3, 1 / 3)]}
    forward, losses, update = SparseHead.forward, TDROModule.losses, TDROModule.update_weights

    def head(self: SparseHead, states: Tensor, mask: Tensor) -> Tensor:
        given = forward(self, states, mask)
        logits = states.detach().numpy() @ self.parts[0].detach().numpy().T
        largest = np.where(mask.numpy()[..., None], logits, -np.inf).max(1)
        expected = np.log1p(np.maximum(16**-0.25 * largest, 0))
        np.testing.assert_allclose(given.detach().numpy(), expected, rtol=0, atol=1e-12)
        seen["vectors"].append(expected)
        return given

    def rows(self: TDROModule, vectors: BatchVectors, count: int) -> Tensor:
        given = losses(self, vectors, count)
        texts = whole(vectors).detach().numpy()
        scores = np.einsum("bv,bnv->bn", texts[:count], texts[count:].reshape(count, -1, 300))
        expected = np.logaddexp.reduce(scores - scores[:, :1], axis=1)
        np.testing.assert_allclose(given.detach().numpy(), expected, rtol=0, atol=1e-10)
        seen["losses"].append(expected)
        return given

    def weights(self: TDROModule, proxy: Tensor, reference: Tensor, batch: Batch) -> Tensor:
        of_reference, of_proxy = (
            np.array([values[batch.domain.numpy() == g].mean() for g in range(3)])
            for values in seen["losses"][-2:]
        )
        measure = of_proxy / np.maximum(of_reference, 0.5 * np.median(of_reference))
        alpha = seen["alpha"][-1] * np.exp(0.02 * measure / max(1, np.linalg.norm(measure)))
        seen["alpha"].append(alpha / alpha.sum())
        return update(self, proxy, reference, batch)

    exact = partial(load_encoder, dtype="float64")
    monkeypatch.setattr(encoders, "load_encoder", lambda *a, dtype, **k: exact(*a, **k))
    monkeypatch.setattr(SparseHead, "forward", head)
    monkeypatch.setattr(TDROModule, "losses", rows)
    monkeypatch.setattr(TDROModule, "update_weights", weights)
    commanded(
        capfd, place, "+experiment=tdro_qwen05b", "model.head=sparse",
        "model.sparse.scale=quarter", "model.sparse.pooled=no_special", "module.temperature=1",
        "module.reference=slow/encoder", "+module.sparsity.kind=flops", "trainer.steps=10",
        "optimiser.warmup_steps=2", "optimiser.lr=0.01",
        "model.path=soft", "run_dir=ten",
    )  # fmt: skip
    assert [len(seen[kind]) for kind in ("losses", "alpha")] == [20, 11]
    found = json.loads((place / "ten/weights.json").read_text())["domain_weights"]
    np.testing.assert_allclose([*found.values()], seen["alpha"][-1], rtol=0, atol=1e-9)
    assert np.ptp(seen["alpha"][-1]) > 1e-3


TUNE = "+experiment=finetune_sparse"
DENSE = ("+experiment=tdro_qwen05b", "module.temperature=1")
PROXY = (*DENSE, "model.head=sparse")
WRONG = {
    "no sparse head": ((TUNE, "model.head=dense"), "module.sparsity is for sparse vectors"),
    "prefixes": ((TUNE, "model.dimensions=[8]"), "model.dimensions is for dense vectors"),
    "a regulariser of no name": ((TUNE, "module.sparsity.kind=l0"), "kind='l0' must be one of"),
    "a dense reference": (
        (*PROXY, "module.reference=dense/encoder"),
        "module.reference=dense/encoder makes dense vectors, and the proxy sparse ones",
    ),
    "a sparse reference": (
        (*DENSE, "module.reference=sparse/encoder"),
        "module.reference=sparse/encoder makes sparse vectors, and the proxy dense ones",
    ),
    "a sparse reference of a dense encoder": (
        (*PROXY, "model.path=dense/encoder", "module.reference=sparse/encoder"),
        "makes sparse vectors, and the proxy dense ones",
    ),
    "another scale": (
        (*PROXY, "model.sparse.scale=quarter", "module.reference=sparse/encoder"),
        "was trained with model.sparse.scale=one, and the proxy has quarter; give both the same",
    ),
    "other tokens": (
        (*PROXY, "model.sparse.pooled=no_special", "module.reference=sparse/encoder"),
        "was trained with model.sparse.pooled=all, and the proxy has no_special",
    ),
    "a trained head": (
        (*PROXY, "model.sparse.trained=true", "module.reference=sparse/encoder"),
        "was trained with model.sparse.trained=false, and the proxy has true",
    ),
}
LATER = {  # what a model's files say
    "another vocabulary": (
        (*PROXY, "module.reference=words/encoder"),
        "module.reference: its vocabulary differs from the proxy's",
    ),
    "no head": ((TUNE, "model.path=headless"), "1 weights are missing from it, first lm_head"),
    "no language model": (
        (TUNE, "model.path=pictures"),
        "model.head=sparse needs a language model, and model.path=pictures is a vit",
    ),
    "an embedding model": (
        (TUNE, "model.path=embedder"),
        "model.path=embedder is an embedding model with a modules.json",
    ),
    "an adapter beside a tied head": (
        (TUNE, "model.sparse.trained=true", "model.lora={r: 2, alpha: 4, dropout: 0.0}"),
        "the head of model.path=model is its embedding, which an adapter leaves as it is",
    ),
}


@pytest.fixture(scope="module")
def others(place: Path) -> Path:
    """Encoders and models that do not fit the language model."""
    limits = {"query_tokens": 40, "passage_tokens": 24, "pooling": "mean"}
    for name, head in (("dense", None), ("sparse", SparseShape())):
        load_encoder(str(place / "model"), sparse=head, **limits).save(place / name / "encoder")
    write_bert(place / "bert")
    words = load_encoder(str(place / "bert"), sparse=SparseShape(), **limits)
    words.save(place / "words/encoder")
    untied = write_llama(place / "headless", tied=False)
    LlamaModel.from_pretrained(untied).save_pretrained(untied)
    for name in ("pictures", "embedder"):
        shutil.copytree(place / "model", place / name)
    config = {"model_type": "vit", "architectures": None}
    (place / "pictures/config.json").write_text(json.dumps(config))
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (place / "embedder/modules.json").write_text(json.dumps(modules))
    (place / "embedder/1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    (place / "embedder/1_Pooling/config.json").write_text(json.dumps(pooling))
    return place


@pytest.mark.parametrize("kind", [*WRONG, *LATER])
def test_what_does_not_fit_is_refused_by_one_message(
    others: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Before a model is loaded, where the configuration or a folder's description says it."""
    overrides, message = (WRONG | LATER)[kind]
    asked: list[str] = []

    def noted(path: str, **settings: Any) -> Encoder:
        asked.append(path)
        return load_encoder(path, **settings)

    monkeypatch.setattr(encoders, "load_encoder", noted)
    ended = run(capfd, others, *SMALL, *overrides, "run_dir=wrong")
    assert ended.code == 2
    assert_one_message(ended, message)
    assert len(ended.err.splitlines()) == 1
    assert bool(asked) == (kind in LATER)


def test_a_temperature_of_unit_vectors_is_warned_of(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for temperature, said in ((0.02, True), (1, False)):
        ended = commanded(
            capfd, place, TUNE, f"module.temperature={temperature}", f"run_dir=at{said}"
        )
        assert ("module.temperature=0.02 is one of unit vectors" in ended.out) == said


def test_a_chunk_may_be_shorter_than_a_text(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each text is then a chunk of its own."""
    losses = []
    for tokens in (3, 10_000):
        commanded(capfd, place, TUNE, f"trainer.chunk_tokens={tokens}", f"run_dir=chunk{tokens}")
        lines = csv.reader((place / f"chunk{tokens}/history.csv").read_text().splitlines())
        losses.append([float(value) for _, name, value in lines if name == "loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(losses[0]) == 3
