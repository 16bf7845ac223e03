"""What a process took at its peak."""

import resource
import sys


def peak_host_bytes() -> int:
    """Largest resident set of this process so far, in bytes; pages of mapped files included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
