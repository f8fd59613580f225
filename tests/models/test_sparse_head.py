"""Sparse heads of models give what their own logits, and sentence-transformers, give."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Module, Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tdro_lightning.errors import ConfigError
from tdro_lightning.models.sparse_head import SparseHead, from_csr, quarter_scale, to_csr
from tests.fixtures.models import SENTENCES, bert_tokenizer
from tests.processes import in_processes

TERMS, WIDTH = 301, 32
SHAPE = {
    **{"vocab_size": TERMS, "hidden_size": WIDTH, "intermediate_size": 48, "pad_token_id": 0},
    **{"num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2},
}
DISTIL = {"vocab_size": TERMS, "dim": WIDTH, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
CAUSAL = {
    "llama": {},
    "llama, tied": {"tie_word_embeddings": True},
    "qwen2": {"num_key_value_heads": 2},
    "gpt_neox": {},
    "gemma2": {"final_logit_softcapping": None, "head_dim": 8, "num_key_value_heads": 2},
}
MASKED = {
    "bert": {},
    "roberta": {"pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
    "distilbert": DISTIL,
    "modernbert": {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    "electra": {"embedding_size": 16},
}
REFUSED = {"electra"}


def model(kind: str, **changed: Any) -> PreTrainedModel:
    """A small model of a family, in eval mode, with random biases and norms."""
    given = MASKED[kind] if kind in MASKED else CAUSAL[kind]
    builder = AutoModelForMaskedLM if kind in MASKED else AutoModelForCausalLM
    shape = {} if kind == "distilbert" else SHAPE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        config = CONFIG_MAPPING[kind.split(",")[0]](**{**shape, **given, **changed})
        made: PreTrainedModel = builder.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for value in made.parameters():
                if value.dim() == 1:  # else a bias that is left out would not be seen
                    value += 0.3 * torch.randn_like(value)
    return made


def batch() -> tuple[Tensor, Tensor]:
    """Ids and mask of three texts, padded on the right."""
    ids = torch.randint(5, TERMS, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor([[9], [4], [1]])
    return ids, mask


def naive(model: PreTrainedModel, ids: Tensor, mask: Tensor, scale: float) -> Tensor:
    """From the model's own logits."""
    logits = model(input_ids=ids, attention_mask=mask.long()).logits
    largest = logits.masked_fill(~mask[..., None], -torch.inf).max(dim=1).values
    return (scale * largest).relu().log1p()


def states(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    found: Tensor = model.base_model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    return found


@pytest.mark.parametrize("kind", sorted({*CAUSAL, *MASKED} - REFUSED))
def test_vectors_are_those_of_the_models_own_logits(kind: str) -> None:
    made, (ids, mask) = model(kind), batch()
    head = SparseHead.of(made, scale=0.4, tile=100)
    assert head.terms == TERMS
    expected = naive(made, ids, mask, 0.4)
    assert 0.2 < float((expected > 0).float().mean()) < 1
    found = head(states(made, ids, mask), mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "llama, tied", "bert", "modernbert"])
def test_a_head_that_trains_gives_the_whole_gradient(kind: str) -> None:
    """To every parameter, also the embedding that it is tied to; a frozen one gives it none."""
    made, (ids, mask) = model(kind).double(), batch()
    weighting = torch.randn(3, TERMS, dtype=torch.float64, generator=torch.Generator())
    (naive(made, ids, mask, 1.0) * weighting).sum().backward()
    expected = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    made.zero_grad()

    head = SparseHead.of(made, tile=100, trained=True)
    (head(states(made, ids, mask), mask) * weighting).sum().backward()
    found = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-12)

    made.zero_grad()
    head = SparseHead.of(made, tile=100)
    assert not any(p.requires_grad for p in head.parameters())
    (head(states(made, ids, mask), mask) * weighting).sum().backward()
    assert all(p.grad is None for p in head.parameters())
    embedding: Any = made.get_input_embeddings()
    seen = set(ids[mask].tolist())
    untouched = [i for i in range(TERMS) if i not in seen]
    assert not embedding.weight.grad[untouched].any(), "a frozen head gives it none"


