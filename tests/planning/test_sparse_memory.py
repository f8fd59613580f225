"""Memory of sparse vectors and their head, by hand and against what a real step allocates."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig

from tdro_lightning.losses.contrastive import LOSSES
from tdro_lightning.losses.gradient_cache import CachedEmbeddings
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.language_model import KINDS, sparse_head
from tdro_lightning.models.shapes import architecture_config, from_config
from tdro_lightning.models.sparse_head import SparseShape
from tdro_lightning.models.tiled_max import TILE
from tdro_lightning.models.tokens import Tokens
from tdro_lightning.planning.evaluation import sparse_bytes
from tdro_lightning.planning.memory import Output, estimate
from tdro_lightning.planning.model import encoder_shape
from tdro_lightning.search.inverted import SparseRetriever
from tests.planning.test_memory import FULL, LORA, SMALL, STEP
from tests.search.sparse_rows import Rows, names, real

# Llama-3-8B's head, which is not its embeddings', frozen in bfloat16.
UNTIED = Output(terms=128_256, values=128_256 * 4096, tied=False, trained=False, stored_bytes=2)
TIED = replace(UNTIED, values=0, tied=True)
SPARSE = {"texts": 64, "others": 0}


def test_a_frozen_head_and_all_vectors_by_hand() -> None:
    dense = estimate(LORA, **STEP)
    few, many = (estimate(replace(LORA, output=UNTIED), **STEP, texts=texts) for texts in (64, 128))
    assert few.parameters - dense.parameters == 2 * 128_256 * 4096
    assert (few.gradients, few.optimiser) == (dense.gradients, dense.optimiser)
    # Vectors, gradient, and the gradient twice more in the order of what was run.
    vectors = 4 * 512 * 128_256 * 4
    without = dense.activations - 2 * 512 * 4096 * 4
    # Values and tokens of terms are kept, and the larger of a tile's logits, with the states twice,
    # and three times the values takes memory for a time.
    tile = 8192 * TILE * 2 + 2 * 8192 * 4096 * 2
    assert few.activations == without + vectors + 2 * 64 * 128_256 * 4 + tile
    assert many.activations == without + vectors + (2 + 3) * 128 * 128_256 * 4


def test_a_head_that_learns_has_a_gradient_moments_and_its_inputs() -> None:
    trained = replace(UNTIED, trained=True, stored_bytes=4)
    frozen, learning = (
        estimate(replace(FULL, output=output), **STEP, **SPARSE)
        for output in (replace(UNTIED, stored_bytes=4), trained)
    )
    size = 128_256 * 4096 * 4
    assert learning.parameters == frozen.parameters
    assert learning.gradients - frozen.gradients == 2 * size
    assert learning.optimiser - frozen.optimiser == 2 * size
    assert learning.activations - frozen.activations == 8192 * 4096 * 4
    # Tied, the embeddings have gradient and moments; a chunk's is held beside them.
    none, tied = (
        estimate(replace(FULL, output=replace(TIED, trained=t, stored_bytes=4)), **STEP, **SPARSE)
        for t in (False, True)
    )
    assert (tied.gradients - none.gradients, tied.optimiser - none.optimiser) == (size, 0)
    model = replace(LORA, output=replace(TIED, trained=True))
    assert estimate(model, **STEP, **SPARSE).gradients == estimate(LORA, **STEP).gradients


def test_a_tied_head_is_gathered_where_the_embeddings_are_sharded() -> None:
    for chunks in (1, 3):
        single, sharded = (
            [
                estimate(
                    replace(LORA, output=output), **STEP, **SPARSE, chunks=chunks,
                    devices=shards, parameter_shards=shards,
                )
                for output in (None, TIED)
            ]
            for shards in (1, 8)
        )  # fmt: skip
        assert single[1].parameters == single[0].parameters
        gathered = sharded[1].parameters - sharded[0].parameters
        assert gathered == chunks * 128_256 * 4096 * 2


def test_a_reference_has_a_head_of_its_own_unless_it_is_shared() -> None:
    model = replace(LORA, output=UNTIED)
    dense, own, shared = (
        estimate(one, **STEP, **SPARSE, reference=True, shared=both).reference
        for one, both in ((LORA, False), (model, False), (model, True))
    )
    assert own - dense == 2 * 128_256 * 4096
    assert shared == LORA.trained_size


def test_gathered_vectors_count_with_their_gradient() -> None:
    model = replace(LORA, output=UNTIED)
    none, some = (
        estimate(model, **STEP, texts=64, others=others).activations for others in (0, 100)
    )
    assert some - none == 2 * 100 * 128_256 * 4


def made_encoder(tied: bool, trained: bool, terms: int, tokens: int) -> Encoder:
    shape = SMALL | {"vocab_size": terms, "tie_word_embeddings": tied}
    config = architecture_config(shape)
    model = from_config(config, "cpu", torch.float32, kind=KINDS["causal"])
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=1.0)
    head = sparse_head(model, SparseShape(trained=trained))
    return Encoder(
        model.base_model, None, "last", 16, 16, chunk_tokens=tokens, kept_tokens=tokens, head=head
    ).train()


def peak_bytes(run) -> int:
    """Most memory that is allocated at once while something runs."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    events = seen.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(np.cumsum([change for _, change in changes]))


