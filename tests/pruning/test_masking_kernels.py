"""Masked copies on the CPU against torch's cast and fill, bit for bit."""

from itertools import product

import numpy as np
import pytest
import torch

from ltpipe.pruning.masking_kernels import masked_copy

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
SIZES = (0, 1, 7, 8, 9, 1001, (1 << 18) + 5)
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def stored_values(size: int, dtype: torch.dtype, offset: int) -> torch.Tensor:
    """Read-only values of any magnitude, with infinities, denormals and negative zeros, `offset` values into memory."""
    generator = torch.Generator().manual_seed(size)
    values = torch.randn(size + offset, generator=generator, dtype=torch.float64) * 10 ** torch.linspace(
        -45, 38, size + offset, dtype=torch.float64
    )
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf])
    values[offset : offset + 4] = special[: max(0, min(4, size))]
    array = values.to(dtype).view(torch.uint8).numpy().copy()
    array.flags.writeable = False
    return torch.frombuffer(memoryview(array), dtype=dtype)[offset:] if array.size else values.to(dtype)[offset:]


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("source", "target"), list(product(DTYPES, DTYPES)))
def test_equals_cast_and_fill(source: torch.dtype, target: torch.dtype, threads: int):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for size, offset in product(SIZES, (0, 1)):
            stored = stored_values(size, source, offset)
            bits = torch.from_numpy(np.random.default_rng(size).integers(0, 256, (size + 7) // 8).astype(np.uint8))
            pruned = torch.from_numpy(np.unpackbits(bits.numpy(), bitorder="little")[:size] == 0)
            expected = stored.to(target, copy=True).masked_fill_(pruned, 0)
            found = masked_copy(stored, bits, target)
            assert found.dtype == target
            integers = INTEGERS[target.itemsize]
            assert torch.equal(found.view(integers), expected.view(integers)), (size, offset)
    finally:
        torch.set_num_threads(before)
