"""Evaluate the models on the line between two trained states."""

import torch

from ltpipe.training.computing import TrainingCompute
from ltpipe.training.connectivity import errors_along_line
from ltpipe.training.live import load_values
from ltpipe.training.state import TrainingState
from ltpipe.training.task import Task
from ltpipe.training.validate import evaluate


def errors_between(task: Task, first: TrainingState, second: TrainingState, computing: TrainingCompute) -> list[float]:
    """Return the errors at 30 points between the final states of two trainings, running statistics included.

    Errors are fractions of the test labels, as in the paper. They are never used to choose anything.
    """
    examples = task.test.to(computing.placed_on)
    with computing.alone():
        model = task.build(0)
        prepared = computing.prepare(model)

        def error(values: dict[str, torch.Tensor]) -> float:
            load_values(model, values)
            return 1 - evaluate(task, prepared, examples)[1]

        begin, end = ({**state.weights, **state.buffers} for state in (first, second))
        return errors_along_line(begin, end, error)
