"""Overlap against bool arrays, ranks by sorting, and chance levels against simulation."""

from dataclasses import replace

import hypothesis.extra.numpy as hnp
import numpy as np
import pandas as pd
import pytest
from handmade import exact, mask_of, save_mask
from hypothesis import given, settings
from hypothesis import strategies as st

from ltpipe.analysis import overlap as module
from ltpipe.analysis.overlap import Overlap, compare, layerwise_chance, total
from ltpipe.analysis.overlap_tables import overlap_tables
from ltpipe.runtime.errors import UserError

SIZES = st.integers(1, 300)


def by_hand(x: np.ndarray, y: np.ndarray) -> tuple[float | None, float, float | None]:
    """Jaccard, Hamming, and Spearman as Pearson's correlation of average ranks."""
    ranks = pd.DataFrame({"x": x, "y": y}).astype(int).rank()
    constant = x.all() or y.all() or not x.any() or not y.any()
    spearman = None if constant else float(np.corrcoef(ranks["x"], ranks["y"])[0, 1])
    return (float((x & y).sum() / (x | y).sum()) if (x | y).any() else None), float((x != y).mean()), spearman


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 5))
def test_equals_bool_arrays_per_tensor_and_in_total(data, tensors):
    a, b = {}, {}
    for index in range(tensors):
        size = data.draw(SIZES)
        a[f"w{index}"], b[f"w{index}"] = (data.draw(hnp.arrays(np.bool_, size)) for _ in range(2))
    parts = compare(mask_of(a), mask_of(b))
    assert list(parts) == list(a)
    pairs = [(parts[name], a[name], b[name]) for name in a]
    pairs.append((total(parts.values()), np.concatenate(list(a.values())), np.concatenate(list(b.values()))))
    for found, x, y in pairs:
        jaccard, hamming, spearman = by_hand(x, y)
        assert (found.jaccard, found.hamming) == (jaccard, hamming)
        assert found.spearman == (None if spearman is None else pytest.approx(spearman, abs=1e-12))


def test_blocks_join_without_a_seam_and_bits_need_no_alignment(monkeypatch):
    generator = np.random.default_rng(0)
    x, y = (generator.random(50_021) < 0.3 for _ in range(2))
    monkeypatch.setattr(module, "_BLOCK", 72)
    a, b = mask_of({"w": x}), mask_of({"w": y})
    shifted = replace(a, bits={"w": np.concatenate([np.zeros(1, np.uint8), a.bits["w"]])[1:]})
    assert compare(shifted, b)["w"].both == int((x & y).sum())


def test_a_mask_with_itself_and_with_its_complement():
    x = np.arange(1000) % 3 == 0
    same = compare(mask_of({"w": x}), mask_of({"w": x}))["w"]
    other = compare(mask_of({"w": x}), mask_of({"w": ~x}))["w"]
    assert (same.jaccard, same.hamming, same.spearman) == (1.0, 0.0, pytest.approx(1.0))
    assert (other.jaccard, other.hamming, other.spearman) == (0.0, 1.0, pytest.approx(-1.0))


@pytest.mark.parametrize("density", [0.03, 0.5, 0.9])
def test_chance_levels_of_equal_densities_are_the_known_formulas(density):
    size = 10_000
    found = Overlap(size, round(size * density), round(size * density), 0)
    assert found.jaccard_chance == pytest.approx(density / (2 - density))
    assert found.hamming_chance == pytest.approx(2 * density * (1 - density))


@pytest.mark.parametrize(("kept_a", "kept_b"), [(100, 100), (500, 500), (50, 900), (950, 700)])
def test_chance_levels_are_what_random_masks_show(kept_a, kept_b):
    generator = np.random.default_rng(kept_a + kept_b)
    found = [
        compare(mask_of({"w": exact((1000,), kept_a, generator)}), mask_of({"w": exact((1000,), kept_b, generator)}))
        for _ in range(600)
    ]
    parts = [part["w"] for part in found]
    for value, chance in (("jaccard", "jaccard_chance"), ("hamming", "hamming_chance")):
        values = [getattr(part, value) for part in parts]
        error = 4 * np.std(values) / np.sqrt(len(values))
        assert np.mean(values) == pytest.approx(getattr(parts[0], chance), abs=error + 1e-3 * (value == "jaccard"))
    assert np.mean([part.spearman for part in parts]) == pytest.approx(0, abs=4 / np.sqrt(1000 * 600))


