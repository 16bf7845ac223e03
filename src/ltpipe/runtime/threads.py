"""How many threads a stage computes with."""

import os


def available_threads(requested: int) -> int:
    """The requested number of threads; 0 means one for every processor that this process may use.

    `snakemake --cores 1` sets OMP_NUM_THREADS=1 in every job, so stages set their thread count themselves.
    """
    return requested or len(os.sched_getaffinity(0))