@pytest.mark.parametrize(
    ("tied", "trained", "tokens"),
    [(True, False, 1536), (True, True, 128), (False, True, 128), (False, False, 64)],
)
def test_a_first_step_takes_what_is_counted(tied: bool, trained: bool, tokens: int) -> None:
    """Nearly all terms are active. The step's memory is that of vectors, 15 MB each time."""
    encoder = made_encoder(tied, trained, 40_000, tokens)
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(40_000, (96 * 16,), generator=random)
    batch = Tokens(ids, torch.full((96,), 16))
    with torch.no_grad():
        assert (encoder(batch) > 0).float().mean() > 0.95

    def step() -> None:
        cache = CachedEmbeddings(encoder, batch, (0, 0, 0))
        queries, passages = cache.vectors.tensor_split([32])
        LOSSES["infonce"](queries, passages, torch.arange(32), 1.0, None).sum().backward()
        cache.backward()

    found = estimate(
        encoder_shape(encoder), tokens=tokens, vectors=96, mixed=False, checkpointing=False,
        texts=tokens // 16,
    )  # fmt: skip
    counted = found.gradients + found.activations
    assert 0.8 * counted < peak_bytes(step) <= counted


@pytest.mark.parametrize("tied", [True, False])
def test_the_shape_of_a_head_is_counted_on_its_parameters(tied: bool) -> None:
    output = encoder_shape(made_encoder(tied, True, 300, 64)).output
    assert output == Output(300, 0 if tied else 300 * 64, tied, True, 4)


def test_a_masked_language_model_has_a_transform_and_a_bias() -> None:
    config = BertConfig(
        vocab_size=300, hidden_size=32, intermediate_size=40, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    model = from_config(config, "meta", torch.bfloat16, kind=KINDS["masked"])
    encoder = Encoder(model.base_model, None, "cls", 16, 16, head=sparse_head(model, SparseShape()))
    transform = 32 * 32 + 32 + 2 * 32
    assert encoder_shape(encoder).output == Output(300, transform + 300, True, False, 2)


def test_the_disk_of_sparse_embeddings_is_what_is_written(tmp_path: Path) -> None:
    """But for the headers of the arrays, 128 bytes each, and the receipts."""
    rows = real(np.random.default_rng(0), 500, 60, vocabulary=2000)
    made = SparseRetriever(Rows(rows), Rows(rows), "rows", shard_texts=200)
    index = made.index(names(rows), tmp_path, "made")
    assert len(index.blocks) == 1
    files = [*tmp_path.rglob("*.csr"), *tmp_path.rglob("*.csc")]
    assert len(files) == 3 + 1
    written = sum(file.stat().st_size for file in files)
    # Each document is taken to have the mean number of terms.
    postings = 2 * 8 * (rows.nnz - 500 * (rows.nnz // 500))
    counted = sparse_bytes(500, 2000, rows.nnz // 500) + postings
    assert counted < written <= counted + 5 * 128 * len(files)
