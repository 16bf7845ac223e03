"""Tickets beyond the grid that narrow the brackets of critical sparsities.

Each round reads every ticket so far, halves all brackets that are too wide, and lists the tickets that this needs. They
are made like any others before the next round. The configuration determines the number of rounds. A round's result
depends on measured losses alone, so it is reproducible.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

from ltpipe.analysis.bisection import bracket, middle, most_steps
from ltpipe.evaluation.metrics import Metrics
from ltpipe.evaluation.quality import WINNING_RETENTION
from ltpipe.pruning.scopes import has_own_sparsity
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.labels import recovery_of
from ltpipe.runtime.records import Record
from ltpipe.workflow import grid
from ltpipe.workflow.grid import Config

LEAST = Fraction(1, 1000)
"""The least width of a bracket: confidence intervals are wider."""
CONTROL = "random"
"""The control criterion, which shows whether it matters which weights are kept."""

Cell = tuple[str, str, str, str, str, str]


@dataclass(frozen=True)
class Refinement(Record):
    """The result of a round.

    Attributes:
        model: whose tickets they are.
        to: wanted width of brackets, a decimal fraction.
        controls: seeds of the random tickets at each last winning sparsity.
        tickets: tickets beyond the grid, of this round and those before: model, data, criterion, scope, seed, sparsity.
    """

    KIND: ClassVar[str] = "refinement"

    model: str
    to: str
    controls: tuple[int, ...]
    tickets: tuple[Cell, ...]

    def __str__(self) -> str:
        """One line."""
        return f"{self.model}: {len(self.tickets)} tickets beyond the grid narrow brackets to {self.to}"

    def fits(self, config: Config) -> bool:
        """Whether it was made for this configuration."""
        return (self.to, self.controls) == (width(config), control_seeds(config))


def width(config: Config) -> str:
    """Return the wanted width of brackets as a decimal; empty without refinement."""
    refine = config["grid"] and config["grid"]["refine"]
    return Sparsity.of(refine["to"]).canonical if refine else ""


def control_seeds(config: Config) -> tuple[int, ...]:
    """Return the seeds of the grid's random tickets, if it has any."""
    return tuple(sorted(config["grid"]["seeds"])) if CONTROL in config["grid"]["criteria"] else ()


def rounds(config: Config) -> int:
    """Return the largest number of rounds: one for each halving of the widest bracket, and one for controls."""
    steps = steps_at_most(config)
    return steps + bool(steps and control_seeds(config))


def steps_at_most(config: Config) -> int:
    """Return the largest number of halvings of a bracket of the grid; 0 without refinement."""
    to = width(config)
    if not to or all(map(has_own_sparsity, config["grid"]["scopes"])):
        return 0
    return most_steps((Decimal(str(each)) for each in config["grid"]["sparsities"]), Decimal(to))


def tickets_at_most(config: Config, model: str) -> int:
    """Return the largest number of tickets that refinement adds to a model."""
    tickets = grid.tickets(config, model)
    curves = {one.of_any_sparsity for one in tickets if _is_refined(one.criterion, one.scope)}
    controlled = sum(curve.criterion != CONTROL for curve in curves)
    steps = steps_at_most(config)
    return len(curves) * steps + (controlled * len(control_seeds(config)) if steps else 0)


def refined(config: Config, model: str, path: Path) -> list[grid.Ticket]:
    """The tickets of a model, those of the grid and those that a round has found, in the order of the grid's.

    Args:
        config: checked, with all defaults.
        model: name of the model.
        path: result of the round; if it does not exist, or belongs to another configuration, the grid's tickets alone
            are returned.

    Raises:
        DamagedFileError: the file is something else.
    """
    found = Refinement.read(path) if path.exists() else None
    more = found.tickets if found and found.fits(config) else ()
    return grid.ordered({*grid.tickets(config, model), *(grid.Ticket(*cell) for cell in more)})


def refinement(
    model: str, tickets: Sequence[Path], to: str, controls: tuple[int, ...] = (), before: Path | None = None
) -> Refinement:
    """Compute one round.

    Args:
        model: whose tickets they are.
        tickets: metrics of all tickets so far, of the grid and of earlier rounds.
        to: wanted width of brackets, a decimal fraction.
        controls: seeds of random tickets.
        before: what the round before found; None in the first.

    Raises:
        UserError: a file is missing or damaged, or not of this model, or `to` is no such fraction.
    """
    if not LEAST <= Sparsity.of(to).fraction <= 1:
        raise UserError(f"to: {to} is not allowed; use a fraction from {float(LEAST)} to 1")
    curves: dict[grid.Ticket, dict[Decimal, bool]] = {}
    for path in tickets:
        found = Metrics.read(path)
        if found.model != model or found.sparsity is None or found.criterion is None or found.scope is None:
            raise UserError(f"{path}: not the metrics of a ticket of model '{model}'; give only those")
        if _is_refined(found.criterion, found.scope):
            seed = grid.NO_SEED if found.seed is None else str(found.seed)
            cell = grid.Ticket(model, found.data, found.criterion, found.scope, seed, found.sparsity)
            wins = found.performance_retention >= WINNING_RETENTION
            curves.setdefault(cell.of_any_sparsity, {})[Decimal(found.sparsity)] = wins
    known = {cell.at(sparsity) for cell, wins in curves.items() for sparsity in wins}
    earlier = {grid.Ticket(*cell) for cell in Refinement.read(before).tickets} if before else set()
    needed = earlier | ({*_needed(curves, Decimal(to), controls)} - known)
    return Refinement(model, to, controls, tuple(tuple(vars(one).values()) for one in grid.ordered(needed)))


def _is_refined(criterion: str, scope: str) -> bool:
    """Return whether tickets are refined: not those of recoveries, each of which would be another training."""
    return not has_own_sparsity(scope) and not recovery_of(criterion)


def _needed(
    curves: dict[grid.Ticket, dict[Decimal, bool]], to: Decimal, controls: tuple[int, ...]
) -> Iterable[grid.Ticket]:
    """The middle of each bracket that is too wide; for the others, controls at the last winning sparsity."""
    for curve, wins in curves.items():
        ends = bracket(wins)
        if ends is None:
            continue
        inside = middle(ends, to)
        if inside is not None:
            yield curve.at(inside)
        elif ends[0] and curve.criterion != CONTROL:
            for seed in controls:
                yield grid.Ticket(curve.model, curve.data, CONTROL, curve.scope, str(seed), "").at(ends[0])
