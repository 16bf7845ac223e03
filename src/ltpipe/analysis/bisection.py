"""Which sparsities narrow the bracket in which a curve of tickets stops winning.

A bracket is halved at the multiple of its target width nearest its middle, in exact decimals. So the sparsities are the
same on every machine, short to read, and shared by curves, which then share masks and controls too.
"""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from itertools import pairwise

Bracket = tuple[Decimal, Decimal]


def bracket(wins: Mapping[Decimal, bool]) -> Bracket | None:
    """The last winning and the first losing sparsity of a curve that begins at the dense model, which wins.

    Args:
        wins: whether the ticket of each sparsity wins.

    Returns:
        Both ends, of the first fall if there are several; None if all tickets win.
    """
    last = Decimal(0)
    for sparsity in sorted(wins):
        if not wins[sparsity]:
            return last, sparsity
        last = sparsity
    return None


def middle(ends: Bracket, to: Decimal) -> Decimal | None:
    """Return where to halve a bracket, strictly inside it; None if it is at most as wide as `to` (> 0)."""
    low, high = ends
    # The nearest multiple of `to` is at most half of `to` away from the middle, and the ends are farther.
    return ((low + high) / 2 / to).to_integral_value() * to if high - low > to else None


def most_steps(sparsities: Iterable[Decimal], to: Decimal) -> int:
    """Return how many times a bracket between the dense model and these tickets can be halved."""
    return max((_steps(ends, to) for ends in pairwise(sorted({Decimal(0), *sparsities}))), default=0)


def _steps(ends: Bracket, to: Decimal) -> int:
    inside = middle(ends, to)
    return 0 if inside is None else 1 + max(_steps((ends[0], inside), to), _steps((inside, ends[1]), to))
