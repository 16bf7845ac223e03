"""Names of scopes, and how many weights a sparsity prunes: exact decimals, half to even, and what is refused."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltpipe.pruning.scopes import NOfM, Tiles, groups, own_sparsity, prune_count, scope_named, scopes
from ltpipe.runtime.errors import UserError


@st.composite
def decimals(draw: st.DrawFn) -> str:
    digits = draw(st.integers(1, 9))
    number = draw(st.integers(0, 10**digits))
    return f"{number // 10**digits}.{number % 10**digits:0{digits}d}"


@settings(max_examples=300, deadline=None)
@given(decimals(), st.integers(1, 10**12))
def test_prune_count_is_the_rounded_exact_product(sparsity: str, total: int) -> None:
    assert prune_count(sparsity, total) == round(Fraction(sparsity) * total)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9))
def test_halves_go_to_even(half: int) -> None:
    """0.5 times an odd number always ties."""
    expected = half if half % 2 == 0 else half + 1
    assert prune_count("0.5", 2 * half + 1) == expected


@pytest.mark.parametrize(
    ("sparsity", "total", "expected"),
    # The exact products end in .5; the float64 products fall below it (the first two) or above.
    [("0.29", 750, 218), ("0.009", 1500, 14), ("0.07", 150, 10), ("0.14", 75, 10)],
)
def test_floats_would_round_these_wrongly(sparsity: str, total: int, expected: int) -> None:
    assert round(float(sparsity) * total) != expected
    assert prune_count(sparsity, total) == expected


def test_counts_beyond_float64_are_exact() -> None:
    assert prune_count("1", 2**63 - 1) == 2**63 - 1
    assert prune_count("0.1", 10**18 + 10) == 10**17 + 1


@pytest.mark.parametrize(("sparsity", "expected"), [("0", 0), ("0.0", 0), ("1", 77), ("1.000", 77), ("0.50", 38)])
def test_ends_and_trailing_zeros(sparsity: str, expected: int) -> None:
    assert prune_count(sparsity, 77) == expected


@pytest.mark.parametrize(
    "sparsity",
    ["-0.1", "-1", "1.0000001", "1.1", "50", "nan", "inf", "-inf", "", "half", "0.5%", "0,5", "0.1.2", "1/0"],
)
def test_unusable_sparsity_is_a_user_error(sparsity: str) -> None:
    with pytest.raises(UserError) as caught:
        prune_count(sparsity, 100)
    assert len(str(caught.value).splitlines()) == 1


def test_names_with_numbers() -> None:
    assert scope_named("2of4") == NOfM(2, 4)
    assert scope_named("block16x8") == Tiles(16, 8)
    assert [own_sparsity(name) for name in ("2of4", "1of4", "2of3", "row")] == [0.5, 0.75, 1 / 3, None]


@pytest.mark.parametrize(
    "name",
    [
        "rows",
        "",
        "Global",
        "0of4",
        "4of4",
        "5of4",
        "02of4",
        "2of04",
        "2:4",
        "2of4-row",
        "block0x4",
        "block4",
        "layer-row",
    ],
)
def test_unknown_scope_is_one_line_that_lists_what_is_allowed(name: str) -> None:
    with pytest.raises(UserError) as caught:
        scope_named(name)
    assert f"'{name}'" in str(caught.value)
    assert all(known in str(caught.value) for known in [*scopes(), "2of4", "block16x16"])
    assert len(str(caught.value).splitlines()) == 1


def test_groups_of_a_scope_that_needs_scores_are_refused() -> None:
    with pytest.raises(UserError, match=r"'lamp'.*global, layer"):
        groups("lamp", "0.5", [4])
