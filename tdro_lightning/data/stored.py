"""Sequences whose items lie on the disk and are read a few thousand at a time."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TypeVar, overload

ITEMS_AT_ONCE = 4096

T = TypeVar("T")


class StoredSequence(Sequence[T]):
    """A sequence of which what is asked for is in memory; subclasses say how it is read."""

    @abstractmethod
    def read(self, places: slice) -> list[T]:
        """The items of a slice."""

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        if isinstance(place, slice):
            return self.read(place)
        place = range(len(self))[place]
        return self.read(slice(place, place + 1))[0]

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), ITEMS_AT_ONCE):
            yield from self.read(slice(start, start + ITEMS_AT_ONCE))
