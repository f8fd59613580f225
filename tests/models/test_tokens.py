import torch
from hypothesis import given
from hypothesis import strategies as st

from tdro_lightning.models.tokens import Tokens, length_chunks, split_chunks

SEQUENCES = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=12)


@given(SEQUENCES, st.data())
def test_padded_rows_are_the_sequences(sequences: list[list[int]], data: st.DataObject) -> None:
    tokens = Tokens.of(sequences)
    assert len(tokens) == len(sequences)
    row = st.integers(0, len(sequences) - 1)
    rows = data.draw(st.lists(row, min_size=1, max_size=15))
    ids, mask = tokens.padded(torch.tensor(rows))
    longest = max(len(sequences[r]) for r in rows)
    assert ids.tolist() == [sequences[r] + [0] * (longest - len(sequences[r])) for r in rows]
    assert mask.tolist() == [
        [True] * len(sequences[r]) + [False] * (longest - len(sequences[r])) for r in rows
    ]
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)


@given(SEQUENCES, SEQUENCES)
def test_one_after_the_other(first: list[list[int]], second: list[list[int]]) -> None:
    joined = Tokens.of(first).concatenate(Tokens.of(second))
    assert joined.lengths.tolist() == [len(s) for s in first + second]
    assert joined.ids.tolist() == [token for s in first + second for token in s]


@given(SEQUENCES, st.data())
def test_chosen_rows_are_the_sequences(sequences: list[list[int]], data: st.DataObject) -> None:
    row = st.integers(0, len(sequences) - 1)
    rows = data.draw(st.lists(row, max_size=15))
    chosen = Tokens.of(sequences).chosen(torch.tensor(rows, dtype=torch.long))
    assert chosen.lengths.tolist() == [len(sequences[r]) for r in rows]
    assert chosen.ids.tolist() == [token for r in rows for token in sequences[r]]
    assert (chosen.ids.dtype, chosen.lengths.dtype) == (torch.int64, torch.int64)


@given(st.lists(st.sampled_from([[1], [1, 2], [2, 1], [3, 3, 3]]), max_size=12))
def test_distinct_rows_are_the_first_of_equal_sequences(sequences: list[list[int]]) -> None:
    tokens = Tokens.of(sequences)
    rows, places = tokens.distinct
    assert rows.tolist() == [i for i, s in enumerate(sequences) if s not in sequences[:i]]
    assert [sequences[rows[place]] for place in places] == sequences
    for other in (tokens.concatenate(tokens), tokens.chosen(torch.arange(len(tokens))).to("cpu")):
        assert other.distinct[0].tolist() == rows.tolist()
    nobody_looked = Tokens(tokens.ids, tokens.lengths).distinct
    assert [part.tolist() for part in nobody_looked] == 2 * [list(range(len(sequences)))]


def test_no_sequences_keep_the_dtypes() -> None:
    tokens = Tokens.of([])
    assert len(tokens) == 0
    assert (tokens.ids.dtype, tokens.lengths.dtype) == (torch.int64, torch.int64)


def test_on_another_device() -> None:
    moved = Tokens.of([[5, 6], [7]]).to("meta")
    assert (moved.ids.device.type, moved.lengths.device.type) == ("meta", "cpu")
    assert (moved.ids.shape, moved.lengths.shape) == ((3,), (2,))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 200))
def test_chunks_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    chunks = [chunk.tolist() for chunk in length_chunks(torch.tensor(lengths), budget)]
    assert sorted(row for chunk in chunks for row in chunk) == list(range(len(lengths)))
    sizes = [len(chunk) * max(lengths[row] for row in chunk) for chunk in chunks]
    assert all(size <= budget or len(chunk) == 1 for size, chunk in zip(sizes, chunks, strict=True))
    in_order = [lengths[row] for chunk in chunks for row in chunk]
    assert in_order == sorted(lengths, reverse=True)
    # No chunk could have taken the next row too.
    for chunk in chunks[:-1]:
        assert (len(chunk) + 1) * lengths[chunk[0]] > budget


def test_chunks_by_hand() -> None:
    chunks = length_chunks(torch.tensor([2, 9, 2, 4, 4, 2]), 8)
    assert [chunk.tolist() for chunk in chunks] == [[1], [3, 4], [0, 2, 5]]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 60), st.data())
def test_divided_chunks_hold_the_same_rows(lengths: list[int], budget: int, data) -> None:
    chunks = length_chunks(torch.tensor(lengths), budget)
    count = data.draw(st.integers(len(chunks), len(lengths)))
    pieces = split_chunks(chunks, count)
    assert len(pieces) == count
    assert all(len(piece) for piece in pieces)
    assert torch.cat(pieces).tolist() == torch.cat(chunks).tolist()
