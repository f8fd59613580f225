import errno
import multiprocessing
import os
import signal
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tdro_lightning.data.dataset import RetrievalDataset, chosen_negatives
from tdro_lightning.data.domains import Domain
from tdro_lightning.data.example import Example
from tdro_lightning.data.samplers import Draw, HeterogeneousBatches
from tdro_lightning.training.datamodules import usable_workers
from tests.fixtures.domains import MakeDomain
from tests.made_up import needs_shared_memory

PROMPTS = ["Find the answer", "Look it up", "Search"]


def row(i: int, positives: int = 2, negatives: int = 3) -> dict:
    return {
        "query_id": f"q{i}",
        "query": f"query {i}",
        "positive_passages": [
            {"docid": f"p{j}", "title": "", "text": f"positive {i} {j}"} for j in range(positives)
        ],
        "negative_passages": [
            {"docid": f"n{j}", "title": "About", "text": f"negative {i} {j}"}
            for j in range(negatives)
        ],
    }


@pytest.fixture
def domains(make_domain: MakeDomain) -> list[Domain]:
    return [
        make_domain("plain", [row(i) for i in range(8)]),
        make_domain("prompted", [row(i, 3, 2) for i in range(8, 16)], PROMPTS),
        make_domain("twins", [row(i, 1, 1) for i in range(16, 22)], ["Find twins"], symmetric=True),
    ]


def examples_of(dataset: RetrievalDataset, domain: int, row: int, steps: int) -> list[Example]:
    return [dataset[Draw(step, domain, row)] for step in range(steps)]


def test_plain_example(domains: list[Domain]) -> None:
    example = RetrievalDataset(domains, negatives=3, seed=0)[Draw(5, 0, 2)]
    assert (example.domain, example.query_id, example.query) == (0, "q2", "query 2")
    assert example.passages[0] in {"positive 2 0", "positive 2 1"}
    assert sorted(example.passages[1:]) == [f"About negative 2 {j}" for j in range(3)]


def test_title_and_text_are_joined_by_a_space(make_domain: MakeDomain) -> None:
    bare = {**row(0, 1, 0), "positive_passages": [{"text": "Apples grow."}]}
    titled = {**row(1, 1, 0), "positive_passages": [{"title": "Fruit", "text": "Apples grow."}]}
    dataset = RetrievalDataset([make_domain("titles", [bare, titled])], negatives=0, seed=0)
    assert dataset[Draw(0, 0, 0)].passages == ("Apples grow.",)
    assert dataset[Draw(0, 0, 1)].passages == ("Fruit Apples grow.",)


def test_every_prompt_is_drawn_for_the_query_alone(domains: list[Domain]) -> None:
    examples = examples_of(RetrievalDataset(domains, negatives=2, seed=0), 1, 3, 60)
    queries = Counter(example.query for example in examples)
    assert set(queries) == {f"Instruct: {prompt}\nQuery: query 11" for prompt in PROMPTS}
    assert min(queries.values()) > 8
    assert not any("Instruct" in passage for e in examples for passage in e.passages)


def test_every_positive_and_negative_is_drawn(domains: list[Domain]) -> None:
    examples = examples_of(RetrievalDataset(domains, negatives=1, seed=0), 1, 0, 60)
    positives, negatives = (Counter(e.passages[i] for e in examples) for i in (0, 1))
    assert set(positives) == {f"positive 8 {j}" for j in range(3)}
    assert set(negatives) == {f"About negative 8 {j}" for j in range(2)}
    assert min(*positives.values(), *negatives.values()) > 8


def test_draws_depend_on_seed_step_and_row_alone(domains: list[Domain]) -> None:
    draws = [Draw(step, domain, row) for step in (0, 9) for domain in (0, 1) for row in range(8)]
    dataset = RetrievalDataset(domains, negatives=2, seed=4)
    expected = [dataset[draw] for draw in draws]
    assert [dataset[draw] for draw in reversed(draws)] == expected[::-1]
    assert [RetrievalDataset(domains, 2, 4)[draw] for draw in draws] == expected
    assert [RetrievalDataset(domains, 2, 5)[draw] for draw in draws] != expected
    assert [e.passages for e in expected[:16]] != [e.passages for e in expected[16:]]


def test_rows_of_one_step_draw_for_themselves(domains: list[Domain]) -> None:
    dataset = RetrievalDataset(domains, negatives=2, seed=4)
    examples = [dataset[Draw(3, 1, row)] for row in range(8)]
    assert len({example.query.split("\n")[0] for example in examples}) > 1
    assert len({example.passages[0].split()[-1] for example in examples}) > 1


