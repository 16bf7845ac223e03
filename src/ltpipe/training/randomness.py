"""Random generators that depend on a seed and names, never on earlier draws."""

import hashlib
from collections.abc import Mapping

import torch

from ltpipe.runtime.determinism import stable_seed


def generator(seed: int, *names: str) -> torch.Generator:
    """Return a CPU generator that is the same in every process for the same seed and names."""
    return torch.Generator().manual_seed(stable_seed(seed, *names) % 2**63)


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the hexadecimal SHA-256 of names, dtypes, shapes and values, in byte order of names."""
    whole = hashlib.sha256()
    for name in sorted(tensors, key=str.encode):
        tensor = tensors[name].detach().cpu().contiguous()
        whole.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
