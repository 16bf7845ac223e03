"""Criteria: how valuable a weight is, as integers that order like the score.

Ranking needs no floating point. The bit pattern of a finite float without its sign orders like its magnitude, so a
criterion returns *rank keys*: blocks of uint16 or uint32 whose lower 15 or 31 bits order like the score (the top bit is
ignored). Small keys are pruned first.

This module has the criteria that only need a weight's own value. The others are in `ltpipe.scoring.criteria`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import ClassVar, Protocol

import numpy as np

from ltpipe.checkpoints.header import TensorSpec
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.runtime.determinism import stable_seed
from ltpipe.runtime.digest import Digest
from ltpipe.runtime.errors import UserError

BLOCK = 1 << 24  # weights per block; a multiple of 8, so that packed blocks join seamlessly
COPIED_BLOCK = 1 << 22  # for keys that are computed, not read

BFLOAT16_INFINITY, FLOAT16_INFINITY, FLOAT32_INFINITY = 0x7F80, 0x7C00, 0x7F800000
"""Bit patterns from which on a float is not finite."""


Blocks = Callable[[str], Iterator[np.ndarray]]
"""Maps a tensor's name to its keys in row-major order, in blocks whose sizes, except the last, are multiples of 8."""


@dataclass(frozen=True)
class MappedBlocks:
    """Blocks of keys that are bytes of a file, which a reader can check as it reads."""

    file: TensorFile

    def __call__(self, name: str) -> Iterator[np.ndarray]:
        """Return the blocks, after checking the whole tensor."""
        return _patterns(self.file.array(name))

    def unchecked(self, name: str) -> tuple[Iterator[np.ndarray], Callable[[int], None]]:
        """Return the unchecked blocks, and a function to call with their digest."""
        return _patterns(self.file.unchecked(name)), partial(self.file.check, name)


@dataclass(frozen=True)
class RankKeys:
    """The rank keys of a set of tensors.

    Attributes:
        names: tensors in canonical (byte) order.
        shapes: shapes of the tensors.
        bits: 15 or 31, the width of every key.
        infinite: keys from here on stand for scores that are not finite. This identifies the float format of the keys;
            keys without such scores (2^31) are uniform numbers.
        blocks: blocks of the keys. Their type tells whether they are bytes of a file, so that computed keys are never
            mistaken for these.
        signed: whether keys stand for signed scores; such keys only order, and do not give a size.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    bits: int
    infinite: int
    blocks: Blocks
    signed: bool = False

    @contextmanager
    def digested(self, name: str) -> Iterator[tuple[Iterator[np.ndarray], Digest | None]]:
        """Give a tensor's blocks, and a digest (or None) that the reader must update with all of them.

        Raises:
            DamagedFileError: the blocks are not the bytes that were written.
        """
        if not isinstance(self.blocks, MappedBlocks):
            yield self.blocks(name), None
            return
        blocks, check = self.blocks.unchecked(name)
        seen = Digest()
        yield blocks, seen
        check(seen.value)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of weights in each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    def values(self, block: np.ndarray) -> np.ndarray:
        """Return the scores that a block of keys stands for: float32 of its shape; in [0, 1) for uniform keys.

        Raises:
            UserError: the scores are signed.
        """
        if self.signed:
            raise UserError(
                "this scope adds up scores, but this criterion's scores are signed; choose a scope that only ranks "
                "them, for example global"
            )
        magnitudes = block & block.dtype.type((1 << self.bits) - 1)
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


class Criterion(Protocol):
    """Scores the weights of a checkpoint.

    `stochastic` tells whether the keys depend on the seed; if not, one mask serves all seeds.
    """

    name: ClassVar[str]
    stochastic: ClassVar[bool]

    def keys(self, weights: Weights, names: Sequence[str], seed: int | None) -> RankKeys:
        """Return rank keys of the tensors `names` of `weights`."""
        ...


class Magnitude(Criterion):
    """|w|, the criterion of Han et al. 2015 (1506.02626) and Frankle & Carbin 2019 (1803.03635)."""

    name = "magnitude"
    stochastic = False

    def keys(self, weights: Weights, names: Sequence[str], seed: int | None) -> RankKeys:  # noqa: ARG002
        """Return the weights' own bit patterns, read from the mapped file without a copy.

        Tensors in a single 16-bit format give 15-bit keys. Otherwise keys have the 31 bits of float32, to which every
        16-bit float converts exactly.

        Raises:
            UserError: a tensor has a dtype other than BF16, F16 and F32.
        """
        dtypes = {weights.spec(name).dtype for name in names}
        for name in names:
            if weights.spec(name).dtype not in ("BF16", "F16", "F32"):
                raise UserError(
                    f"{weights.path}: '{name}' has dtype {weights.spec(name).dtype}, but magnitude ranks BF16, F16 and "
                    "F32; set the model's dtype to float32"
                )
        shapes = tuple(weights.spec(name).shape for name in names)
        if dtypes == {"BF16"} or dtypes == {"F16"}:
            infinite = BFLOAT16_INFINITY if dtypes == {"BF16"} else FLOAT16_INFINITY
            return RankKeys(tuple(names), shapes, 15, infinite, _own_bits(weights))
        return float32_rank_keys(weights, names, shapes)


class Random(Criterion):
    """Independent uniform scores: the control that any criterion must beat."""

    name = "random"
    stochastic = True

    def keys(self, weights: Weights, names: Sequence[str], seed: int | None) -> RankKeys:
        """Return keys from NumPy's Philox, keyed by (seed, tensor name): the same on every machine and in any order."""
        if seed is None:
            raise UserError("criterion 'random' needs a seed")
        shapes = {name: weights.spec(name).shape for name in names}
        return RankKeys(
            tuple(shapes),
            tuple(shapes.values()),
            31,
            1 << 31,
            lambda name: _uniform(seed, name, prod(shapes[name])),
        )


