"""Tensors kept on disk while a criterion works, so that only one of them is in memory at a time."""

from collections.abc import Mapping
from itertools import accumulate
from math import prod
from typing import BinaryIO

import numpy as np
import torch


class Stored:
    """One float32 tensor per name, zeros until it is written.

    Args:
        file: an empty file, open for reading and writing.
        shapes: name to shape.
    """

    def __init__(self, file: BinaryIO, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._file, self._shapes = file, shapes
        ends = list(accumulate(4 * prod(shape) for shape in shapes.values()))
        self._start = dict(zip(shapes, [0, *ends[:-1]], strict=True))
        file.truncate(ends[-1])

    def write(self, name: str, values: torch.Tensor) -> None:
        """Store the values of a tensor, float32 on the CPU."""
        self._file.seek(self._start[name])
        self._file.write(values.contiguous().numpy().data.cast("B"))

    def read(self, name: str) -> torch.Tensor:
        """Return a copy of a tensor's values."""
        self._file.seek(self._start[name])
        shape = self._shapes[name]
        values = np.frombuffer(bytearray(self._file.read(4 * prod(shape))), np.float32)
        return torch.from_numpy(values).reshape(shape)
