"""The scripts on evaluation at scale, with thousands instead of millions."""

from pathlib import Path

import pytest

from tests.experiments.conftest import loaded


@pytest.mark.nightly
def test_a_killed_encoding_ends_as_one_left_alone(tmp_path: Path) -> None:
    killed_encoding = loaded("evaluation_at_scale/killed_encoding.py")
    result = killed_encoding.main(
        [f"--folder={tmp_path}", "--passages=9000", "--queries=20", "--kills=1"]
    )
    assert result["shards"] == result["uninterrupted"]["encoded shards"] == 3
    assert sum(start["encoded shards"] for start in result["killed"]) == 3
    assert result["killed"][0]["encoded shards"] >= 1
    assert all(0.1 < start["peak GiB"] < 3 for start in result["killed"])
    assert result["equal shards"] == 3
    assert result["equal documents"]
    assert result["equal scores"]


@pytest.mark.nightly
def test_a_killed_sparse_index_and_search_end_as_ones_left_alone(tmp_path: Path) -> None:
    """One kill while texts are encoded, and one after that."""
    killed_encoding = loaded("evaluation_at_scale/killed_encoding.py")
    options = ["--passages=600", "--queries=20", "--shard-texts=100", "--kills=1"]
    result = killed_encoding.main(
        [f"--folder={tmp_path}", "--sparse", *options, "--search-kills=1"]
    )
    assert result["shards"] == result["equal shards"] == 6
    assert sum(start["encoded shards"] for start in result["killed"]) == 6
    assert result["killed"][0]["encoded shards"] >= 1
    assert [start["killed"] for start in result["killed in search"]] == [True]
    assert (result["blocks"], result["equal blocks"]) == (1, 1)
    assert result["files in one of them"] == []  # what a killed start was writing is left out
    assert result["equal documents"]
    assert result["equal scores"]


def test_shards_are_searched_like_all_products_in_memory(tmp_path: Path) -> None:
    brute_force = loaded("evaluation_at_scale/brute_force.py")
    result = brute_force.main(
        [f"--folder={tmp_path}", "--vectors=20000", "--dimensions=32", "--queries=40"]
        + ["--compared=40"]
    )
    assert (result["shards"], result["dtype"], result["compared"]) == (5, "float16", 4000)
    assert result["other document than by brute force"] <= 4  # near ties, in the last digit
    assert result["largest difference of score there"] < 1e-6
    assert result["largest error of a score"] < 1e-6
    assert result["peak GiB"] < 6
