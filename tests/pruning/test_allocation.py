"""Layer allocations: exact totals, bounds, and the formulas of their papers."""

from fractions import Fraction
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltpipe.pruning.allocation import apportion, by_shares
from ltpipe.pruning.allocations.erk import erk
from ltpipe.pruning.allocations.owl import Options, owl

PROPERTY = settings(max_examples=200, deadline=None)

SIZES = st.lists(st.integers(1, 5000), min_size=1, max_size=12)


def water_level(sizes: list[int], shares: list[float], keep: int) -> list[float]:
    """min(size, c * share) with the c, found by bisection, that keeps `keep` weights."""
    low, high = 0.0, max(size / share for size, share in zip(sizes, shares, strict=True) if share)
    for _ in range(200):
        middle = (low + high) / 2
        filled = sum(min(size, middle * share) for size, share in zip(sizes, shares, strict=True))
        low, high = (middle, high) if filled < keep else (low, middle)
    return [min(size, high * share) for size, share in zip(sizes, shares, strict=True)]


@PROPERTY
@given(SIZES, st.data())
def test_shares_are_filled_up_to_the_brim_and_the_total_is_exact(sizes: list[int], data: st.DataObject) -> None:
    share = st.integers(1, 10**6) | st.floats(1e-3, 1e3)
    shares = data.draw(st.lists(share, min_size=len(sizes), max_size=len(sizes)))
    prune = data.draw(st.integers(0, sum(sizes)))
    pruned = by_shares(sizes, shares, prune)
    assert sum(pruned) == prune
    assert all(0 <= count <= size for count, size in zip(pruned, sizes, strict=True))
    level = water_level(sizes, shares, sum(sizes) - prune)
    for size, count, wanted in zip(sizes, pruned, level, strict=True):
        assert abs(size - count - wanted) < 1 + 1e-6


@PROPERTY
@given(SIZES, st.data())
def test_shares_of_zero_keep_nothing_until_all_others_are_full(sizes: list[int], data: st.DataObject) -> None:
    shares = data.draw(st.lists(st.sampled_from([0.0, 2.0]), min_size=len(sizes), max_size=len(sizes)))
    prune = data.draw(st.integers(0, sum(sizes)))
    pruned = by_shares(sizes, shares, prune)
    assert sum(pruned) == prune
    worthless = sum(size for size, share in zip(sizes, shares, strict=True) if not share)
    lost = sum(count for count, share in zip(pruned, shares, strict=True) if share)
    assert lost == max(0, prune - worthless)


def test_largest_remainders_go_up_and_the_earlier_of_equals_first() -> None:
    assert apportion([Fraction("0.5"), Fraction("1.5"), Fraction("2.0")], 4) == [1, 1, 2]
    assert apportion([Fraction("0.2"), Fraction("1.5"), Fraction("0.3")], 2) == [0, 2, 0]
    assert by_shares([10, 10, 10], [1, 1, 1], 4) == [2, 1, 1]


def test_erk_of_an_example_by_hand() -> None:
    """4 x 4, 4 x 16 and 16 x 16 weights, 112 of 336 kept.

    Shares 8, 20 and 32 of 60 ask for 14.93, 37.33 and 59.73: nothing is full. Of 224 kept they ask for 29.9, 74.7 and
    119.5: the first two are full with 16 and 64, and 144 are left for the third.
    """
    shapes = [(1, 4, 4), (1, 4, 16), (1, 16, 16)]
    assert erk(shapes, 224) == [16 - 15, 64 - 37, 256 - 60]
    assert erk(shapes, 112) == [0, 0, 112]


def test_erk_is_the_density_of_rigl_and_takes_experts_as_matrices() -> None:
    """Where nothing is full: density ratio (sum of dims / product of dims), kernels included."""
    shapes = [(1, 64, 32, 3, 3), (1, 128, 64)]
    pruned = erk(shapes, 18_000)
    density = [1 - count / prod(shape) for count, shape in zip(pruned, shapes, strict=True)]
    raw = [(64 + 32 + 3 + 3) / (64 * 32 * 9), (128 + 64) / (128 * 64)]
    assert density[0] / density[1] == pytest.approx(raw[0] / raw[1], rel=1e-3)
    fused, alone = erk([(4, 30, 20), (1, 50, 40)], 3000), erk([(1, 30, 20)] * 4 + [(1, 50, 40)], 3000)
    assert fused == pytest.approx([sum(alone[:4]), alone[4]], abs=1)  # five remainders or two


