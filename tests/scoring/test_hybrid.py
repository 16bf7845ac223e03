"""Hybrids: sums of scores, each brought to a mean magnitude of one first."""

import numpy as np
import pytest

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.pruning.scorefile import ScoreFile, score_writer
from ltpipe.runtime.errors import UserError
from ltpipe.scoring.hybrid import HybridPart, hybrid_parts, make_hybrid


@pytest.fixture
def parts(canonical_folder, tmp_path):
    """A folder, random scores of it (some negative) and their values."""
    folder = canonical_folder("llama")
    manifest, rng = Manifest.read(folder / MANIFEST), np.random.default_rng(1)
    names = Selection().names(manifest)
    values = {name: rng.normal(3, 2, manifest.tensors[name].shape).astype(np.float32) for name in names}
    with score_writer(tmp_path / "scores", manifest, names, "mine", True, {}) as write:
        for name in names:
            write(name, values[name])
    return folder, tmp_path / "scores", values


def test_a_hybrid_is_the_weighted_sum_of_normalised_scores(parts, tmp_path):
    folder, path, values = parts
    make_hybrid(
        Checkpoint.open(folder),
        "mix",
        [HybridPart("magnitude", 0.25), HybridPart(str(path), 3)],
        Selection(),
        tmp_path / "mix",
    )
    file, weights = ScoreFile(tmp_path / "mix"), TensorFile(folder / WEIGHTS)
    magnitudes = {name: abs(weights.array(name).astype(np.float64)) for name in values}
    mean = np.concatenate([part.reshape(-1) for part in magnitudes.values()]).mean()
    scale = np.concatenate([abs(part.astype(np.float64)).reshape(-1) for part in values.values()]).mean()
    assert (file.criterion, file.signed) == ("mix", True)
    for name in values:
        wanted = 0.25 * magnitudes[name] / mean + 3 * values[name] / scale
        np.testing.assert_allclose(file.array(name), wanted, rtol=1e-6, atol=1e-6)


def test_what_cannot_be_combined_is_refused(parts, canonical_folder, tmp_path):
    folder, path, values = parts
    target = tmp_path / "mix"
    with pytest.raises(UserError, match="weight -1 of magnitude is not allowed; use a number above 0"):
        make_hybrid(Checkpoint.open(folder), "mix", [HybridPart("magnitude", -1)], Selection(), target)
    with pytest.raises(UserError, match="scores of another model"):
        make_hybrid(Checkpoint.open(canonical_folder("gpt2")), "mix", [HybridPart(str(path), 1)], Selection(), target)
    manifest = Manifest.read(folder / MANIFEST)
    with score_writer(path, manifest, list(values), "mine", False, {}) as write:
        for name in values:
            write(name, np.zeros(manifest.tensors[name].shape, np.float32))
    with pytest.raises(UserError, match="are all zero and cannot be normalised"):
        make_hybrid(Checkpoint.open(folder), "mix", [HybridPart(str(path), 1)], Selection(), target)
    with pytest.raises(UserError, match="2 scores but 1 weights; give each score one weight"):
        hybrid_parts(["magnitude", str(path)], [1.0])
    assert not target.exists()
