"""How many threads a stage computes with."""

import os

from ltpipe.runtime.errors import UserError


def available_threads(requested: int) -> int:
    """The requested number of threads; 0 means one for every processor that this process may use.

    `snakemake --cores 1` sets OMP_NUM_THREADS=1 in every job, so stages set their thread count themselves.
    """
    if requested < 0:
        raise UserError(f"threads: {requested} is not allowed; allowed are 0 (all) and more")
    return requested or len(os.sched_getaffinity(0))
