"""Which rows are held out: by their query alone, whatever is around them."""

import random
from collections.abc import Callable

import numpy as np
import pytest

from tdro_lightning.data.domains import Domain
from tdro_lightning.data.held_out import query_place, split_domain
from tests.made_up import rows

ALL = 10_000  # rows
PLACES = (0.30008616247577313, 0.9582582380718527)
MakeDomain = Callable[..., Domain]


def ids(domain: Domain) -> list[str]:
    return list(domain.table["query_id"])


def test_the_places_of_queries_are_known_for_ever() -> None:
    """Or the rows of a reference, of tDRO and of a later version would not be the same."""
    assert query_place("What is a river?") == pytest.approx(PLACES[0], abs=1e-15)
    assert query_place("川とは何ですか") == pytest.approx(PLACES[1], abs=1e-15)


def test_places_are_even() -> None:
    places = np.sort([query_place(f"query {i}") for i in range(20_000)])
    expected = (np.arange(20_000) + 0.5) / 20_000
    assert np.abs(places - expected).max() < 1.63 / np.sqrt(20_000)  # Kolmogorov, 1 %


def test_the_split_is_disjoint_complete_and_of_about_the_share(make_domain: MakeDomain) -> None:
    domain = make_domain("all", rows("all", 2000, 2))
    training, held_out = split_domain(domain, 10, ALL)
    kept, taken = ids(training), [row["query_id"] for row in held_out]
    assert sorted(kept + taken) == sorted(ids(domain))
    assert 150 < len(taken) < 250
    assert kept == [name for name in ids(domain) if name not in set(taken)]  # in the file's order
    assert training.fingerprint != domain.fingerprint
    assert split_domain(domain, 10, ALL)[0].fingerprint == training.fingerprint
    assert split_domain(domain, 20, ALL)[0].fingerprint != training.fingerprint
    assert split_domain(domain, 10, 7)[1] == held_out[:7]
    assert list(split_domain(domain, 10, 7)[0].table["query_id"]) == kept
    more = {row["query_id"] for row in split_domain(domain, 20, ALL)[1]}
    assert set(taken) < more


def test_neither_order_nor_other_rows_nor_case_change_what_is_held_out(
    make_domain: MakeDomain,
) -> None:
    made = rows("one", 300, 2)
    _, expected = split_domain(make_domain("one", made), 20, ALL)
    shuffled = [{**row, "query": f"  {row['query'].upper()} "} for row in made]
    random.Random(0).shuffle(shuffled)
    other = [{**row, "query_id": f"x{i}", "query": f"x {i}"} for i, row in enumerate(made)]
    _, found = split_domain(make_domain("two", [*other[:150], *shuffled, *other[150:]]), 20, ALL)
    assert [row["query_id"] for row in found if row["query_id"][0] != "x"] == [
        row["query_id"] for row in expected
    ]


def test_equal_queries_are_held_out_together(make_domain: MakeDomain) -> None:
    made = [{**row, "query": f"query {i // 3}"} for i, row in enumerate(rows("three", 300, 2))]
    training, held_out = split_domain(make_domain("three", made), 20, ALL)
    assert not {row["query"] for row in held_out} & set(training.table["query"])
    assert len(held_out) % 3 == 0


@pytest.mark.parametrize(("query", "taken"), [("What is a river?", True), ("ghost", False)])
def test_a_domain_that_would_be_whole_or_empty_stays_whole(
    make_domain: MakeDomain, query: str, taken: bool
) -> None:
    """One query in all rows, whose place is among the lowest or not."""
    assert (query_place(query) < 0.5) == taken
    domain = make_domain("small", [{**row, "query": query} for row in rows("small", 5, 2)])
    assert split_domain(domain, 50, ALL) == (domain, [])
