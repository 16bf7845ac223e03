"""Progress bars on long work, with rate and remaining time; silent where no one is watching."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

_DELAY = 1.0
"""Seconds that work has to take before its bar shows."""


def track(items: Iterable[Item], description: str, unit: str = "tensor") -> Iterator[Item]:
    """Yield `items` behind a progress bar on standard error, if that is a terminal.

    The remaining time shows for items that have a length.
    """
    yield from _bar(description, unit, iterable=items)


@contextmanager
def counting(total: int, done: int, description: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Show such a bar of work that is not a loop of ours, which has `total` steps and begins after `done` of them.

    Yields:
        Function that is told the number of steps done so far.
    """
    with _bar(description, unit, total=total, initial=done) as bar:

        def show(steps: int) -> None:
            bar.update(steps - bar.n)

        yield show


def _bar(description: str, unit: str, **settings: Any) -> tqdm:
    return tqdm(desc=description, unit=unit, leave=False, disable=None, delay=_DELAY, **settings)
