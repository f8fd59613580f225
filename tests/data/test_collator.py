import pytest
import torch

from tdro_lightning.data.collator import Batch, Collator
from tdro_lightning.data.example import Example
from tdro_lightning.models.tokenizer import TextTokenizer
from tdro_lightning.models.tokens import Tokens

EXAMPLES = [
    Example(2, "q0", "red stone", ("red stone 0", "blue night", "a")),
    Example(0, "q1", "blue bird and large tree", ("blue bird 1", "x", "green green green")),
    Example(1, "q2", "fish", ("small fish 2", "river day night", "cloud")),
    Example(2, "q3", "night", ("night 3", "day", "tree tree")),
    Example(0, "q4", "é ü 雲", ("cloud 4", "square", "round")),
]


def texts(tokenizer: TextTokenizer, tokens: Tokens) -> list[str]:
    """Each sequence decoded by itself, after a check of the EOS at its end."""
    rows = [row.tolist() for row in tokens.ids.split(tokens.lengths.tolist())]
    assert all(row[-1] == tokenizer.tokenizer.eos_token_id for row in rows)
    return [tokenizer.tokenizer.decode(row[:-1]) for row in rows]


def collated(tokenizer: TextTokenizer) -> Batch:
    return Collator(tokenizer, 40, 40)(EXAMPLES)


def assert_holds(tokenizer: TextTokenizer, batch: Batch, examples: list[Example]) -> None:
    assert len(batch) == len(examples)
    assert texts(tokenizer, batch.queries) == [e.query for e in examples]
    assert texts(tokenizer, batch.passages) == [p for e in examples for p in e.passages]
    assert batch.domain.tolist() == [e.domain for e in examples]
    assert batch.query_ids == tuple(e.query_id for e in examples)


def test_passages_stand_row_by_row_with_the_positive_first(tokenizer: TextTokenizer) -> None:
    batch = collated(tokenizer)
    assert_holds(tokenizer, batch, EXAMPLES)
    assert texts(tokenizer, batch.passages)[::3] == [e.passages[0] for e in EXAMPLES]
    assert batch.domain.dtype == torch.int64


def test_queries_and_passages_have_their_own_longest(tokenizer: TextTokenizer) -> None:
    whole = collated(tokenizer)
    batch = Collator(tokenizer, 4, 9)(EXAMPLES)
    assert batch.queries.lengths.tolist() == whole.queries.lengths.clamp(max=4).tolist()
    assert batch.passages.lengths.tolist() == whole.passages.lengths.clamp(max=9).tolist()
    assert 4 in batch.queries.lengths
    assert 9 in batch.passages.lengths


def test_all_texts_are_queries_then_passages(tokenizer: TextTokenizer) -> None:
    batch = collated(tokenizer)
    both = [batch.queries.lengths, batch.passages.lengths]
    assert batch.texts.lengths.tolist() == torch.cat(both).tolist()
    assert batch.texts.ids.tolist() == [*batch.queries.ids.tolist(), *batch.passages.ids.tolist()]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [3], [4, 0, 4]])
def test_chosen_rows_keep_their_passages(tokenizer: TextTokenizer, rows: list[int]) -> None:
    chosen = collated(tokenizer).select(torch.tensor(rows))
    assert_holds(tokenizer, chosen, [EXAMPLES[row] for row in rows])


def test_to_a_device(tokenizer: TextTokenizer) -> None:
    batch = collated(tokenizer)
    assert_holds(tokenizer, batch.to("cpu"), EXAMPLES)
    moved = batch.to("meta", non_blocking=True)
    tensors = (moved.queries.ids, moved.passages.ids, moved.domain)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.query_ids == batch.query_ids
