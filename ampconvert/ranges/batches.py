"""Batches of data that are read when they are asked for, so that their number costs no memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar, overload

T = TypeVar("T")


class Batches(Sequence[T], Generic[T]):
    """A sequence whose items are made anew each time, but for the last one, which is kept.

    `makers` make one item each. An item must not be changed, and what a maker raises comes out
    where the item is asked for. A slice is a Batches too, and makes nothing.
    """

    def __init__(self, makers: Sequence[Callable[[], T]]) -> None:
        self.makers = makers
        self._last: tuple[int, T] | None = None

    @classmethod
    def of(cls, items: Sequence[T]) -> Batches[T]:
        """Items that are in memory already."""
        return cls([partial(_same, item) for item in items])

    def __len__(self) -> int:
        return len(self.makers)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Batches[T]: ...

    def __getitem__(self, index: int | slice) -> T | Batches[T]:
        if isinstance(index, slice):
            return Batches(self.makers[index])
        place = range(len(self.makers))[index]
        if self._last is None or self._last[0] != place:
            self._last = None  # never two of them at a time
            self._last = place, self.makers[place]()
        return self._last[1]

    def __add__(self, other: Batches[T]) -> Batches[T]:
        return Batches([*self.makers, *other.makers])

    def pick(self, places: Sequence[int]) -> Batches[T]:
        """Those at `places`."""
        return Batches([self.makers[place] for place in places])

    def mapped(self, change: Callable[[T], T]) -> Batches[T]:
        """What `change` makes of each, when it is asked for."""
        return Batches([partial(_changed, change, maker) for maker in self.makers])


def _same(item: T) -> T:
    return item


def _changed(change: Callable[[T], T], maker: Callable[[], T]) -> T:
    return change(maker())
