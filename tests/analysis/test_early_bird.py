"""Early-bird detection on sequences whose distances are known."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from handmade import exact, mask_of, save_mask

from ltpipe.analysis.early_bird import Detector, Watch, detect
from ltpipe.runtime.errors import UserError

SIZE = 1000


def moving(steps: list[int], kept: int = 500) -> list:
    """Masks of `kept` weights in a row, each moved by so many places: Hamming distance 2 x places / SIZE."""
    position, masks = 0, []
    for step in [0, *steps]:
        position += step
        masks.append(mask_of({"w": np.roll(np.arange(SIZE) < kept, position)}))
    return masks


def random_masks(sparsity: float, count: int = 8) -> list:
    generator = np.random.default_rng(7)
    kept = round(20_000 * (1 - sparsity))
    return [mask_of({"w": exact((20_000,), kept, generator)}, sparsity=str(sparsity)) for _ in range(count)]


def test_hamming_looks_at_the_newest_mask_against_each_of_the_four_before():
    found = detect(moving([100, 100, 20, 10, 10, 10, 10]), Detector())
    # mask 5 still lies 0.1 + 0.04 … behind mask 1; mask 6 is the first whose four predecessors are near enough
    assert found.history[5].values == pytest.approx((0.02, 0.04, 0.08, 0.28))
    assert found.history[6].values == pytest.approx((0.02, 0.04, 0.06, 0.1))
    assert found.converged == 6
    assert [step.held for step in found.history] == [0, 0, 0, 0, 0, 0, 1, 2]


def test_a_window_that_is_not_full_detects_nothing():
    still = moving([0] * 6)
    assert detect(still[:4], Detector()).converged is None
    assert detect(still, Detector()).converged == 4
    assert detect(still, Detector(rule="spearman")).converged == 1
    assert detect(still, Detector(window=3)).converged == 2


def test_patience_counts_masks_in_a_row():
    masks = moving([0, 0, 0, 0, 200, 0, 0, 0, 0, 0, 0])
    assert detect(masks, Detector(patience=1)).converged == 4
    assert detect(masks, Detector(patience=2)).converged == 10
    assert detect(masks, Detector(patience=9)).converged is None


@pytest.mark.parametrize(("step", "converges"), [(12, True), (13, False)])
def test_spearman_of_consecutive_masks_is_at_least_095(step, converges):
    """Half of the weights kept and Hamming distance h: a correlation of 1 - 2h, here 1 - 4 * step / 1000."""
    found = detect(moving([step]), Detector(rule="spearman"))
    assert found.history[1].values == pytest.approx((1 - 4 * step / SIZE,))
    assert found.converged == (1 if converges else None)


def test_jaccard_and_its_corrected_form():
    step, density = 25, 0.5
    (plain,) = detect(moving([step]), Detector(rule="jaccard", window=2)).history[1].values
    (corrected,) = detect(moving([step]), Detector(rule="jaccard", window=2, chance_corrected=True)).history[1].values
    chance = density / (2 - density)
    assert plain == pytest.approx(475 / 525)
    assert corrected == pytest.approx((475 / 525 - chance) / (1 - chance))


@pytest.mark.parametrize("sparsity", [0.97, 0.03])
def test_raw_hamming_fires_for_random_masks_at_extreme_sparsities_and_the_corrected_one_does_not(sparsity):
    masks = random_masks(sparsity)
    assert detect(masks, Detector()).converged == 4
    corrected = detect(masks, Detector(chance_corrected=True))
    assert corrected.converged is None
    assert np.mean(corrected.history[-1].values) == pytest.approx(1, abs=0.05)


def test_at_equal_densities_corrected_hamming_is_one_minus_spearman():
    masks = moving([3, 40, 7], kept=120)
    hamming = detect(masks, Detector(window=2, chance_corrected=True)).history
    spearman = detect(masks, Detector(rule="spearman")).history
    for a, b in zip(hamming[1:], spearman[1:], strict=True):
        assert a.values[0] == pytest.approx(1 - b.values[0])


def test_masks_that_keep_nothing_are_no_evidence():
    empty = [mask_of({"w": np.zeros(8, bool)})] * 6
    for detector in (Detector(chance_corrected=True), Detector(rule="spearman"), Detector(rule="jaccard")):
        assert detect(empty, detector).converged is None


def test_masks_are_looked_at_as_they_come_and_only_a_window_is_kept():
    taken = []

    def source():
        for index, mask in enumerate(moving([0] * 20)):
            taken.append(index)
            yield mask

    step = next(step for step in map(Watch(Detector()).look, source()) if step.converged)
    assert (step.index, taken[-1]) == (4, 4)


@pytest.mark.parametrize("wrong", [{"window": 1}, {"patience": 0}, {"threshold": 1.5}, {"threshold": -0.1}])
def test_what_cannot_work_is_refused(wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong))}: .*is not allowed; use"):
        Detector(**wrong)
    with pytest.raises(UserError, match="different weights"):
        detect([*moving([0]), mask_of({"w": np.ones(9, bool)})], Detector())


def test_script_writes_what_was_found(tmp_path):
    paths = [save_mask(mask, tmp_path / f"{index}") for index, mask in enumerate(moving([100, 0, 0, 0, 0]))]
    script = Path(__file__).parents[2] / "scripts/detect_early_bird.py"
    command = [sys.executable, script, "--masks", *paths, "--output", tmp_path / "out.json", "--patience", "1"]
    ended = subprocess.run([*map(str, command), "--rule", "hamming"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "converged at mask 5\n")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["converged"] == 5
    assert written["detector"]["threshold"] == 0.1
    assert [step["index"] for step in written["history"]] == list(range(6))