CRITERIA: Mapping[str, Criterion] = {criterion.name: criterion for criterion in (Magnitude(), Random())}


def criterion_named(name: str) -> Criterion:
    """Look up a criterion that ranks a weight's own value; `ltpipe.scoring.criterion` knows all criteria.

    Raises:
        UserError: there is no such criterion without a score stage.
    """
    if name not in CRITERIA:
        raise UserError(f"criterion '{name}' needs a score file; without one, use {', '.join(sorted(CRITERIA))}")
    return CRITERIA[name]


def float32_rank_keys(weights: Weights, names: Sequence[str], shapes: tuple[tuple[int, ...], ...]) -> RankKeys:
    """Return 31-bit rank keys of the magnitudes of BF16, F16 or F32 tensors."""
    stored = {weights.spec(name).dtype for name in names}
    blocks = _own_bits(weights) if stored == {"F32"} else lambda name: float32_keys(weights, name)
    return RankKeys(tuple(names), shapes, 31, FLOAT32_INFINITY, blocks)


def _own_bits(weights: Weights) -> Blocks:
    """Return blocks of keys that are the weights' own bit patterns, read in place."""
    if isinstance(weights, TensorFile) and weights.has_digests:
        return MappedBlocks(weights)
    return lambda name: _patterns(weights.array(name))


def _patterns(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the bit patterns of 16-bit or 32-bit floats in blocks, without a copy."""
    flat = array.reshape(-1).view(np.uint16 if array.itemsize == 2 else np.uint32)
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK]


def float32_keys(weights: Weights, name: str) -> Iterator[np.ndarray]:
    """Yield 31-bit keys of the magnitudes of a BF16, F16 or F32 tensor; F32 is not copied."""
    flat = weights.array(name).reshape(-1)
    if flat.dtype == np.float32:
        yield from _patterns(flat)
        return
    for start in range(0, flat.size, COPIED_BLOCK):
        block = flat[start : start + COPIED_BLOCK]
        if weights.spec(name).dtype == "BF16":
            yield block.astype(np.uint32) << np.uint32(16)
        else:
            yield block.astype(np.float32).view(np.uint32)


def _uniform(seed: int, name: str, size: int) -> Iterator[np.ndarray]:
    stream = np.random.Philox(key=stable_seed(seed, name))
    for start in range(0, size, COPIED_BLOCK):
        count = min(COPIED_BLOCK, size - start)
        yield stream.random_raw((count + 1) // 2).astype("<u8", copy=False).view("<u4")[:count]
