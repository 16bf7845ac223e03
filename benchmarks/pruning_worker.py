"""One way of pruning half of a checkpoint's linear weights globally, in its own process.

The process reports when it is ready, then runs the method each line names: `prune`, `save` its masks, or `extras`.
"""

import json
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch import nn
from torch.nn.utils import prune

from benchmarks import stages
from benchmarks.mask_speed import SCHEDULE, SPARSITY
from benchmarks.processes import answer, private_stdout
from ltpipe.checkpoints.filenames import WEIGHTS
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.pruning import kernels
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.masks import read_mask


class Peer:
    """torch.nn.utils.prune.global_unstructured on Linear modules that hold the weights."""

    def __init__(self, folder: Path) -> None:
        fetch = fetch_from(TensorFile(folder / WEIGHTS), None, torch.device("cpu"), torch.bfloat16)
        self._modules = {name: _linear(fetch(name).clone()) for name in stages.prunable(folder, "linear")}

    def prune(self) -> dict[str, float]:
        """Prune once; masks and masked weights stay in the modules."""
        start = time.perf_counter()
        prune.global_unstructured(
            [(module, "weight") for module in self._modules.values()],
            pruning_method=prune.L1Unstructured,
            amount=float(SPARSITY),
        )
        return {"seconds": time.perf_counter() - start}

    def save(self, output: Path) -> dict[str, int]:
        """Write the masks at one bit per weight."""
        packed = {
            name: np.packbits(module.weight_mask.bool().numpy().reshape(-1), bitorder="little")
            for name, module in self._modules.items()
        }
        write_tensors(output, [TensorData.of(name, bits) for name, bits in packed.items()])
        return {"kept": sum(int(module.weight_mask.bool().sum()) for module in self._modules.values())}


class Ltpipe:
    """Count, threshold and pack, streaming from the mapped file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = stages.prunable(folder, "linear")

    def prune(self) -> dict[str, float]:
        """Open the checkpoint, count, and pack the mask into memory."""
        start = time.perf_counter()
        keys = stages.open_keys(self._folder, self._names)
        mask = stages.pack_in_memory(keys, stages.count(keys), "global", SPARSITY)
        return {"seconds": time.perf_counter() - start, "mask": sum(bits.nbytes for bits in mask)}

    def save(self, output: Path) -> dict[str, int]:
        """Write the mask file."""
        keys = stages.open_keys(self._folder, self._names)
        return {"kept": stages.write_mask(output, keys, stages.count(keys), "global", SPARSITY)}

    def extras(self, output: Path) -> dict[str, float]:
        """Return seconds per mask of a schedule, with the mask written, and with all weights masked too."""
        start = time.perf_counter()
        keys = stages.open_keys(self._folder, self._names)
        histogram = stages.count(keys)
        for sparsity in SCHEDULE:
            stages.pack_away(keys, histogram, "global", sparsity)
        schedule = (time.perf_counter() - start) / len(SCHEDULE)

        start = time.perf_counter()
        self.save(output)
        written = time.perf_counter()
        fetch = fetch_from(TensorFile(self._folder / WEIGHTS), read_mask(output), torch.device("cpu"), torch.bfloat16)
        for name in self._names:
            fetch(name)
        return {"schedule": schedule, "file": written - start, "masked": time.perf_counter() - start}


def main(method: Literal["peer", "ltpipe"], checkpoint: Path, small: Path, output: Path, threads: int) -> None:
    """Serve one pruning.

    Args:
        method: implementation to run.
        checkpoint: canonical checkpoint folder in BF16.
        small: a small checkpoint, to compile kernels and start threads on.
        output: file for the masks, packed as ltpipe packs them.
        threads: CPU threads.
    """
    answers = private_stdout()
    torch.set_num_threads(threads)
    kernels.use_threads(threads)
    kind = Peer if method == "peer" else Ltpipe
    kind(small).prune()
    subject = kind(checkpoint)
    answer(answers, ready=True)
    for line in sys.stdin:
        wish = json.loads(line)["wish"]
        answer(answers, **(subject.prune() if wish == "prune" else getattr(subject, wish)(output)))


def _linear(weight: torch.Tensor) -> nn.Linear:
    """Return a Linear with this tensor as weight, without first allocating its own."""
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    module.weight = nn.Parameter(weight, requires_grad=False)
    return module


if __name__ == "__main__":
    tyro.cli(main)
