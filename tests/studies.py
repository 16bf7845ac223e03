"""Learning records of made-up studies of iterative pruning."""

from collections.abc import Callable, Iterator

import numpy as np

from ltpipe.training.connectivity import Connectivity
from ltpipe.training.record import LearningRecord

TOTAL = 266_200
KEPT = (
    266_200, 213_060, 170_538, 136_520, 109_296, 87_517, 70_094, 56_156, 45_006, 36_087, 28_950, 23_240, 18_672,
)  # fmt: skip
"""Prunable weights of LeNet-300-100 kept at levels 0 to 12, about 0.8 to the power of the level."""

Score = Callable[[str, int, int], tuple[float, int]]
"""Test accuracy (a fraction) and early-stop iteration of a branch at a level in a replicate."""


def record(
    branch: str = "ticket",
    level: int = 0,
    replicate: int = 0,
    accuracy: float = 0.98,
    stop: int = 2000,
    training: str = "lenet",
    k: int | None = 0,
    **changes: object,
) -> LearningRecord:
    """A record whose validation loss is smallest at `stop`, a multiple of 50."""
    iterations = tuple(range(0, 4001, 50))
    losses = tuple(0.1 + abs(iteration - stop) / 4000 for iteration in iterations)
    fields = {
        "training": training, "replicate": replicate, "level": level, "branch": branch, "iterations": iterations,
        "validation_losses": losses, "validation_accuracies": tuple(1 - loss / 4 for loss in losses),
        "early_stop_iteration": stop, "test_loss": 1.05 - accuracy, "test_accuracy": accuracy,
        "final_test_loss": 1.1 - accuracy, "final_test_accuracy": accuracy - 0.001,
        "test_majority": 0.11, "kept": KEPT[level],
        "total": TOTAL, "seconds": 60.0,
        "provenance": {
            "inputs": {"task": "abc", "mask": f"{replicate}-{level}"},
            "settings": {} if k is None else {"rewind_step": k},
        },
    }  # fmt: skip
    return LearningRecord(**fields | changes)


def study(score: Score, replicates: int, levels: range, branches: tuple[str, ...], name: str = "lenet") -> Iterator:
    """Records of all branches at all levels; level 0 has the dense model alone."""
    for replicate in range(replicates):
        for level in levels:
            for branch in branches if level else ("ticket",):
                accuracy, stop = score(branch, level, replicate)
                yield record(branch, level, replicate, accuracy, stop, name)


def like_the_paper(branch: str, level: int, replicate: int) -> tuple[float, int]:
    """Tickets that learn ever faster, and controls that learn ever slower and worse, with noise of 0.05 points."""
    noise = np.random.default_rng([replicate, level, *branch.encode()])
    base = 0.98 + 0.002 * np.sin(replicate)
    if branch == "ticket":
        accuracy, stop = base + 0.0002 * min(level, 7) - 0.004 * max(0, level - 11), 2000 - 100 * level
    elif branch.startswith("order"):
        accuracy, stop = base, 2000
    else:
        accuracy, stop = base - 0.0008 * level, 2000 + 150 * level
    return float(accuracy + noise.normal(0, 0.0005)), int(stop + 100 * noise.integers(-1, 2))


def line(replicate: int, height: float, level: int = 0, order: int = 1, name: str = "lenet") -> Connectivity:
    """A line of 30 points between errors of 2 %, with a barrier of about that height (a fraction)."""
    alphas = tuple(index / 29 for index in range(30))
    errors = tuple(0.02 + height * 4 * alpha * (1 - alpha) for alpha in alphas)
    return Connectivity.of(name, replicate, level, ("ticket", f"order-{order}"), errors)
