"""Scores from iterative pruning, where each step prunes among the weights that are left."""

from collections.abc import Callable

import numpy as np
import torch

from ltpipe.pruning.histogram import histogram_of
from ltpipe.pruning.scopes import groups
from ltpipe.pruning.scores import FLOAT32_INFINITY, RankKeys
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.pruning.thresholds import Cut, exact_cuts
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.progress import track
from ltpipe.scoring.stored import Stored
from ltpipe.scoring.subject import Deliver, Subject

_LEAST = np.float32(np.finfo(np.float32).tiny)
_SPAN = 0.99  # so that no weight ties with one of the next step

Flow = Callable[[Callable[[str], torch.Tensor], Deliver], None]
"""Takes a function from a name to which weights are left (float32, 0 or 1), and delivers the score of every weight."""


def prune_iteratively(subject: Subject, flow: Flow, deliver: Deliver, steps: int, density: float) -> None:
    """Prune globally to a density of `density`^(k/n) in step k of n, and score weights by when they are pruned.

    A weight pruned in step k gets k - 1 plus 0.99 times its score relative to that step's threshold; a weight left at
    the end gets n plus its score relative to the largest.

    Args:
        subject: the model to prune.
        flow: scores the weights that are left.
        deliver: receives the scores.
        steps: n, at least one.
        density: fraction of the weights left at the end, above 0 and below 1.

    Raises:
        UserError: no weight has a score above 0.
    """
    with subject.stored() as fallen, subject.stored() as scores:  # 0 in `fallen`: the weight is left

        def left(name: str) -> torch.Tensor:
            return (fallen.read(name) == 0).float()

        for step in track(range(1, steps + 1), "pruning", "step"):
            flow(left, scores.write)
            if step == 1 and not any(bool(scores.read(name).any()) for name in subject.names):
                raise UserError("no weight has a score above 0: this criterion says nothing about this architecture")
            keys = _keys(subject, scores, left)
            sparsity = Sparsity.of(1 - density ** (step / steps))
            (cuts,) = exact_cuts(keys, histogram_of(keys, "", "", None), [groups("global", sparsity, keys.sizes)])
            limit = max(cut.threshold for cut in cuts)
            highest = float(np.uint32(limit).view(np.float32))
            for name, cut in zip(keys.names, cuts, strict=True):
                (flat,) = keys.chunks(name)
                now = torch.from_numpy(_pruned(flat, cut)).reshape(subject.shape(name)) & (left(name) != 0)
                value = step - 1 + _SPAN * (scores.read(name) / highest).clamp_(max=1)
                fallen.write(name, torch.where(now, value.clamp_(min=float(_LEAST)), fallen.read(name)))
        largest = max(float((scores.read(name) * left(name)).max()) for name in subject.names)
        for name in subject.names:
            rest = steps + scores.read(name) / (largest or 1.0)
            deliver(name, torch.where(left(name) != 0, rest, fallen.read(name)))


def _keys(subject: Subject, scores: Stored, left: Callable[[str], torch.Tensor]) -> RankKeys:
    """Return keys of the scores of weights that are left, above 0, and 0 for pruned ones, so they are pruned again."""

    def whole(name: str) -> np.ndarray:
        values = scores.read(name).numpy()
        return np.where(left(name).numpy() != 0, np.maximum(values, _LEAST), np.float32(0)).view(np.uint32).reshape(-1)

    shapes = tuple(subject.shape(name) for name in subject.names)
    return RankKeys(subject.names, shapes, 31, FLOAT32_INFINITY, lambda name: iter([whole(name)]))


def _pruned(keys: np.ndarray, cut: Cut) -> np.ndarray:
    """Return which keys a cut prunes, bool."""
    pruned = keys < cut.threshold
    pruned[np.flatnonzero(keys == cut.threshold)[: cut.ties]] = True
    return pruned
