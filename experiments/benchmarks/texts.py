"""Made-up texts of known length in tokens, in the proportions of the paper's data."""

from itertools import product

import numpy as np
from numpy.typing import NDArray
from transformers import Qwen2Tokenizer

from tdro_lightning.models.tokenizer import TextTokenizer

CONSONANTS, VOWELS = "bcdfghjklmnpqrstvwxz", "aeiou"
LARGEST_VOCABULARY = 8000
SPREAD = 0.8  # standard deviation of the logarithm of a length


def made_tokenizer(vocabulary: int) -> TextTokenizer:
    """A tokenizer of Qwen2's kind that knows made-up words of two syllables."""
    tokenizer = Qwen2Tokenizer().train_new_from_iterator(
        _words(), min(vocabulary, LARGEST_VOCABULARY), show_progress=False
    )
    return TextTokenizer(tokenizer, "last")


def single_tokens(tokenizer: TextTokenizer) -> list[str]:
    """The words, each after a space, that are one token."""
    words = _words()
    counts = tokenizer(words, 16).lengths - 1  # without EOS
    return [word for word, count in zip(words, counts.tolist(), strict=True) if count == 1]


def lengths(random: np.random.Generator, count: int, mean: float, limit: int) -> NDArray[np.int64]:
    """Log-normal lengths in tokens, cut to between 3 and the limit."""
    drawn = random.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD, count)
    return np.clip(np.rint(drawn), 3, limit).astype(np.int64)


def texts(random: np.random.Generator, words: list[str], tokens: NDArray[np.int64]) -> list[str]:
    """Texts of so many tokens, EOS included: a letter, which is a token, and random words."""
    return ["a" + "".join(random.choice(words, count - 2)) for count in tokens.tolist()]


def _words() -> list[str]:
    syllables = [consonant + vowel for consonant, vowel in product(CONSONANTS, VOWELS)]
    return [f" {first}{second}" for first, second in product(syllables, syllables)]
