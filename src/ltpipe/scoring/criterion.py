"""The interface of criteria with a score stage.

A new criterion is one file in the folder `criteria`: a class with one method of its own, named in the last line. The
file `my_rule.py` is the criterion `my-rule` in the configuration. A score says how valuable a weight is: the lowest are
pruned first.

The workflow imports this on start-up, so nothing here or in `criteria` imports torch before it computes.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, ClassVar

from ltpipe.pruning.scores import WEIGHT_CRITERIA
from ltpipe.runtime.errors import UserError, few
from ltpipe.runtime.labels import name_of
from ltpipe.runtime.options import Given, NoOptions, options_of
from ltpipe.runtime.plugins import load_class

if TYPE_CHECKING:
    import torch

    from ltpipe.scoring.subject import Deliver, Subject

logger = logging.getLogger(__name__)

_FOLDER = "ltpipe.scoring.criteria"


class Criterion(ABC):
    """Scores the weights of a model.

    Attributes:
        needs_data: whether it reads calibration sequences.
        signed: whether scores may be negative.
        precision: dtype that it must compute in; None leaves the choice to the user.
        batch: number of sequences that must go through a block together; None leaves the choice to the memory plan.
        options: dataclass of its options, as in `ltpipe.runtime.options`; `subject.options` is an instance.
    """

    needs_data: ClassVar[bool] = True
    signed: ClassVar[bool] = False
    precision: ClassVar[str | None] = None
    batch: ClassVar[int | None] = None
    options: ClassVar[type] = NoOptions

    @classmethod
    @abstractmethod
    def walk(cls, subject: "Subject") -> None:
        """Make one pass over the model and keep nothing: the memory plan runs this on fake tensors."""

    @classmethod
    @abstractmethod
    def score(cls, subject: "Subject", deliver: "Deliver") -> None:
        """Hand the scores of every weight to `deliver`."""

    @classmethod
    def passes(cls, options: Any) -> int:  # noqa: ARG003
        """Return the number of passes over the examples, for the time estimate."""
        return 1


def criterion_names() -> list[str]:
    """Return the names of all criteria with a score stage."""
    return sorted(name.replace("_", "-") for _, name, _ in iter_modules(import_module(_FOLDER).__path__))


def every_criterion() -> list[str]:
    """Return the names of all criteria: those that rank a weight's own value, and those with a score stage."""
    return [*WEIGHT_CRITERIA, *criterion_names()]


def ranks_weights(name: str) -> bool:
    """Return whether a criterion ranks a weight's own value, without a score stage."""
    return name in WEIGHT_CRITERIA


def is_stochastic(name: str) -> bool:
    """Return whether a criterion depends on a seed; if not, one mask serves all seeds."""
    return name == "random"


def scored_criterion(name: str) -> type[Criterion]:
    """Look up a criterion with a score stage, by its name or by a label (`runtime.labels`).

    Raises:
        UserError: there is no such criterion, its file is damaged, or its class lacks a required method or has one with
            another signature.
    """
    name = name_of(name)
    if name not in criterion_names():
        raise UserError(f"criterion '{name}' has no score stage; use {', '.join(criterion_names())}")
    return load_class(f"{_FOLDER}.{name.replace('-', '_')}", "CRITERION", Criterion, f"criterion '{name}'")  # type: ignore[type-abstract]


def criterion_options(name: str, given: Given, key: str) -> Any:
    """Return the options of a criterion.

    Args:
        name: the criterion's name; criteria without a score stage have no options.
        given: option names to values.
        key: name of the options in error messages.

    Raises:
        UserError: the criterion has no such option, or the option does not accept this value.
    """
    return options_of(NoOptions if ranks_weights(name) else scored_criterion(name).options, given, key)


class GradientCriterion(Criterion):
    """Scores from the gradients of the loss: override `add`, and `result` if the sum is not the score.

    One object accumulates one weight tensor. Objects exist for one block at a time.

    Args:
        shape: the weight's shape.
        device: device of its gradients.
        tokens: number of predicted tokens per sequence; gradients are of *summed* losses, so divide by it for a mean.
    """

    def __init__(self, shape: Sequence[int], device: "torch.device", tokens: float) -> None:
        import torch

        self._sum = torch.zeros(shape, dtype=torch.float32, device=device)
        self._tokens = tokens

    @abstractmethod
    def add(self, weight: "torch.Tensor", gradient: "torch.Tensor") -> None:
        """Take the gradient of a micro-batch's summed loss, in the weight's shape and dtype."""

    def result(self) -> "torch.Tensor":
        """Return scores, float32, by default the magnitude of the sum; the accumulator may be overwritten."""
        return self._sum.abs_()

    @classmethod
    def walk(cls, subject: "Subject") -> None:
        """Accumulate, and discard the result."""
        subject.gradients(cls, lambda *_: None)

    @classmethod
    def score(cls, subject: "Subject", deliver: "Deliver") -> None:
        """Accumulate over one backward walk, and deliver each block's scores when it is done."""
        subject.gradients(cls, deliver)


class ActivationCriterion(Criterion):
    """Scores from a weight and the norms of its inputs: override `combine`."""

    @staticmethod
    @abstractmethod
    def combine(weight: "torch.Tensor", norms: "torch.Tensor") -> "torch.Tensor":
        """Return the scores, float32, of a weight matrix.

        Args:
            weight: float32 on the CPU in its stored shape, or [matrices, rows, columns] if one dimension has several
                matrices.
            norms: L2 norm of each input over all calibration tokens, float32 of the same shape. An expert's norms are
                over the tokens routed to it.
        """

    @classmethod
    def walk(cls, subject: "Subject") -> None:
        """Run the model forward."""
        subject.input_norms()

    @classmethod
    def score(cls, subject: "Subject", deliver: "Deliver") -> None:
        """Run the dense model forward once, then read every weight once.

        Weights that no calibration token reaches get scores of 0 and a warning in the log.
        """
        norms = subject.input_norms()
        _say_what_was_not_run(norms)
        for name in subject.names:
            weight = subject.weight(name)
            deliver(name, cls.combine(weight.reshape(norms[name].shape), norms[name]).reshape(weight.shape))


def _say_what_was_not_run(norms: Mapping[str, "torch.Tensor"]) -> None:
    never = [name for name, each in norms.items() if not each.any()]
    if never:
        logger.warning("no calibration token reaches %d weight tensors; their scores are 0: %s", len(never), few(never))
    ran = (each for name, each in norms.items() if each.dim() == 3 and name not in never)
    experts = sum(int((~each.flatten(1).any(1)).sum()) for each in ran)
    if experts:
        logger.warning("no calibration token is routed to %d expert matrices; their scores are 0", experts)
