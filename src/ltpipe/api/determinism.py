"""One call that makes a run of other people's code repeatable."""

import operator
import os
import random
from typing import Any

import numpy as np
import torch

from ltpipe.runtime.errors import UserError


def ensure_deterministic_pruning(seed: int = 42) -> None:
    """Seed Python, NumPy and torch (every device), and ask torch for deterministic algorithms.

    ltpipe's own masks and losses need none of this: they use no global randomness. It is for what surrounds them,
    shuffled data loaders and trainers. Operations without a deterministic algorithm warn instead of failing. On CUDA,
    call it before the first matrix product: cuBLAS reads its workspace setting once.

    Args:
        seed: any integer, of Python or NumPy, negative or large. Python and torch are seeded with its lowest 64 bits
            (of the two's complement), NumPy's global generator with the lowest 32, which is all that it takes. Seeds
            that are equal in those bits draw the same.

    Raises:
        UserError: it is no integer. Nothing has been seeded then.
    """
    whole = _integer(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(whole % 2**64)
    np.random.seed(whole % 2**32)
    torch.manual_seed(whole % 2**64)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def _integer(seed: Any) -> int:
    """A seed as an int; True and False are flags in the wrong place."""
    try:
        if not isinstance(seed, bool | np.bool_):
            return operator.index(seed)
    except TypeError:
        pass
    raise UserError(f"seed: {seed!r} is no integer; allowed is any integer, negative and large ones too")
