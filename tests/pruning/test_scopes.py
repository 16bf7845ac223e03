"""Names of scopes, and how many weights a sparsity prunes: exact decimals, half to even, and what is refused."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltpipe.pruning.scopes import NOfM, Tiles, scope_named, scopes
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError


@st.composite
def decimals(draw: st.DrawFn) -> str:
    digits = draw(st.integers(1, 9))
    number = draw(st.integers(0, 10**digits))
    return f"{number // 10**digits}.{number % 10**digits:0{digits}d}"


@settings(max_examples=300, deadline=None)
@given(decimals(), st.integers(1, 10**12))
def test_prune_count_is_the_rounded_exact_product(sparsity: str, total: int) -> None:
    assert Sparsity.of(sparsity).count(total) == round(Fraction(sparsity) * total)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9))
def test_halves_go_to_even(half: int) -> None:
    """0.5 times an odd number always ties."""
    expected = half if half % 2 == 0 else half + 1
    assert Sparsity.of("0.5").count(2 * half + 1) == expected


@pytest.mark.parametrize(
    ("sparsity", "total", "expected"),
    # The exact products end in .5; the float64 products fall below it (the first two) or above.
    [("0.29", 750, 218), ("0.009", 1500, 14), ("0.07", 150, 10), ("0.14", 75, 10)],
)
def test_floats_would_round_these_wrongly(sparsity: str, total: int, expected: int) -> None:
    assert round(float(sparsity) * total) != expected
    assert Sparsity.of(sparsity).count(total) == expected


def test_counts_beyond_float64_are_exact() -> None:
    assert Sparsity.of("1").count(2**63 - 1) == 2**63 - 1
    assert Sparsity.of("0.1").count(10**18 + 10) == 10**17 + 1


@pytest.mark.parametrize(("sparsity", "expected"), [("0", 0), ("0.0", 0), ("1", 77), ("1.000", 77), ("0.50", 38)])
def test_ends_and_trailing_zeros(sparsity: str, expected: int) -> None:
    assert Sparsity.of(sparsity).count(77) == expected


@pytest.mark.parametrize(
    ("written", "message"),
    [(each, f"sparsity {each} is not allowed; use a fraction from 0 to 1")
     for each in ("-0.1", "-1", "1e9", "250", 1.5, "1.0000001")]
    + [(each, f"sparsity {each!r} is not allowed; use a fraction from 0 to 1")
       for each in ("nan", "inf", "-inf", "", "half", "0.5%", "0,5", "0.1.2", "1/0", "\u0665", "1_0", True)]
    + [(each, f"sparsity {each} is not allowed; use a fraction from 0 to 1; did you mean {meant}?")
       for each, meant in (("50", "0.5"), (37.5, "0.375"), (100, "1"), ("5e1", "0.5"))]
    + [("1e-41", "sparsity 1e-41 is not allowed; use a fraction from 0 to 1 with at most 40 decimals")],
)  # fmt: skip
def test_what_is_no_sparsity_is_refused_in_one_line(written: str | float, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Sparsity.of(written)
    assert str(caught.value) == " ".join(message.split())


def test_equal_numbers_are_one_sparsity_however_they_are_written() -> None:
    several = [Sparsity.of(each) for each in ("0.5", "0.50", 0.5, "5e-1", "+.5", "0.500e0", Sparsity.of("0.5"))]
    assert {each.canonical for each in several} == {"0.5"}
    assert set(several) == {Sparsity.of(0.5)}
    assert [str(each) for each in several[:2]] == ["0.5", "0.50"]
    assert Sparsity.of(f"0.{'3' * 40}").canonical == f"0.{'3' * 40}"
    assert float(Sparsity.of("0.1")) == 0.1


def test_names_with_numbers() -> None:
    assert scope_named("2of4") == NOfM(2, 4)
    assert scope_named("block16x8") == Tiles(16, 8)
    own = [scope_named(name).own_sparsity for name in ("2of4", "1of4", "2of3", "row")]
    assert own == [*map(Sparsity.of, (0.5, 0.75, 1 / 3)), None]


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
