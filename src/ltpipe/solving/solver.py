"""The interface of solvers.

A new solver is one file in the folder `solvers`: a class that extends `Solver`, named in the last line. The file
`my_solver.py` is `my-solver` among the criteria of the configuration. The workflow imports this on start-up, so nothing
here or in `solvers` imports torch before it computes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, ClassVar

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.labels import name_of
from ltpipe.runtime.plugins import load_class

if TYPE_CHECKING:
    import numpy as np

    from ltpipe.solving.block import PrunedBlock
    from ltpipe.solving.pattern import Pattern

_FOLDER = "ltpipe.solving.solvers"

Copies = tuple[float, float]
"""How many times what `Solver.solve` allocates is as large as the matrix and as its Gram matrix, together at most."""


@dataclass(frozen=True)
class SolverOptions:
    """Options of every solver; those of a solver extend this class.

    Attributes:
        true_sequential: whether matrices are pruned in the order in which a block uses them, each with its inputs
            behind those before it; otherwise all with the inputs that they have in the dense block.
    """

    true_sequential: bool = False


class Solver(ABC):
    """Prunes one matrix after the other, each with the inputs that it has in the model pruned so far.

    Attributes:
        updates: whether kept weights get new values; if not, those that `solve` returns do not count.
        options: dataclass of its options, which extends `SolverOptions`.
    """

    updates: ClassVar[bool] = False
    options: ClassVar[type] = SolverOptions

    @staticmethod
    @abstractmethod
    def solve(
        weight: "np.ndarray", gram: "np.ndarray", pattern: "Pattern", options: Any
    ) -> tuple["np.ndarray", "np.ndarray"]:
        """Prune a matrix.

        Args:
            weight: float64 [outputs, inputs]; may be overwritten.
            gram: X^T X over all calibration tokens, float64 [inputs, inputs]; may be overwritten.
            pattern: how many weights to prune, and where.
            options: the solver's options.

        Returns:
            The weights kept, bool [outputs, inputs], and the values of all weights, float64 of the same shape; only
            those of kept weights count.
        """

    @staticmethod
    def copies(options: Any) -> Copies:  # noqa: ARG004
        """Return what `solve` takes at its peak beside its arguments, for the memory plan."""
        return 4, 3


@dataclass(frozen=True)
class TrainingOptions(SolverOptions):
    """Options of every solver that trains blocks, from which the plan follows.

    Attributes:
        epochs: how often the calibration sequences are gone through for each block.
        batch: sequences in a step.
    """

    epochs: int = 2
    batch: int = 4

    def __post_init__(self) -> None:
        """Raise UserError if a value is not allowed."""
        for name in ("epochs", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: {getattr(self, name)} is not allowed; use a whole number of at least 1")


class TrainingSolver(Solver):
    """A solver that also trains each block when its matrices are pruned; its options extend `TrainingOptions`."""

    updates = True
    options = TrainingOptions

    @staticmethod
    @abstractmethod
    def reconstruct(block: "PrunedBlock", options: Any) -> None:
        """Train the weights that a block has kept, in place.

        Args:
            block: the block, its inputs in the model pruned so far, and its outputs in the dense model.
            options: the solver's options.
        """


def pruned_by(
    solver: str, weight: "np.ndarray", gram: "np.ndarray", pattern: "Pattern", *, overwrite: bool = False
) -> tuple["np.ndarray", "np.ndarray"]:
    """Prune a matrix by another solver with its default options, as in `Solver.solve`; `magnitude` is one here too.

    The weight and the Gram matrix stay as they are, unless `overwrite` saves copying them.
    """
    if solver == "magnitude":
        return pattern.keep(abs(weight), pattern.pruned(*weight.shape)), weight
    rule = solver_named(solver)
    if not overwrite:
        weight, gram = weight.copy(), gram.copy()
    return rule.solve(weight, gram, pattern, rule.options())


def check_after(solver: str) -> None:
    """Raise UserError if nothing is called so that `pruned_by` can do, as an option `after`."""
    if solver != "magnitude" and (solver not in solver_names() or issubclass(solver_named(solver), TrainingSolver)):
        known = [name for name in solver_names() if not issubclass(solver_named(name), TrainingSolver)]
        raise UserError(f"after: '{solver}' is not allowed; use magnitude, {', '.join(known)}")


def copies_of(solver: str) -> Copies:
    """Return what `pruned_by` takes with `overwrite`, as in `Solver.copies`; without, it takes one more of each."""
    if solver == "magnitude":
        return 2, 0
    rule = solver_named(solver)
    return rule.copies(rule.options())


@cache  # asked for every job
def solver_names() -> tuple[str, ...]:
    """Return the names of all solvers."""
    return tuple(sorted(name.replace("_", "-") for _, name, _ in iter_modules(import_module(_FOLDER).__path__)))


def is_solver(criterion: str) -> bool:
    """Return whether a criterion, by its name or by a label (`runtime.labels`), is a solver."""
    return name_of(criterion) in solver_names()


def solver_named(name: str) -> type[Solver]:
    """Look up a solver, by its name or by a label.

    Raises:
        UserError: there is no such solver, its file is damaged, its class lacks a method or has one with another
            signature, or its options do not extend those of every solver.
    """
    name = name_of(name)
    if name not in solver_names():
        raise UserError(f"'{name}' is not a solver; use {', '.join(solver_names())}")
    rule = load_class(f"{_FOLDER}.{name.replace('-', '_')}", "SOLVER", Solver, f"solver '{name}'")  # type: ignore[type-abstract]
    base = TrainingOptions if issubclass(rule, TrainingSolver) else SolverOptions
    if not issubclass(rule.options, base):
        raise UserError(f"solver '{name}': its options, {rule.options.__name__}, have to extend {base.__name__}")
    return rule
