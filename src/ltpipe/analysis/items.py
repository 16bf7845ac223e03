"""Paired comparisons over the documents of tasks: bootstrap intervals and the exact test of McNemar (1947).

A resample draws as many documents as there are, with replacement. Only differences of paired documents are resampled,
and documents with equal differences are drawn together, by their number: the distribution is the same, and accuracies,
whose differences are -1, 0 and 1, cost three draws a resample however many documents there are.
"""

from collections.abc import Sequence

import numpy as np

from ltpipe.analysis.confidence import CONFIDENCE, RESAMPLES, Interval, interval
from ltpipe.runtime.determinism import stable_seed

_BLOCK = 1 << 22  # draws made at a time


def mean_differences(differences: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Return the mean of paired differences, float64 [documents], on every resample: float64 [resamples]."""
    values, counts = np.unique(differences, return_counts=True)
    generator = np.random.Generator(np.random.PCG64(stable_seed(seed, "documents", str(len(differences)))))
    rows = max(1, _BLOCK // len(values))
    drawn = [
        # Without BLAS, whose sums depend on threads.
        np.einsum("rv,v->r", generator.multinomial(len(differences), counts / len(differences), size), values)
        for size in (min(rows, resamples - start) for start in range(0, resamples, rows))
    ]
    return np.concatenate(drawn) / len(differences)


def paired_interval(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Return the 95 % interval of the mean of `a` minus that of `b`, documents in the same order.

    Raises:
        ValueError: they are of different documents.
    """
    return interval(mean_differences(_differences(a, b)), len(a))


def interval_over_tasks(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Interval:
    """Return the 95 % interval of the difference of means over tasks: documents are drawn within each task.

    Args:
        pairs: of each task, the values of two models by document.
    """
    drawn = [mean_differences(_differences(a, b), seed) for seed, (a, b) in enumerate(pairs)]
    return interval(np.mean(drawn, axis=0), min(len(a) for a, _ in pairs))


def mcnemar(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return the two-sided exact p of right (1) and wrong (0) answers; None for other values.

    Given the documents on which just one of two models is right, each is as likely to be the one if they are equally
    good: the p of a binomial test with probability 1/2. It is 1 if there are none.
    """
    from scipy.stats import binomtest

    one, other = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not np.isin([one, other], (0.0, 1.0)).all():
        return None
    only_one, only_other = int((one > other).sum()), int((one < other).sum())
    if not only_one + only_other:
        return 1.0
    return float(binomtest(only_one, only_one + only_other, 0.5).pvalue)


def differ(found: Interval, p_value: float | None) -> bool:
    """Return whether two models differ significantly: by McNemar's p, or where there is none by the paired interval.

    Of few documents, the interval of a mean of -1, 0 and 1 is too narrow; the test is exact.
    """
    return found.excludes(0.0) if p_value is None else p_value < 1 - CONFIDENCE


def _differences(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} documents are not paired")
    return np.asarray(a, np.float64) - np.asarray(b, np.float64)