def test_importance_keeps_in_proportion_to_the_mean() -> None:
    """Means 4 and 1: densities 0.8 and 0.2; with 80 more kept the first is full."""
    assert by_shares([100, 100], [400.0, 100.0], 100) == [20, 80]
    assert by_shares([100, 100], [400.0, 100.0], 60) == [0, 60]
    assert by_shares([100, 200], [400.0, 200.0], 240) == [60, 180]


def owl_of_the_authors(outliers: list[float], sparsity: float, window: float) -> list[float]:
    """Sparsities as in the authors' code (luuyin/OWL, prune_wanda_outlier): for blocks of equal size."""
    low, high = min(outliers), max(outliers)
    density = [(ratio - low) / (high - low) * window * 2 for ratio in outliers]
    mean = sum(density) / len(density)
    return [1 - (part - mean + 1 - sparsity) for part in density]


def test_owl_of_equal_blocks_is_that_of_the_authors() -> None:
    outliers = [0.01, 0.04, 0.03, 0.02]
    expected = owl_of_the_authors(outliers, 0.7, 0.08)
    counts = owl([10_000] * 4, list("abcd"), [Fraction(str(ratio)) for ratio in outliers], Fraction("0.7"), 28_000)
    assert counts == [round(10_000 * part) for part in expected]
    assert counts[0] == 7800
    assert counts[1] == 6200


def test_owl_clips_where_blocks_are_unequal() -> None:
    """A large block of few outliers pulls the mean to its end of the window; the small one stops at the other end."""
    counts = owl([9000, 1000], ["0", "1"], [Fraction(0), Fraction(1, 10)], Fraction("0.5"), 5000)
    assert counts == [4580, 420]


@PROPERTY
@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(-1, 4)), min_size=1, max_size=12),
    st.lists(st.integers(0, 20), min_size=5, max_size=5),
    st.integers(0, 1000),
)
def test_owl_is_exact_in_the_window_and_falls_with_outliers(
    tensors: list[tuple[int, int]], ratios: list[int], thousandths: int
) -> None:
    sparsity = Fraction(thousandths, 1000)
    sizes = [size for size, _ in tensors]
    blocks = [None if block < 0 else str(block) for _, block in tensors]
    outliers = [None if block is None else Fraction(ratios[int(block)], 100) for block in blocks]
    prune = round(sparsity * sum(sizes))
    counts = owl(sizes, blocks, outliers, sparsity, prune)
    assert sum(counts) == prune
    low, high = max(Fraction(0), sparsity - Fraction("0.08")), min(Fraction(1), sparsity + Fraction("0.08"))
    for size, count, block in zip(sizes, counts, blocks, strict=True):
        assert low * size - 1 < count < high * size + 1
        if block is None:
            assert abs(count - sparsity * size) < 1
    for size, count, ratio in zip(sizes, counts, outliers, strict=True):
        for other_size, other, more in zip(sizes, counts, outliers, strict=True):
            if ratio is not None and more is not None and ratio <= more:
                assert Fraction(count + 1, size) > Fraction(other - 1, other_size)


def test_owl_as_the_code_of_the_paper_computes_it() -> None:
    """Without clipping: the code's formula in float64, with blocks of one size, λ and M of one's own."""
    import numpy as np

    ratios = [Fraction(number, 100) for number in (1, 2, 3, 30)]
    for window, sparsity in ((0.08, "0.7"), (0.2, "0.5")):
        d = np.array([float(ratio) for ratio in ratios])
        kept = (d - d.min()) * (1 / (d.max() - d.min()) * window * 2)
        kept = kept - np.mean(kept) + (1 - float(sparsity))
        size = 10_000
        unclipped = owl([size] * 4, list("abcd"), ratios, Fraction(sparsity), round(float(sparsity) * 4 * size),
                        Options(window=window, clip=False))  # fmt: skip
        np.testing.assert_allclose(unclipped, size * (1 - kept), atol=1)
        clipped = owl([size] * 4, list("abcd"), ratios, Fraction(sparsity), round(float(sparsity) * 4 * size),
                      Options(window=window))  # fmt: skip
        assert max(abs(count / size - float(sparsity)) for count in clipped) <= window + 1 / size
        assert max(abs(count / size - float(sparsity)) for count in unclipped) > window + 1 / size


def test_owl_of_equal_outliers_is_uniform() -> None:
    assert owl([10, 30, 20], ["a", "b", None], [Fraction(1, 9)] * 2 + [None], Fraction("0.5"), 30) == [5, 15, 10]
