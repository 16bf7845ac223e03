"""Brackets of made-up curves, halved until they are as narrow as was asked for."""

from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ltpipe.analysis.bisection import bracket, middle, most_steps


def decimals(*values):
    return [Decimal(value) for value in values]


def halved(sparsities, wins, to):
    """Tickets that are added to a curve, in turn, and the bracket at the end."""
    curve, added = {sparsity: wins(sparsity) for sparsity in sparsities}, []
    while (ends := bracket(curve)) and (inside := middle(ends, to)) is not None:
        assert ends[0] < inside < ends[1]
        added.append(inside)
        curve[inside] = wins(inside)
    return added, bracket(curve)


def test_a_bracket_of_twenty_points_comes_to_one_in_five_steps():
    added, ends = halved(decimals("0.3", "0.5"), lambda sparsity: sparsity < Decimal("0.435"), Decimal("0.01"))
    assert added == decimals("0.40", "0.45", "0.42", "0.44", "0.43")
    assert ends == (Decimal("0.43"), Decimal("0.44"))
    assert most_steps(decimals("0.3", "0.5"), Decimal("0.01")) == 5


@pytest.mark.parametrize(
    ("wins", "ends"),
    [
        ({"0.1": True, "0.3": False}, ("0.1", "0.3")),
        ({"0.3": False, "0.1": False}, ("0", "0.1")),  # the dense model wins
        ({"0.1": True, "0.3": True}, None),
        ({"0.1": True, "0.2": False, "0.3": True, "0.4": False}, ("0.1", "0.2")),  # the first fall
        ({"0": True, "0.5": False}, ("0", "0.5")),
    ],
)
def test_the_bracket_is_that_of_the_first_fall(wins, ends):
    found = bracket({Decimal(sparsity): won for sparsity, won in wins.items()})
    assert found == (ends and tuple(decimals(*ends)))


def test_a_bracket_that_is_narrow_enough_is_left():
    assert middle((Decimal("0.43"), Decimal("0.44")), Decimal("0.01")) is None
    assert middle((Decimal("0.4299"), Decimal("0.44")), Decimal("0.01")) == Decimal("0.43")
    assert most_steps(decimals("0.01", "0.02"), Decimal("0.01")) == 0


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])  # of a busy machine
@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=5, unique=True),
    st.integers(0, 10_000),
    st.sampled_from(decimals("0.01", "0.005", "0.03", "0.001", "0.0123", "1")),
)
def test_every_bracket_comes_to_its_width_in_as_many_steps_as_foreseen(points, limit, to):
    sparsities = [Decimal(point) / 10_000 for point in points]
    added, ends = halved(sparsities, lambda sparsity: sparsity <= Decimal(limit) / 10_000, to)
    assert len(added) <= most_steps(sparsities, to)
    if ends is None:
        assert added == []
    else:
        assert ends[0] <= Decimal(limit) / 10_000 < ends[1]
        assert ends[1] - ends[0] <= to
        assert all(sparsity % to == 0 for sparsity in added), "short to read, and shared by curves"
