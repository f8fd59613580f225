"""Which tokens are masked: BERT's shares, never special or first ones, and always the same ones."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from tdro_lightning.data.domains import load_domains
from tdro_lightning.data.masking import MaskedBatch, Masking, MaskingCollator
from tdro_lightning.data.passages import PassageDataset
from tdro_lightning.data.samplers import Draw
from tdro_lightning.models.tokenizer import TextTokenizer
from tests.made_up import tiny_model, write_domains

MASK, SPECIAL = 7, (0, 1)


def within(count: int, of: int, share: float) -> bool:
    """Whether a count is within the bounds that a binomial leaves once in a million."""
    low, high = binom.interval(1 - 1e-6, of, share)
    return bool(low <= count <= high)


def test_shares_are_those_of_bert() -> None:
    random = np.random.default_rng(3)
    ids = random.integers(2, 500, size=200_000)
    ids[::10] = 1
    text = Masking(0.2, MASK, 500, SPECIAL)(ids, np.random.default_rng(4))
    usual = int((ids[1:] != 1).sum())
    assert within(len(text.places), usual, 0.2)
    now, chosen = text.ids[text.places], len(text.places)
    assert within(int((now == MASK).sum()), chosen, 0.8 + 0.1 / 500)
    kept = now == text.targets
    assert within(int(kept.sum()), chosen, 0.1 + 0.9 / 500)
    assert within(int((~kept & (now != MASK)).sum()), chosen, 0.1)
    others = now[~kept & (now != MASK)]
    assert (others.min(), others.max()) == (0, 499)  # any token of the vocabulary
    assert (text.targets == ids[text.places]).all()
    untouched = np.ones(len(ids), dtype=bool)
    untouched[text.places] = False
    assert (text.ids[untouched] == ids[untouched]).all()


def test_special_and_first_tokens_are_never_chosen() -> None:
    masking = Masking(0.9, MASK, 500, SPECIAL)
    for seed in range(200):
        ids = np.array([5, 0, 6, 1, 8])
        text = masking(ids, np.random.default_rng(seed))
        assert set(text.places.tolist()) <= {2, 4}
    assert masking(np.array([5]), np.random.default_rng(0)).places.size == 0
    assert masking(np.array([0, 1, 0]), np.random.default_rng(0)).places.size == 0


@pytest.fixture(scope="module")
def collated(tmp_path_factory: pytest.TempPathFactory):
    """Make a batch of some draws with a seed."""
    folder: Path = tmp_path_factory.mktemp("masking")
    domains = load_domains(write_domains(folder), root=str(folder), hub=None, only=None)
    tokenizer = TextTokenizer.load(tiny_model(folder / "model"), "mean")
    masking = Masking(0.2, tokenizer.mask_id(), tokenizer.vocabulary_size)

    def collate(draws: list[Draw], seed: int = 1) -> MaskedBatch:
        dataset = PassageDataset(domains, seed)
        collator = MaskingCollator(tokenizer, 16, masking, seed)
        return collator([dataset[draw] for draw in draws])

    return collate


def texts(batch: MaskedBatch) -> list[tuple]:
    """Each text with its chosen places and their targets."""
    parts = batch.passages.ids.split(batch.passages.lengths.tolist())
    return [
        (part.tolist(), batch.columns[own].tolist(), batch.targets[own].tolist())
        for i, part in enumerate(parts)
        for own in [batch.rows == i]
    ]


def test_masks_depend_on_seed_step_and_row_alone(collated) -> None:
    """Whatever else is in the batch, so with any number of processes and after a resume."""
    draws = [Draw(3, i % 3, 5 * i % 40) for i in range(12)]
    whole = texts(collated(draws))
    assert sum(len(places) for _, places, _ in whole) > 12
    assert [t for half in (draws[:5], draws[5:]) for t in texts(collated(half))] == whole
    assert texts(collated(draws[::-1]))[::-1] == whole
    assert texts(collated(draws, seed=2)) != whole
    assert texts(collated([draw._replace(step=4) for draw in draws])) != whole


def test_a_passage_is_one_of_its_row_s(collated, tmp_path: Path) -> None:
    domains = load_domains(write_domains(tmp_path), root=str(tmp_path), hub=None, only=None)
    dataset, row = PassageDataset(domains, seed=1), domains[1].table[6]
    known = [p["text"] for p in (*row["positive_passages"], *row["negative_passages"])]
    drawn = [dataset[Draw(step, 1, 6)].text for step in range(100)]
    assert set(drawn) == set(known)  # all of the 8, in 100 draws
    assert dataset[Draw(0, 1, 6)].query_id == row["query_id"]