def test_index_of_a_domain_does_not_matter(domains: list[Domain]) -> None:
    first = examples_of(RetrievalDataset(domains, 2, 4), 1, 5, 6)
    moved = examples_of(RetrievalDataset(domains[1:], 2, 4), 0, 5, 6)
    assert [(e.query, e.passages) for e in first] == [(e.query, e.passages) for e in moved]
    assert ({e.domain for e in first}, {e.domain for e in moved}) == ({1}, {0})


def test_fewer_negatives_than_asked_are_repeated_evenly(domains: list[Domain]) -> None:
    example = RetrievalDataset(domains, negatives=7, seed=0)[Draw(0, 0, 1)]
    counts = Counter(example.passages[1:])
    assert sorted(counts.values()) == [2, 2, 3]
    assert sorted(counts) == [f"About negative 1 {j}" for j in range(3)]
    assert len(set(example.passages[1:4])) == 3


def test_no_negatives_asked(domains: list[Domain]) -> None:
    example = RetrievalDataset(domains, negatives=0, seed=0)[Draw(0, 0, 1)]
    assert len(example.passages) == 1


def test_prompted_passages_of_symmetric_domains(domains: list[Domain]) -> None:
    query = "Instruct: Find twins\nQuery: "
    asked = (Draw(1, 2, 0), Draw(1, 1, 0))
    twins, other = (RetrievalDataset(domains, 1, 0, True)[draw] for draw in asked)
    assert twins.query == f"{query}query 16"
    assert twins.passages == (f"{query}positive 16 0", f"{query}About negative 16 0")
    assert other == RetrievalDataset(domains, 1, 0)[asked[1]]
    bare = RetrievalDataset(domains, 1, 0, prompt_symmetric_passages=False)[asked[0]]
    assert bare.passages == ("positive 16 0", "About negative 16 0")
    assert bare.query == twins.query


def test_without_shared_memory_there_are_no_loader_processes(monkeypatch, caplog) -> None:
    def refused() -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(multiprocessing, "Lock", refused)
    assert (usable_workers(2), usable_workers(0)) == (0, 0)
    assert "data.workers=2: this machine gives no shared memory (Read-only file" in caplog.text
    monkeypatch.undo()
    assert usable_workers(0) == 0


@needs_shared_memory
def test_loader_workers_change_nothing(domains: list[Domain]) -> None:
    dataset = RetrievalDataset(domains, negatives=2, seed=1)
    rows = [len(domain) for domain in domains]
    batches = []
    for workers in (0, 2):
        sampler = HeterogeneousBatches(["plain", "prompted", "twins"], rows, 6, 8, seed=1)
        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=list, num_workers=workers)
        batches.append(list(loader))
    assert batches[0] == batches[1]
    assert [len(batch) for batch in batches[0]] == [6] * 8


class Failing(RetrievalDataset):
    """A dataset whose third row of the second domain cannot be read, or ends its process."""

    def _example(self, draw: Draw) -> Example:
        if (draw.domain, draw.row) == (1, 2):
            if self.seed == 9:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError("the disk is gone")
        return super()._example(draw)


@needs_shared_memory
def test_a_loader_process_that_fails_says_with_which_row(domains: list[Domain]) -> None:
    loader = DataLoader(Failing(domains, 1, 0), batch_size=None, num_workers=2, sampler=[
        Draw(0, 0, 1), Draw(0, 1, 2), Draw(0, 0, 3),
    ])  # fmt: skip
    with pytest.raises(OSError, match=r"disk is gone[\s\S]*row 2 \(from 0\) of domain prompted"):
        list(loader)


@needs_shared_memory
def test_a_loader_process_that_is_killed_ends_the_run(domains: list[Domain]) -> None:
    """One process: the death of a second would be raised wherever the test is by then."""
    before = set(multiprocessing.active_children())
    loader = DataLoader(
        Failing(domains, 1, 9), batch_size=None, num_workers=1, sampler=[Draw(0, 1, 2)] * 3
    )
    with pytest.raises(RuntimeError, match=r"^DataLoader worker .* (killed by signal|exited)"):
        list(loader)
    assert set(multiprocessing.active_children()) <= before


@given(st.integers(1, 9), st.integers(0, 30), st.integers(0, 2**32))
@settings(deadline=None)
def test_each_negative_before_any_repeat(available: int, wanted: int, seed: int) -> None:
    chosen = chosen_negatives(available, wanted, np.random.default_rng(seed))
    assert len(chosen) == wanted
    for start in range(0, wanted, available):
        part = chosen[start : start + available]
        assert len(set(part)) == len(part)
        assert set(part) <= set(range(available))