def test_layerwise_chance_knows_that_layers_differ_in_density():
    """Masks that agree on layer densities alone: above the level of the whole, at the level of the layers."""
    generator = np.random.default_rng(3)

    def drawn():
        return mask_of({"a": exact((100, 100), 9000, generator), "b": exact((100, 100), 500, generator)})

    parts = [compare(drawn(), drawn()) for _ in range(30)]
    jaccard, hamming = layerwise_chance(parts[0]).values()
    wholes = [total(part.values()) for part in parts]
    assert np.mean([whole.jaccard for whole in wholes]) == pytest.approx(jaccard, abs=2e-3)
    assert np.mean([whole.hamming for whole in wholes]) == pytest.approx(hamming, abs=2e-3)
    assert jaccard > wholes[0].jaccard_chance + 0.2
    assert hamming < wholes[0].hamming_chance - 0.2


def test_empty_and_full_masks_have_no_correlation_and_empty_ones_no_index():
    nothing, everything = Overlap(8, 0, 0, 0), Overlap(8, 8, 8, 8)
    assert (nothing.jaccard, nothing.jaccard_chance, nothing.spearman, nothing.hamming) == (None, None, None, 0.0)
    assert (everything.jaccard, everything.spearman, everything.hamming_chance) == (1.0, None, 0.0)


@pytest.mark.parametrize("other", [{"w": np.ones(9, bool)}, {"v": np.ones(8, bool)}, {}])
def test_masks_of_other_weights_are_refused(other):
    with pytest.raises(UserError, match="different weights"):
        compare(mask_of({"w": np.ones(8, bool)}), mask_of(other))


# The tables of a model's grid


def grid(folder, cells, **changes):
    generator = np.random.default_rng(1)
    paths = []
    for index, (criterion, scope, seed, sparsity) in enumerate(cells):
        arrays = {"a": generator.random((4, 10)) > sparsity, "b": generator.random(33) > sparsity}
        mask = mask_of(arrays, criterion=criterion, scope=scope, seed=seed, sparsity=str(sparsity), **changes)
        paths.append(save_mask(mask, folder / f"{index}"))
    return paths


def test_pairs_differ_in_one_respect_and_a_missing_seed_is_no_difference(tmp_path):
    cells = [
        ("magnitude", "global", None, 0.5), ("magnitude", "global", None, 0.25), ("magnitude", "layer", None, 0.5),
        ("random", "global", 0, 0.5), ("random", "global", 1, 0.5), ("random", "layer", 0, 0.25),
    ]  # fmt: skip
    pairs, layers = overlap_tables("m", grid(tmp_path, cells))
    named = {
        frozenset(
            {tuple(row[f"{axis}_{side}"] for axis in ("criterion", "scope", "seed", "sparsity")) for side in "ab"}
        )
        for row in pairs.astype(object).where(pairs.notna(), None).to_dict("records")
    }
    m50, m25, layer, r0, r1, _ = cells
    assert named == {frozenset(pair) for pair in [(m50, m25), (m50, layer), (m50, r0), (m50, r1), (r0, r1)]}
    assert sorted(pairs["differs_in"]) == ["criterion", "criterion", "scope", "seed", "sparsity"]
    assert len(layers) == 2 * len(pairs)
    summed = layers.groupby(["criterion_a", "scope_a", "sparsity_a", "criterion_b", "scope_b", "seed_b"], dropna=False)
    assert sorted(summed["both"].sum()) == sorted(pairs["both"])
    assert set(pairs["weights"]) == {73}


def test_the_order_of_the_files_does_not_matter_and_one_mask_gives_empty_tables(tmp_path):
    cells = [("magnitude", "global", None, s) for s in (0.9, 0.1, 0.5)]
    paths = grid(tmp_path, cells)
    pd.testing.assert_frame_equal(overlap_tables("m", paths)[1], overlap_tables("m", paths[::-1])[1])
    pairs, layers = overlap_tables("m", paths[:1])
    assert (len(pairs), len(layers)) == (0, 0)
    assert {"jaccard", "jaccard_chance"} <= set(pairs.columns) & set(layers.columns)


def test_masks_of_two_models_or_given_twice_are_refused(tmp_path):
    (path,) = grid(tmp_path, [("magnitude", "global", None, 0.5)])
    (tmp_path / "x").mkdir()
    (stranger,) = grid(tmp_path / "x", [("magnitude", "global", None, 0.25)], checkpoint="0" * 64)
    with pytest.raises(UserError, match="mask of another model"):
        overlap_tables("m", [path, stranger])
    with pytest.raises(UserError, match="give each mask once"):
        overlap_tables("m", [path, path])
