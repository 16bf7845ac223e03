"""Columns that several tables have."""

from ltpipe.evaluation.metrics import Metrics
from ltpipe.runtime.frames import Columns, count, number, word

TEXT: Columns = {"model": word("name of the model"), "data": word("name of the text that it is evaluated on")}
CURVE: Columns = {
    "criterion": word("what ranks the weights"),
    "scope": word("which weights are ranked against each other"),
    "seed": count("seed of a stochastic criterion"),
}
SPARSITY: Columns = {"sparsity": number("fraction of the prunable weights, or units, to be pruned")}
TICKET: Columns = {**TEXT, **CURVE, **SPARSITY}
"""Columns that identify a ticket."""

TRAINING: Columns = {
    "training": word("name of the training"),
    "replicate": count("replicate, which is the seed of the dense model"),
}
LEVEL: Columns = {"level": count("level of iterative pruning; 0 is the dense model")}
BRANCH: Columns = {
    "branch": word("kind of training: ticket, or a control"),
    "donor": word("training whose mask is transplanted"),
}


def curve_of(ticket: Metrics, side: str = "") -> dict[str, object]:
    """Return criterion, scope and seed of a ticket, in columns whose names end in `side`."""
    return {f"{axis}{side}": getattr(ticket, axis) for axis in CURVE}
