"""Sequences whose items lie on the disk and are read a few thousand at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

ITEMS_AT_ONCE = 4096

T = TypeVar("T")


class StoredSequence(Sequence[T]):
    """A sequence of which what is asked for is in memory.

    Args:
        count: number of items.
        read: the items of a slice.
    """

    def __init__(self, count: int, read: Callable[[slice], list[T]]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int | slice) -> Any:  # an item or a list of them, as in `Sequence`
        if isinstance(place, slice):
            return self._read(place)
        place = range(len(self))[place]
        return self._read(slice(place, place + 1))[0]

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), ITEMS_AT_ONCE):
            yield from self._read(slice(start, start + ITEMS_AT_ONCE))
