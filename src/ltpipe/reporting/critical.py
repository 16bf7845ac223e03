"""Where a curve of tickets stops winning, in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ltpipe.evaluation.quality import WINNING_RETENTION
from ltpipe.reporting.columns import MISSING, percent
from ltpipe.runtime.frames import is_missing

NOTE = (
    f"The critical sparsity, where retention falls below {WINNING_RETENTION}, lies between the last winning and the "
    "first losing ticket, which are measured. The estimate between them is interpolated linearly. Its 95% interval "
    "shows how it would vary with other text of this kind; it does not include the error of interpolating, which only "
    "the bracket bounds. grid.refine narrows the bracket. If a curve falls several times, the first fall counts."
)


@dataclass(frozen=True)
class End:
    """One end of a bracket.

    Attributes:
        sparsity: the requested sparsity, a fraction.
        kept: prunable weights kept; None for the dense model.
        significant: whether the interval of its retention excludes the winning threshold; None if it has no interval.
    """

    sparsity: float
    kept: int | None
    significant: bool | None


@dataclass(frozen=True)
class CriticalSparsity:
    """A row of the curves table.

    Attributes:
        criterion, scope, seed: the curve's axes.
        total: prunable weights.
        last_winning: the winning end of the bracket; the dense model if all tickets lose.
        first_losing: the losing end; None if all tickets win.
        estimate, low, high: interpolated estimate and its interval over samples of text; None beyond `largest`.
        largest: sparsity of the sparsest ticket.
        crossings: how often the curve falls.
        has_intervals: whether there are intervals; a single sequence gives none.
    """

    criterion: str
    scope: str
    seed: int | None
    total: int
    last_winning: End
    first_losing: End | None
    estimate: float | None
    low: float | None
    high: float | None
    largest: float
    crossings: int
    has_intervals: bool

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Read a row of the curves table."""
        value = {key: None if is_missing(found) else found for key, found in row.items()}

        def end(name: str) -> End | None:
            sparsity = value[f"{name}_sparsity"]
            return None if sparsity is None else End(sparsity, value[f"{name}_kept"], value[f"{name}_significant"])

        return cls(
            criterion=row["criterion"],
            scope=row["scope"],
            seed=value["seed"],
            total=row["total"],
            last_winning=end("last_winning") or End(0.0, None, None),
            first_losing=end("first_losing"),
            estimate=value["critical_sparsity_estimate"],
            low=value["critical_sparsity_estimate_low"],
            high=value["critical_sparsity_estimate_high"],
            largest=row["largest_sparsity"],
            crossings=row["crossings"],
            has_intervals=value["area_low"] is not None,
        )

    @property
    def winning_text(self) -> str:
        """The winning end, in words."""
        return "dense model" if self.last_winning.kept is None else self._text(self.last_winning)

    @property
    def losing_text(self) -> str:
        """The losing end, in words."""
        return f"none up to {percent(self.largest)}" if self.first_losing is None else self._text(self.first_losing)

    @property
    def estimate_text(self) -> str:
        """The estimate with its interval; a dash if all tickets win."""
        if self.first_losing is None:
            return MISSING
        value, low, high = (self._beyond(found) for found in (self.estimate, self.low, self.high))
        return f"{value} [{low}, {high}]" if self.has_intervals else value

    def _beyond(self, value: float | None) -> str:
        return f"≥ {percent(self.largest)}" if value is None else percent(value, 1)

    def _text(self, end: End) -> str:
        """Return its sparsity, the fraction actually pruned if that differs, and whether it is close to the limit."""
        text = percent(end.sparsity)
        if end.kept is not None and abs(1 - end.kept / self.total - end.sparsity) > max(0.0005, 1 / self.total):
            text += f" (prunes {percent(1 - end.kept / self.total, 1)})"
        return text if end.significant is not False else f"{text}, not significantly different from {WINNING_RETENTION}"
