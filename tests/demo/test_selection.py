from tdro_lightning.demo.domains import Pair
from tdro_lightning.demo.selection import distinct, normalised, split


def pair(query: str, document: str, group: str = "g") -> Pair:
    return Pair("d", group, "place", query, document)


def test_normalised_texts_are_equal_beyond_case_and_marks() -> None:
    assert normalised("Read_the  File!") == normalised("read the file") == "read the file"


def test_groups_stand_on_one_side() -> None:
    pairs = [pair(f"q{i}", f"d{i}", group=f"module{i % 200}") for i in range(600)]
    train, held_out = split(pairs)
    assert len(train) + len(held_out) == 600
    assert not {p.group for p in train} & {p.group for p in held_out}
    assert 0.2 < len(held_out) / 600 < 0.4


def test_distinct_drops_repeats_and_used_texts() -> None:
    pairs = [pair("same", "one"), pair("Same!", "two"), pair("other", "ONE"), pair("x", "X.")]
    pairs += [pair("kept", "text"), pair("used", "new"), pair("new", "used")]
    found = distinct(pairs, 10, {"used"}, seed=0)
    queries = [normalised(p.query) for p in found]
    documents = [normalised(p.document) for p in found]
    assert len(set(queries)) == len(set(documents)) == len(found)
    assert set(queries) in ({"same", "kept"}, {"same", "other", "kept"})
    assert len(distinct(pairs, 1, set(), seed=0)) == 1


def test_the_seed_decides_the_order() -> None:
    pairs = [pair(f"q{i}", f"d{i}") for i in range(50)]
    assert distinct(pairs, 9, set(), seed=1) == distinct(pairs, 9, set(), seed=1)
    assert distinct(pairs, 9, set(), seed=1) != distinct(pairs, 9, set(), seed=2)
