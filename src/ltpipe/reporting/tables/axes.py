"""Columns that several tables have."""

from ltpipe.evaluation.metrics import Metrics
from ltpipe.runtime.frames import Columns, count, number, word
from ltpipe.runtime.labels import settings_of
from ltpipe.tasks.results import TaskScore

TEXT: Columns = {
    "model": word("name of the model"),
    "data": word("name of the text that it is evaluated on, with @ and the name of the settings for evaluating"),
}
CURVE: Columns = {
    "criterion": word(
        "what ranks the weights, with @ and the name of the settings for scoring, + and the name of the recovery"
    ),
    "scope": word("which weights are ranked against each other"),
    "seed": count("seed of a stochastic criterion"),
}
SPARSITY: Columns = {"sparsity": number("fraction of the prunable weights, or units, to be pruned")}
TICKET: Columns = {**TEXT, **CURVE, **SPARSITY}
"""Columns that identify a ticket."""


def pair_of_tickets(place: Columns) -> Columns:
    """Return the columns that identify two tickets of one sparsity in a place, such as a text."""
    return {
        **place,
        **SPARSITY,
        **{
            f"{axis}_{side}": column._replace(meaning=f"{axis} of ticket {side}")
            for side in ("a", "b")
            for axis, column in CURVE.items()
        },
    }


SETTINGS: Columns = {
    "evaluation": word("named settings for evaluating (evaluate.settings), if the study has any"),
    "calibration": word("named settings for scoring (score.settings), if the criterion depends on them"),
}

TRAINING: Columns = {
    "training": word("name of the training"),
    "replicate": count("replicate, which is the seed of the dense model"),
}
LEVEL: Columns = {"level": count("level of iterative pruning; 0 is the dense model")}
BRANCH: Columns = {
    "branch": word("kind of training: ticket, or a control"),
    "donor": word("training whose mask is transplanted"),
}


def curve_of(ticket: "Metrics | TaskScore", side: str = "") -> dict[str, object]:
    """Return criterion, scope and seed of a ticket, in columns whose names end in `side`."""
    return {f"{axis}{side}": getattr(ticket, axis) for axis in CURVE}


def settings_in(ticket: Metrics) -> dict[str, str | None]:
    """Return the named settings of a ticket, in the columns of `SETTINGS`."""
    return {
        "evaluation": settings_of(ticket.data) or None,
        "calibration": settings_of(ticket.criterion or "") or None,
    }
