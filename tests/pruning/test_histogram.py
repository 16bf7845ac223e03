"""Histograms of keys: round trips on disk, and refusal of weights that have no magnitude."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from cutting import write_cut
from hypothesis import given, settings
from hypothesis import strategies as st

from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.pruning import kernels
from ltpipe.pruning.histogram import KeyHistogram, histogram_of
from ltpipe.pruning.scores import weight_keys
from ltpipe.runtime.errors import DamagedFileError, UserError

CHECKPOINT = "0123456789abcdef" * 4

FINITE_F32 = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Starting a second thread for a few numbers costs more than the work, above all on a busy machine."""
    kernels.use_threads(1)
    yield
    kernels.use_threads(2)


def count(folder: Path, tensors: list[TensorData], criterion: str = "magnitude", seed: int | None = None):
    """The keys of all `tensors` and their histogram."""
    path = folder / "weights.safetensors"
    write_tensors(path, tensors)
    names = sorted((tensor.name for tensor in tensors), key=str.encode)
    keys = weight_keys(criterion, TensorFile(path), names, seed=seed)
    return keys, histogram_of(keys, checkpoint=CHECKPOINT, criterion=criterion, seed=seed)


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=FINITE_F32),
    hnp.arrays(np.uint16, st.integers(1, 60), elements=st.integers(0, 0x7F7F)),
    st.sampled_from([("magnitude", None), ("random", 0), ("random", 2**40 + 1)]),
)
def test_round_trip(single: np.ndarray, brain: np.ndarray, recipe: tuple[str, int | None]) -> None:
    """What is read writes the same bytes again and makes the same masks."""
    tensors = [TensorData.of("ü", single), TensorData("b", "BF16", brain.shape, [brain])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys, histogram = count(folder, tensors, *recipe)
        histogram.write(folder / "first")
        again = KeyHistogram.read(folder / "first")
        again.write(folder / "second")
        assert (folder / "second").read_bytes() == (folder / "first").read_bytes()
        for scope in ("global", "layer"):
            write_cut(folder / "mask", keys, histogram, scope, "0.45")
            write_cut(folder / "mask-again", keys, again, scope, "0.45")
            assert (folder / "mask-again").read_bytes() == (folder / "mask").read_bytes()


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("BF16", [0x7F80, 0xFF80, 0x7F81, 0xFFC0, 0x7FFF]),
        ("F16", [0x7C00, 0xFC00, 0x7C01, 0xFE00, 0x7FFF]),
        ("F32", [0x7F800000, 0xFF800000, 0x7F800001, 0xFFC00000, 0x7FFFFFFF]),
    ],
)
@pytest.mark.parametrize("size", [1, 1001, 200_003])
def test_infinities_and_nans_are_refused(tmp_path: Path, dtype: str, bits: list[int], size: int) -> None:
    """By name; both signs, most and least payload, at the first, middle and last place."""
    word = np.uint32 if dtype == "F32" else np.uint16
    for index, pattern in enumerate(bits):
        array = np.ones(size, word)
        array[[0, size // 2, size - 1][index % 3]] = pattern
        stored = array if dtype == "BF16" else array.view(f"f{array.itemsize}")
        sound = TensorData.of("sound", np.ones(3, np.float32))
        with pytest.raises(UserError, match="culprit") as caught:
            count(tmp_path, [sound, TensorData("culprit", dtype, (size,), [stored])])
        assert len(str(caught.value).splitlines()) == 1
        assert "sound" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_largest_finite_values_are_accepted(tmp_path: Path, dtype: type[np.floating]) -> None:
    largest = np.finfo(dtype).max
    keys, histogram = count(tmp_path, [TensorData.of("w", np.array([largest, -largest, 0], dtype))])
    write_cut(tmp_path / "mask", keys, histogram, "global", "0.5")
    assert (tmp_path / "mask").exists()


def test_missing_histogram_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        KeyHistogram.read(tmp_path / "nowhere")


def test_truncated_or_foreign_histogram_is_damaged(tmp_path: Path) -> None:
    _, histogram = count(tmp_path, [TensorData.of("w", np.arange(1000, dtype=np.float32))])
    path = tmp_path / "histogram"
    histogram.write(path)
    sound = path.read_bytes()
    for contents in (b"", sound[:100], sound[: len(sound) // 2], sound[:-1]):
        path.write_bytes(contents)
        with pytest.raises(DamagedFileError, match="histogram"):
            KeyHistogram.read(path)
    with pytest.raises(DamagedFileError, match="weights"):
        KeyHistogram.read(tmp_path / "weights.safetensors")
