"""Main memory that a process uses, and what is still available to it."""

import ctypes
import resource
import sys
import threading
from pathlib import Path
from types import TracebackType

GIB = 2**30

_STATUS = Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup")
_INTERVAL = 0.005
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names and numbers of mallopt(3)


def peak_host_bytes() -> int:
    """Return the peak resident set of this process, in bytes, including pages of mapped files."""
    if _STATUS.exists():  # getrusage would give the parent's, if that was larger when it started this process
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def private_host_bytes() -> int:
    """Return the bytes private to this process, without pages of mapped files, which the system can drop.

    If the system does not distinguish them, return the whole resident set.
    """
    import psutil

    found = psutil.Process().memory_info()
    return found.rss - getattr(found, "shared", 0)


def available_host_bytes() -> int:
    """Return the bytes still available to this process on the machine, in its cgroup and under its data limit."""
    import psutil

    bounds = [psutil.virtual_memory().available]
    limit, used = (_CGROUP / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        bounds.append(int(limit.read_text()) - int(used.read_text()))
    data, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if data != resource.RLIM_INFINITY:
        bounds.append(data - private_host_bytes())
    return max(0, min(bounds))


def reuse_freed_memory() -> None:
    """Let this process use freed memory again, up to 256 MiB, instead of returning it to the system at once.

    By default, glibc maps a tensor of more than 32 MiB anew each time, and the kernel clears its pages one by one: a
    tenth of the time of evaluating SmolLM2-135M. Other allocators are left as they are.
    """
    system = ctypes.CDLL(None)
    if hasattr(system, "mallopt"):
        system.mallopt(_M_MMAP_THRESHOLD, 64 * 2**20)
        system.mallopt(_M_TRIM_THRESHOLD, 256 * 2**20)


class PrivateMemory:
    """Peak private memory while this context is open, sampled two hundred times a second.

    Attributes:
        before: bytes on entry.
        peak: most bytes seen.
    """

    def __enter__(self) -> "PrivateMemory":
        self.before = self.peak = private_host_bytes()
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._sampler.join()
        self.peak = max(self.peak, private_host_bytes())

    def _sample(self) -> None:
        while not self._done.wait(_INTERVAL):
            self.peak = max(self.peak, private_host_bytes())
