"""Progress bars on long work, silent where no one is watching."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str, unit: str = "tensor") -> Iterator[Item]:
    """Yield `items` behind a progress bar on standard error, if that is a terminal."""
    yield from tqdm(items, desc=description, unit=unit, leave=False, disable=None)
