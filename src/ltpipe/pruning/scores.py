"""Rank keys: how valuable a weight is, as integers that order like the score.

Ranking needs no floating point. The bit pattern of a finite float without its sign orders like its magnitude, so a
criterion returns *rank keys*: chunks of uint16 or uint32 whose lower 15 or 31 bits order like the score (the top bit is
ignored). Small keys are pruned first.

This module has the criteria that only need a weight's own value. The others are in `ltpipe.scoring.criteria`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

from ltpipe.checkpoints.header import TensorSpec
from ltpipe.checkpoints.tensorfile import TensorFile, in_chunks
from ltpipe.runtime.determinism import stable_seed
from ltpipe.runtime.errors import UserError

CHUNK = 1 << 24  # weights per chunk; a multiple of 8, so that packed chunks join seamlessly
COPIED_CHUNK = 1 << 22  # for keys that are computed, not read

WEIGHT_CRITERIA = ("magnitude", "random")
"""The criteria that rank a weight's own value, without a score stage."""

BFLOAT16_INFINITY, FLOAT16_INFINITY, FLOAT32_INFINITY = 0x7F80, 0x7C00, 0x7F800000
"""Bit patterns from which on a float is not finite."""


Chunks = Callable[[str], Iterator[np.ndarray]]
"""Maps a tensor's name to its keys in row-major order, in chunks whose sizes, except the last, are multiples of 8.

Where the keys are bytes of a file, damage raises DamagedFileError after the last chunk.
"""


@dataclass(frozen=True)
class RankKeys:
    """The rank keys of a set of tensors.

    Attributes:
        names: tensors in canonical (byte) order.
        shapes: shapes of the tensors.
        bits: 15 or 31, the width of every key.
        infinite: keys from here on stand for scores that are not finite. This identifies the float format of the keys;
            keys without such scores (2^31) are uniform numbers.
        chunks: the keys, in chunks.
        signed: whether keys stand for signed scores; such keys only order, and do not give a size.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    bits: int
    infinite: int
    chunks: Chunks
    signed: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of weights in each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    def values(self, chunk: np.ndarray) -> np.ndarray:
        """Return the scores that a chunk of keys stands for: float32 of its shape; in [0, 1) for uniform keys.

        Raises:
            UserError: the scores are signed.
        """
        if self.signed:
            raise UserError(
                "this scope adds up scores, but this criterion's scores are signed; choose a scope that only ranks "
                "them, for example global"
            )
        magnitudes = chunk & chunk.dtype.type((1 << self.bits) - 1)
        if self.infinite == BFLOAT16_INFINITY:
            return (magnitudes.astype(np.uint32) << np.uint32(16)).view(np.float32)
        if self.infinite == FLOAT16_INFINITY:
            return magnitudes.view(np.float16).astype(np.float32)
        if self.infinite == FLOAT32_INFINITY:
            return magnitudes.view(np.float32)
        return (magnitudes >> np.uint32(7)).astype(np.float32) * np.float32(2**-24)  # the 24 bits that fit in float32


class Weights(Protocol):
    """A source of weights for a criterion: a `TensorFile`, or anything else that returns the same kind of arrays.

    `path` is its name in error messages.
    """

    @property
    def path(self) -> object:
        """The source's name."""
        ...

    def spec(self, name: str) -> TensorSpec:
        """Return dtype and shape of the tensor `name`."""
        ...

    def array(self, name: str) -> np.ndarray:
        """Return the tensor `name`, in its `STORAGE` dtype."""
        ...


def weight_keys(criterion: str, weights: Weights, names: Sequence[str], seed: int | None) -> RankKeys:
    """Return rank keys of tensors by one of the `WEIGHT_CRITERIA`; `ltpipe.scoring.criterion` knows all criteria.

    Raises:
        UserError: the criterion needs a seed, or does not rank a tensor's dtype.
    """
    return magnitude_keys(weights, names) if criterion == "magnitude" else random_keys(weights, names, seed)