def test_a_tied_weight_is_shared_and_the_backbones() -> None:
    made, (ids, mask) = model("llama, tied"), batch()
    head = SparseHead.of(made)
    assert head.tied
    assert not list(head.parameters())
    assert not head.state_dict()
    before = head(states(made, ids, mask), mask)
    embedding: Any = made.get_input_embeddings()
    with torch.no_grad():
        embedding.weight += 0.1
    after = head(states(made, ids, mask), mask)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, naive(made, ids, mask, 1.0), rtol=0, atol=1e-6)
    untied = SparseHead.of(model("llama"))
    assert not untied.tied
    assert [*untied.state_dict()] == ["output.weight"]
    assert "bias" in SparseHead.of(model("bert")).state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype: torch.dtype) -> None:
    """The head's weights decide the dtype of its logits; states may have another."""
    made, (ids, mask) = model("bert").to(dtype), batch()
    head, given = SparseHead.of(made), states(made, ids, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(given, mask)
    assert found.dtype == torch.float32
    assert torch.equal(found, head(given, mask))
    torch.testing.assert_close(
        head(given.float(), mask), naive(made, ids, mask, 1.0).float(), rtol=0, atol=3e-2
    )


def test_special_tokens_can_be_left_out() -> None:
    made, (ids, mask) = model("bert"), batch()
    ids[:, 0] = 2
    special = torch.tensor([0, 2, 3])
    everything = SparseHead.of(made).counted(ids, mask.long(), special)
    assert torch.equal(everything, mask)
    head = SparseHead.of(made, pooled="no_special")
    counted = head.counted(ids, mask.long(), special)
    assert counted.sum(1).tolist() == [8, 3, 0]
    assert not counted[:, 0].any()
    found = head(states(made, ids, mask), counted)
    logits = made(input_ids=ids, attention_mask=mask.long()).logits
    expected = logits[0, 1:].amax(0).relu().log1p()
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)
    assert not found[2].any(), "nothing but a special token"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AutoModel.from_config(model("bert").config), "BertModel .*no language-model head"),
        (lambda: model("gemma2", final_logit_softcapping=3.0), "Gemma2ForCausalLM .*capped"),
        (lambda: model("electra"), "ElectraForMaskedLM .*its logits are not"),
    ],
)
def test_a_model_whose_logits_are_others_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SparseHead.of(build())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scale": 0.0}, "scale=0.0"),
        ({"scale": float("nan")}, "scale=nan"),
        ({"pooled": "none"}, "pooled='none'.*all or no_special"),
        ({"tile": 0}, "tile=0"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SparseHead(nn.Linear(3, 5), **given)


def test_the_look_at_its_logits_leaves_the_model_as_it_was() -> None:
    made = model("bert").train()
    SparseHead.of(made)
    assert made.training
    assert not made.base_model._forward_hooks
    assert all(p.grad is None for p in made.parameters())


def test_scale_of_the_paper() -> None:
    assert [round(quarter_scale(size), 4) for size in (2048, 3072, 4096)] == [0.1487, 0.1343, 0.125]


class LogitsAsTokens(Module):
    """Hands a causal model's logits to sentence-transformers' poolers."""

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        features["token_embeddings"] = features["causal_logits"]
        return features

    def save(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_sentence_transformers_gives_the_same(kind: str, tmp_path: Path) -> None:
    """A decoder that attends in both directions, and a masked language model."""
    tokenizer: PreTrainedTokenizerFast = bert_tokenizer()
    changed = {"is_causal": False} if kind == "llama" else {}
    made = model(kind, vocab_size=len(tokenizer), **changed)
    made.config.is_causal = kind != "llama"
    made.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    if kind == "llama":
        transformer = Transformer(
            str(tmp_path),
            transformer_task="text-generation",
            processing_kwargs={"text": {"logits_to_keep": 0}},
        )
        parts: list[Any] = [transformer, LogitsAsTokens()]
    else:
        parts = [Transformer(str(tmp_path), transformer_task="fill-mask")]
    theirs = SparseEncoder(modules=[*parts, SpladePooling("max")], device="cpu")
    texts = [SENTENCES[0], "fox", SENTENCES[3]]
    expected = theirs.encode(texts, convert_to_tensor=True, convert_to_sparse_tensor=False)

    builder = AutoModelForCausalLM if kind == "llama" else AutoModelForMaskedLM
    loaded = builder.from_pretrained(tmp_path).eval()
    tokenizer.padding_side = "left" if kind == "llama" else "right"
    tokens = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    mask = tokens["attention_mask"].bool()
    with torch.no_grad():
        found = SparseHead.of(loaded, tile=50)(states(loaded, tokens["input_ids"], mask), mask)
    assert 0 < int((found > 0).sum()) < found.numel()
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(0, 5), terms=st.integers(1, 30), seed=st.integers(0, 99))
def test_matrices_hold_all_there_is(rows: int, terms: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, terms, generator=random).relu()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        given = vectors.to(dtype).requires_grad_()
        matrix = to_csr(given)
        assert matrix.shape == (rows, terms)
        assert matrix.nnz == int((vectors > 0).sum())
        assert matrix.has_canonical_format
        back = from_csr(matrix)
        assert back.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(back, given.detach().to(back.dtype))
        reference = scipy.sparse.csr_matrix(given.detach().to(back.dtype).numpy())
        assert (matrix != reference).nnz == 0


def test_matrices_of_many_terms() -> None:
    vectors = torch.zeros(3, 128_256)
    vectors[0, [0, 65_536, 128_255]] = torch.tensor([1e-30, 2.0, torch.nan])
    matrix = to_csr(vectors)
    assert matrix.indptr.tolist() == [0, 3, 3, 3]
    assert matrix.indices.tolist() == [0, 65_536, 128_255]
    np.testing.assert_array_equal(from_csr(matrix).numpy(), vectors.numpy())


def shard(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    made, (ids, mask) = model("llama, tied"), batch()
    head = SparseHead.of(made, tile=100, trained=True)
    given = states(made, ids, mask).detach().requires_grad_()
    embedding: Any = made.get_input_embeddings()
    fully_shard(embedding)
    rows = [[0], [1, 2]][number]
    found = head(given[rows], mask[rows])
    found.sum().backward()
    kept = {
        "vectors": found.detach(),
        "states": given.grad,
        "weight": embedding.weight.grad.full_tensor(),
    }
    torch.save(kept, Path(folder) / f"{number}.pt")
    dist.destroy_process_group()


def test_a_weight_that_is_spread_over_processes(tmp_path: Path) -> None:
    """Two processes with a text or two each have the gradient of one with all three."""
    in_processes(2, shard, str(tmp_path))
    kept = [torch.load(tmp_path / f"{number}.pt") for number in range(2)]
    made, (ids, mask) = model("llama, tied"), batch()
    given = states(made, ids, mask).detach().requires_grad_()
    embedding: Any = made.get_input_embeddings()
    whole = SparseHead.of(made, trained=True)(given, mask)
    whole.sum().backward()
    vectors = torch.cat([one["vectors"] for one in kept])
    torch.testing.assert_close(vectors, whole.detach(), rtol=0, atol=1e-6)
    assert given.grad is not None
    torch.testing.assert_close(kept[0]["states"] + kept[1]["states"], given.grad, rtol=0, atol=1e-6)
    for one in kept:
        torch.testing.assert_close(one["weight"], embedding.weight.grad, rtol=0, atol=5e-6)
