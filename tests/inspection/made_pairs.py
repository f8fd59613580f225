"""Made domains whose queries and positives share rare words, clean or with swapped positives."""

import random
from typing import Any


def made_rows(
    count: int = 300, swapped: float = 0.0, seed: int = 0, language: str = ""
) -> tuple[list[dict[str, Any]], set[int]]:
    """Rows, and the line numbers of those whose positives are other rows'.

    Each positive has three of its query's five words, and each negative four of them: a negative
    beats the positive in every row. With a language, passages have no word of the queries.
    """
    draw = random.Random(seed)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = ["".join(draw.choices(syllables, k=4)) for _ in range(200)]
    rows = []
    for i in range(count):
        topic = draw.sample(words, 5)

        def passage(shared: int, words: list[str] = words, topic: list[str] = topic) -> str:
            text = [*draw.sample(topic, shared), *draw.sample(words, 6)]
            draw.shuffle(text)
            return " ".join(
                "".join(chr(0x430 + ord(c) - 97) for c in w) if language else w for w in text
            )

        rows.append(
            {
                "query_id": f"q{i}",
                "query": " ".join(topic),
                "positive_passages": [{"docid": f"p{i}", "title": "", "text": passage(3)}],
                "negative_passages": [
                    {"docid": f"n{i}-{j}", "title": "", "text": passage(4)} for j in range(3)
                ],
            }
        )
    chosen = draw.sample(range(count), round(swapped * count))
    given = [rows[i]["positive_passages"] for i in chosen]
    for i, positives in zip(chosen, given[1:] + given[:1], strict=True):
        rows[i]["positive_passages"] = positives
    return rows, {i + 1 for i in chosen}
