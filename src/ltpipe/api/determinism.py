"""One call that makes other code's runs reproducible."""

import operator
import os
import random
from typing import Any

import numpy as np
import torch

from ltpipe.runtime.errors import UserError


def ensure_deterministic_pruning(seed: int = 42) -> None:
    """Seed Python, NumPy and torch (every device), and ask torch for deterministic algorithms.

    ltpipe's masks and losses do not need this: they use no global randomness. It is for the code around them, such as
    shuffled data loaders and trainers. Operations without a deterministic algorithm warn instead of failing. On CUDA,
    call it before the first matrix product: cuBLAS reads its workspace setting once.

    Args:
        seed: any Python or NumPy integer, negative or large. Python and torch are seeded with its lowest 64 bits (in
            two's complement), NumPy's global generator with the lowest 32, the most it accepts. Seeds equal in those
            bits give the same draws.

    Raises:
        UserError: the seed is not an integer; nothing has been seeded.
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
    """Return a seed as an int; reject True and False, which are misplaced flags."""
    try:
        if not isinstance(seed, bool | np.bool_):
            return operator.index(seed)
    except TypeError:
        pass
    raise UserError(f"seed: {seed!r} is not allowed; use an integer, which may be negative or large")
