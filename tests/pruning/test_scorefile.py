"""Score files: what they refuse, and that keys order as scores do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.manifest import Manifest, TensorEntry
from ltpipe.checkpoints.prunable import Selection
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import read_mask, unpack
from ltpipe.pruning.scorefile import ScoreFile, ordered_bits, score_writer
from ltpipe.runtime.errors import DamagedFileError, UserError

SHAPES = {"blocks.0.a.weight": (5, 8), "blocks.1.b.weight": (3, 7)}
MANIFEST = Manifest(
    "Tiny",
    "",
    "blocks",
    {name: TensorEntry("F32", shape, "", "Linear", matrices=(1, *shape)) for name, shape in SHAPES.items()},
)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of which only the manifest is there: nobody may need its weights."""
    (tmp_path / "model").mkdir()
    MANIFEST.write(tmp_path / "model" / "manifest.json")
    return tmp_path / "model"


def written(path, values, signed):
    with score_writer(path, MANIFEST, list(SHAPES), "mine", signed, {"precision": "float32"}) as write:
        for name in reversed(SHAPES):
            write(name, values[name])
    return ScoreFile(path)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=50))
def test_ordered_bits_order_like_the_values(values):
    floats = np.array(values, np.float32)
    bits = ordered_bits(floats)
    assert ((bits[:, None] < bits) == (floats[:, None] < floats)).all()


@pytest.mark.parametrize("signed", [False, True])
def test_masks_are_those_of_a_stable_sort_of_the_scores(signed, folder, tmp_path):
    rng = np.random.default_rng(3)
    values = {name: rng.integers(-4 if signed else 0, 5, shape).astype(np.float32) for name, shape in SHAPES.items()}
    written(tmp_path / "scores", values, signed)
    scores = tmp_path / "scores"
    make_histogram(Checkpoint.open(folder), "mine", None, Selection(), scores).write(tmp_path / "histogram")
    for sparsity in ("0.25", "0.5", "0.9"):
        made = make_mask(Checkpoint.open(folder), tmp_path / "histogram", "global", sparsity, tmp_path / "mask", scores)
        flat = np.concatenate([values[name].reshape(-1) for name in SHAPES])
        pruned = np.argsort(flat, kind="stable")[: round(float(sparsity) * flat.size)]
        kept = np.ones(flat.size, bool)
        kept[pruned] = False
        mask = read_mask(tmp_path / "mask")
        found = np.concatenate([unpack(mask.bits[name], shape).reshape(-1) for name, shape in SHAPES.items()])
        assert (found == kept).all()
        assert (made.kept, made.total, mask.criterion) == (kept.sum(), 61, "mine")


def test_scores_of_others_are_refused(folder, tmp_path):
    values = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    written(tmp_path / "scores", values, False)
    with pytest.raises(UserError, match="scores of criterion 'mine', expected 'yours'"):
        make_histogram(Checkpoint.open(folder), "yours", None, Selection(), tmp_path / "scores")
    with pytest.raises(UserError, match="criterion 'mine' needs a score file"):
        make_histogram(Checkpoint.open(folder), "mine", None, Selection())
    other = Manifest("Tiny", "", "blocks", {**MANIFEST.tensors, "c": TensorEntry("F32", (2,), "", "Linear")})
    other.write(folder / "manifest.json")
    with pytest.raises(UserError, match="scores of another model"):
        make_histogram(Checkpoint.open(folder), "mine", None, Selection(), tmp_path / "scores")


def test_what_is_no_score_file_is_refused(folder, tmp_path):
    values = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    written(tmp_path / "scores", values, False)
    make_histogram(Checkpoint.open(folder), "mine", None, Selection(), tmp_path / "scores").write(
        tmp_path / "histogram"
    )
    with pytest.raises(DamagedFileError, match="not a set of scores"):
        ScoreFile(tmp_path / "histogram")


def test_a_tensor_that_was_not_delivered_leaves_no_file(tmp_path):
    with (
        pytest.raises(ValueError, match="not written"),
        score_writer(tmp_path / "scores", MANIFEST, list(SHAPES), "mine", False, {}) as write,
    ):
        write("blocks.0.a.weight", np.ones((5, 8), np.float32))
    assert not list(tmp_path.iterdir())
