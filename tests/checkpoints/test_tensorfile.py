"""Weight files: round trips, agreement with the official safetensors package, refusal of damaged files."""

import json
import struct
import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import TensorData, tensor_writer, write_tensors
from ltpipe.runtime.errors import DamagedFileError, UserError

STORAGE = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

PROPERTY = settings(max_examples=80, deadline=None)

# Surrogates have no UTF-8; "__metadata__" is the one name the format reserves.
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name != "__metadata__"
)
TEXTS = st.dictionaries(NAMES, st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=3)


@st.composite
def tensor_bytes(draw: st.DrawFn) -> tuple[str, tuple[int, ...], bytes]:
    """A dtype, a shape (scalars and empty tensors too) and contents: any bits, NaNs included."""
    dtype = draw(st.sampled_from(sorted(STORAGE)))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    length = prod(shape) * np.dtype(STORAGE[dtype]).itemsize
    return dtype, shape, draw(st.binary(min_size=length, max_size=length))


def raw(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def in_chunks(array: np.ndarray, cut: int) -> Iterator[np.ndarray]:
    flat = array.reshape(-1)
    yield flat[:cut]
    yield flat[cut:]


@PROPERTY
@given(st.dictionaries(NAMES, tensor_bytes(), max_size=4), TEXTS, st.integers(0, 6))
def test_round_trip_and_official_reader_agree(
    tensors: dict[str, tuple[str, tuple[int, ...], bytes]], metadata: dict[str, str], cut: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        data = []
        for name, (dtype, shape, contents) in tensors.items():
            array = np.frombuffer(contents, STORAGE[dtype]).reshape(shape)
            data.append(TensorData(name, dtype, shape, in_chunks(array, cut)))
        write_tensors(path, data, metadata)

        file = TensorFile(path)
        assert set(file.specs) == set(tensors)
        assert file.metadata == metadata
        for name, (dtype, shape, contents) in tensors.items():
            array = file.array(name)
            assert (file.specs[name].dtype, file.specs[name].shape) == (dtype, shape)
            assert (array.dtype, array.shape, raw(array)) == (STORAGE[dtype], shape, contents)

        with safetensors.safe_open(path, "pt") as official:
            found = official.metadata()
            digests = found.pop("ltpipe_digests")
            assert found == metadata
            assert len(digests) == 16 * (1 + len(tensors))
            assert set(official.keys()) == set(tensors)
            for name, (dtype, shape, contents) in tensors.items():
                tensor = official.get_tensor(name)
                assert (tensor.dtype, tuple(tensor.shape)) == (TORCH[dtype], shape)
                assert bytes(tensor.reshape(-1).view(torch.uint8).numpy()) == contents


def test_reads_what_the_official_writer_wrote(tmp_path: Path) -> None:
    path = tmp_path / "official.safetensors"
    tensors = {
        "ä.weight": torch.arange(-3, 4, dtype=torch.float32).to(torch.bfloat16),
        "b.2": torch.linspace(-1, 1, 15).reshape(3, 5).to(torch.float16),
        "b.10": torch.linspace(-1, 1, 6).reshape(1, 2, 3),
    }
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    file = TensorFile(path)
    assert file.metadata == {"format": "pt"}
    assert {name: spec.shape for name, spec in file.specs.items()} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    assert file.specs["ä.weight"].dtype == "BF16"
    np.testing.assert_array_equal(file.array("ä.weight"), tensors["ä.weight"].view(torch.uint16).numpy())
    np.testing.assert_array_equal(file.array("b.2"), tensors["b.2"].numpy())
    np.testing.assert_array_equal(file.array("b.10"), tensors["b.10"].numpy())


@pytest.mark.parametrize(
    ("dtype", "array"),
    [("F16", np.ones(3, np.float16)), ("F32", np.ones((2, 2), np.float32)), ("U8", np.ones(5, np.uint8))],
)
def test_of_takes_dtype_and_shape_from_the_array(tmp_path: Path, dtype: str, array: np.ndarray) -> None:
    path = tmp_path / "of.safetensors"
    write_tensors(path, [TensorData.of("x", array)])
    assert TensorFile(path).specs["x"].dtype == dtype
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["x"], array)


def test_non_contiguous_arrays_are_written_row_major(tmp_path: Path) -> None:
    path = tmp_path / "transposed.safetensors"
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    write_tensors(path, [TensorData.of("x", array)])
    np.testing.assert_array_equal(TensorFile(path).array("x"), array)


def test_array_is_a_read_only_view_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_tensors(path, [TensorData.of("x", np.arange(100, dtype=np.float32))])
    file = TensorFile(path)
    first, second = file.array("x"), file.array("x")
    assert np.shares_memory(first, second)
    assert not first.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def failing_chunks(dtype: type[np.generic]) -> Iterator[np.ndarray]:
    yield np.zeros(4, dtype)
    raise OSError("source vanished")


def short_chunks(dtype: type[np.generic]) -> Iterator[np.ndarray]:
    yield np.zeros(4, dtype)


def long_chunks(dtype: type[np.generic]) -> Iterator[np.ndarray]:
    yield np.zeros(9, dtype)


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    ("chunks", "error"), [(failing_chunks, OSError), (short_chunks, ValueError), (long_chunks, ValueError)]
)
def test_failed_write_leaves_no_trace(tmp_path: Path, chunks, error: type[Exception], exists: bool) -> None:
    path = tmp_path / "weights.safetensors"
    if exists:
        write_tensors(path, [TensorData.of("old", np.arange(3, dtype=np.float32))])
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    first = TensorData.of("a", np.zeros(1000, np.float32))
    with pytest.raises(error):
        write_tensors(path, [first, TensorData("b", "F32", (8,), chunks(np.float32))])
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_write_replaces_an_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for value in (1, 2):
        write_tensors(path, [TensorData.of("x", np.full(3, value, np.float32))])
    assert TensorFile(path).array("x").tolist() == [2, 2, 2]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_missing_file_is_a_user_error_but_not_damage(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        TensorFile(tmp_path / "nowhere.safetensors")
    assert not isinstance(caught.value, DamagedFileError)
    assert_one_line_naming(caught.value, "nowhere.safetensors")


def test_missing_tensor_is_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    write_tensors(path, [TensorData.of("x", np.zeros(3, np.float32))])
    with pytest.raises(DamagedFileError) as caught:
        TensorFile(path).array("y")
    assert_one_line_naming(caught.value, path.name)


def assert_one_line_naming(error: Exception, name: str) -> None:
    message = str(error)
    assert len(message.splitlines()) == 1, message
    assert name in message


def refuse(path: Path) -> None:
    with pytest.raises(DamagedFileError) as caught:
        TensorFile(path)
    assert_one_line_naming(caught.value, path.name)


def sound_file(path: Path) -> bytes:
    tensors = [
        TensorData("a", "BF16", (3,), [np.array([1, 2, 3], np.uint16)]),
        TensorData.of("b", np.arange(5, dtype=np.float32)),
    ]
    write_tensors(path, tensors, {"kind": "test"})
    return path.read_bytes()


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    contents = sound_file(path)
    for length in range(len(contents)):
        path.write_bytes(contents[:length])
        refuse(path)


@pytest.mark.parametrize("extra", [1, 8, 4096])
def test_extended_file_is_refused(tmp_path: Path, extra: int) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(sound_file(path) + bytes(extra))
    refuse(path)


def file_with_header(path: Path, header: bytes | object, data: int) -> None:
    """A file with `data` zero bytes after an arbitrary header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_hand_made_header_is_accepted(tmp_path: Path) -> None:
    """The cases below must fail for their own fault, not because of how this test builds files."""
    path = tmp_path / "weights.safetensors"
    file_with_header(path, {"a": entry(), "b": entry(offsets=(8, 16))}, 16)
    assert set(TensorFile(path).specs) == {"a", "b"}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        pytest.param(b"\xff\xfe\x00garbage", 8, id="not-utf8"),
        pytest.param(b"{not json", 8, id="not-json"),
        pytest.param(b"", 0, id="empty-header"),
        pytest.param(b"[" * 100_000, 0, id="deeply-nested"),
        pytest.param([1, 2], 0, id="list"),
        pytest.param(7, 0, id="number"),
        pytest.param({"a": 3}, 0, id="entry-is-a-number"),
        pytest.param({"a": {"dtype": "F32"}}, 0, id="entry-incomplete"),
        pytest.param({"__metadata__": 3, "a": entry()}, 8, id="metadata-is-a-number"),
        pytest.param({"a": entry(dtype="F7_E4M2", offsets=(0, 2))}, 2, id="unknown-dtype"),
        pytest.param({"a\nb": entry(dtype="F7_E4M2", offsets=(0, 2))}, 2, id="unknown-dtype-two-line-name"),
        pytest.param({"a\nb": entry(shape=(3,))}, 8, id="wrong-shape-two-line-name"),
        pytest.param({"a": entry(dtype=["F32"])}, 8, id="dtype-is-a-list"),
        pytest.param({"a": entry(shape=(3,))}, 8, id="shape-too-large"),
        pytest.param({"a": entry(shape=(1,))}, 8, id="shape-too-small"),
        pytest.param({"a": entry(shape=(-1, -2))}, 8, id="negative-lengths"),
        pytest.param({"a": entry(shape=5)}, 8, id="shape-is-a-number"),
        pytest.param({"a": entry(offsets=(0,))}, 8, id="one-offset"),
        pytest.param({"a": entry(offsets=(-8, 0))}, 0, id="negative-offset"),
        pytest.param({"a": entry(offsets=(8, 0))}, 8, id="offsets-reversed"),
        pytest.param({"a": entry(offsets=(0, float("inf")))}, 8, id="infinite-offset"),
        pytest.param({"a": entry(), "b": entry()}, 8, id="same-bytes-twice"),
        pytest.param({"a": entry(), "b": entry(offsets=(4, 12))}, 12, id="overlap"),
        pytest.param({"a": entry(), "b": entry(offsets=(16, 24))}, 24, id="gap"),
        pytest.param({"a": entry(offsets=(8, 16))}, 16, id="gap-at-the-start"),
    ],
)
def test_nonsense_header_is_refused(tmp_path: Path, header: bytes | object, data: int) -> None:
    path = tmp_path / "weights.safetensors"
    file_with_header(path, header, data)
    refuse(path)


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 10**6])
def test_absurd_header_length_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", size) + b"{}" + bytes(100))
    refuse(path)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_corrupt_header_never_raises_anything_else(data: st.DataObject) -> None:
    """A changed header may happen to be valid still; then everything it promises can be read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        contents = bytearray(sound_file(path))
        header = 8 + struct.unpack("<Q", contents[:8])[0]
        for _ in range(data.draw(st.integers(1, 3))):
            contents[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(contents)
        try:
            file = TensorFile(path)
        except DamagedFileError as error:
            assert_one_line_naming(error, path.name)
        else:
            assert all(file.array(name).shape == spec.shape for name, spec in file.specs.items())


def test_tensors_can_be_written_as_they_become_known(tmp_path):
    path, arrays = tmp_path / "t.safetensors", {name: np.arange(5, dtype=np.float32) + ord(name) for name in "abc"}
    with tensor_writer(path, dict.fromkeys(arrays, ("F32", (5,))), {"kind": "test"}) as write:
        for name in "cab":
            write(name, [arrays[name][:2], arrays[name][2:]])
        assert not path.exists()
    file = TensorFile(path)
    assert list(file.specs) == ["a", "b", "c"]
    assert file.metadata == {"kind": "test"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(file.array(name), array)


def test_a_tensor_that_was_not_written_is_an_error(tmp_path):
    layout = {"a": ("F32", (5,)), "b": ("F32", (5,))}
    with pytest.raises(ValueError, match="b not written"), tensor_writer(tmp_path / "t.safetensors", layout) as write:
        write("a", [np.zeros(5, np.float32)])
    assert not list(tmp_path.iterdir())
