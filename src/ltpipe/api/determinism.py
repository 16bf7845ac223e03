"""One call that makes a run of other people's code repeatable."""

import os
import random

import numpy as np
import torch


def ensure_deterministic_pruning(seed: int = 42) -> None:
    """Seed Python, NumPy and torch (every device), and ask torch for deterministic algorithms.

    ltpipe's own masks and losses need none of this: they use no global randomness. It is for what surrounds them,
    shuffled data loaders and trainers. Operations without a deterministic algorithm warn instead of failing. On CUDA,
    call it before the first matrix product: cuBLAS reads its workspace setting once.

    Args:
        seed: any integer; NumPy takes its lowest 32 bits.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
