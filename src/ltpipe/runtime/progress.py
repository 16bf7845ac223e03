"""Progress bars for long work, with rate and remaining time; silent without a terminal."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

_DELAY = 1.0
"""Seconds of work before its bar appears."""


def track(items: Iterable[Item], description: str, unit: str = "tensor") -> Iterator[Item]:
    """Yield `items` with a progress bar on standard error, if that is a terminal.

    The bar shows the remaining time if `items` has a length.
    """
    yield from _bar(description, unit, iterable=items)


@contextmanager
def counting(total: int, done: int, description: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Show a progress bar for work outside a loop, with `total` steps of which `done` are already complete.

    Yields:
        A function to call with the number of steps done so far.
    """
    with _bar(description, unit, total=total, initial=done) as bar:

        def show(steps: int) -> None:
            bar.update(steps - bar.n)

        yield show


def _bar(description: str, unit: str, **settings: Any) -> tqdm:
    return tqdm(desc=description, unit=unit, leave=False, disable=None, delay=_DELAY, **settings)
