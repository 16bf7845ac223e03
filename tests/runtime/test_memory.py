"""What memory figures mean."""

import ctypes
import gc
import mmap
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

from ltpipe.runtime.memory import PrivateMemory, available_host_bytes, peak_host_bytes, private_host_bytes

SIZE = 100 * 2**20


def test_private_memory_sees_a_temporary_array_and_its_end():
    gc.collect()  # what earlier tests left must not go while this one measures
    with PrivateMemory() as memory:
        # Not by malloc, which may have room that an earlier test freed.
        array = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        np.frombuffer(array, np.uint8).fill(1)
        assert private_host_bytes() >= memory.before + 0.8 * SIZE
        time.sleep(0.2)  # on a busy machine, the sampler comes late
        array.close()
    assert memory.peak >= memory.before + 0.8 * SIZE
    assert private_host_bytes() <= memory.before + 0.2 * SIZE
    assert peak_host_bytes() >= memory.peak


def test_pages_of_mapped_files_are_not_private(tmp_path):
    np.ones(SIZE, np.uint8).tofile(tmp_path / "file")
    mapped = np.memmap(tmp_path / "file", np.uint8, "r")
    with PrivateMemory() as memory:
        assert mapped.sum() == SIZE
    assert memory.peak < memory.before + 0.2 * SIZE


def test_a_limit_on_data_is_what_is_available():
    code = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2**29, 2**29));" + (
        "from ltpipe.runtime.memory import available_host_bytes; print(available_host_bytes())"
    )
    limited = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0 < limited < 2**29
    if resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY:
        assert available_host_bytes() > limited


REUSE = """
import resource, sys
import numpy as np
from ltpipe.runtime.stage import run

def main():
    np.ones(40 * 2**20, np.uint8)  # the first has new pages
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(40 * 2**20, np.uint8)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

run(main) if sys.argv.pop() == "stage" else main()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's mallopt is missing")
def test_a_stage_uses_freed_memory_again():
    """Otherwise each tensor of more than 32 MiB has new pages, which the kernel clears one by one."""
    stage, plain = (
        int(subprocess.run([sys.executable, "-c", REUSE, how], capture_output=True, text=True, check=True).stdout)
        for how in ("stage", "plain")
    )
    assert stage < plain / 5
