"""The number of threads a stage computes with."""

import os

from ltpipe.runtime.errors import UserError

MOST_THREADS = 4096


def available_threads(requested: int) -> int:
    """Return the requested number of threads; 0 means one per processor that this process may use.

    `snakemake --cores 1` sets OMP_NUM_THREADS=1 in every job, so stages set their thread count themselves.
    """
    if not 0 <= requested <= MOST_THREADS:
        raise UserError(f"threads: {requested} is not allowed; use 0 (all) to {MOST_THREADS}")
    return requested or len(os.sched_getaffinity(0))