def magnitude_keys(weights: Weights, names: Sequence[str]) -> RankKeys:
    """Return keys of |w|, the criterion of Han et al. 2015 (1506.02626) and Frankle & Carbin 2019 (1803.03635).

    They are the weights' own bit patterns, read from the mapped file without a copy. Tensors in a single 16-bit format
    give 15-bit keys. Otherwise keys have the 31 bits of float32, to which every 16-bit float converts exactly.

    Raises:
        UserError: a tensor has a dtype other than BF16, F16 and F32.
    """
    dtypes = {name: weights.spec(name).dtype for name in names}
    for name, dtype in dtypes.items():
        if dtype not in ("BF16", "F16", "F32"):
            raise UserError(
                f"{weights.path}: '{name}' has dtype {dtype}, but magnitude ranks BF16, F16 and F32; set the model's "
                "dtype to float32"
            )
    shapes = tuple(weights.spec(name).shape for name in names)
    for half, infinite in (("BF16", BFLOAT16_INFINITY), ("F16", FLOAT16_INFINITY)):
        if set(dtypes.values()) == {half}:
            return RankKeys(tuple(names), shapes, 15, infinite, _own_bits(weights))
    return float32_rank_keys(weights, names, shapes)


def random_keys(weights: Weights, names: Sequence[str], seed: int | None) -> RankKeys:
    """Return keys of independent uniform scores: the control that any criterion must beat.

    They are from NumPy's Philox, keyed by (seed, tensor name): the same on every machine and in any order.

    Raises:
        UserError: there is no seed.
    """
    if seed is None:
        raise UserError("criterion 'random' needs a seed")
    shapes = {name: weights.spec(name).shape for name in names}
    chunks: Chunks = lambda name: _uniform(seed, name, prod(shapes[name]))  # noqa: E731
    return RankKeys(tuple(shapes), tuple(shapes.values()), 31, 1 << 31, chunks)


def float32_rank_keys(weights: Weights, names: Sequence[str], shapes: tuple[tuple[int, ...], ...]) -> RankKeys:
    """Return 31-bit rank keys of the magnitudes of BF16, F16 or F32 tensors."""
    stored = {weights.spec(name).dtype for name in names}
    chunks = _own_bits(weights) if stored == {"F32"} else lambda name: float32_keys(weights, name)
    return RankKeys(tuple(names), shapes, 31, FLOAT32_INFINITY, chunks)


def _own_bits(weights: Weights) -> Chunks:
    """Return chunks of keys that are the weights' own bit patterns, read in place."""
    if isinstance(weights, TensorFile):
        return lambda name: map(_patterns, weights.chunks(name, CHUNK))
    return lambda name: map(_patterns, in_chunks(weights.array(name).reshape(-1), CHUNK))


def _patterns(values: np.ndarray) -> np.ndarray:
    """Return the bit patterns of 16-bit or 32-bit floats, without a copy."""
    return values.view(np.uint16 if values.itemsize == 2 else np.uint32)


def float32_keys(weights: Weights, name: str) -> Iterator[np.ndarray]:
    """Yield 31-bit keys of the magnitudes of a BF16, F16 or F32 tensor; F32 is not copied."""
    flat = weights.array(name).reshape(-1)
    if flat.dtype == np.float32:
        yield from map(_patterns, in_chunks(flat, CHUNK))
        return
    for chunk in in_chunks(flat, COPIED_CHUNK):
        if weights.spec(name).dtype == "BF16":
            yield chunk.astype(np.uint32) << np.uint32(16)
        else:
            yield chunk.astype(np.float32).view(np.uint32)


def _uniform(seed: int, name: str, size: int) -> Iterator[np.ndarray]:
    stream = np.random.Philox(key=stable_seed(seed, name))
    for start in range(0, size, COPIED_CHUNK):
        count = min(COPIED_CHUNK, size - start)
        yield stream.random_raw((count + 1) // 2).astype("<u8", copy=False).view("<u4")[:count]
