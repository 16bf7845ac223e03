"""The declaration of a table of the report, from which files, page, `ltpipe inspect` and docs follow."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ltpipe.analysis.samples import ONCE, Sample, cell_named
from ltpipe.evaluation.metrics import Metrics
from ltpipe.evaluation.simulated import Simulation
from ltpipe.pruning.solution import SolutionErrors
from ltpipe.recovery.record import RecoveryRecord
from ltpipe.reporting.cells import Cell
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import Columns, Frame, dtypes, frame, read_table
from ltpipe.tasks.results import TaskResults

if TYPE_CHECKING:  # editing how things are trained does not make the tables of models again
    from ltpipe.reporting.trainings import Trained

Stage = Literal["tables", "overlap", "validation"]
Need = Literal[
    "tickets",
    "perturbations",
    "simulation",
    "trainings",
    "lines",
    "early birds",
    "solvers",
    "tasks",
    "recoveries",
    "several models",
    "anything",
]


@dataclass(frozen=True)
class Measured:
    """Measurements of a model and its tickets.

    Attributes:
        dense: metrics of the dense model, on each text.
        tickets: metrics of its tickets.
        samples: both, by text, with resamples.
        perturbed: metrics of the dense model and of tickets with perturbed weights.
        simulations: of iterative magnitude pruning.
        solutions: errors of what solvers found.
        tasks: results of tasks of lm-evaluation-harness.
        recoveries: records of recoveries.
    """

    dense: Sequence[Metrics]
    tickets: Sequence[Metrics]
    samples: Sequence[Sample]
    perturbed: Sequence[Metrics]
    simulations: Sequence[Simulation]
    solutions: Sequence[SolutionErrors] = ()
    tasks: Sequence[TaskResults] = ()
    recoveries: Sequence[RecoveryRecord] = ()


@dataclass(frozen=True)
class Table:
    """A table of the report.

    Attributes:
        name: stem of its files.
        of: its subject, in words.
        row: what one row stands for.
        columns: with their dtypes and meanings.
        needs: what a study must have for the report to have this table.
        key: columns that identify a row; none if rows may be alike.
        stage: the stage that writes this table for each model; None if only the report makes it.
        measured: makes it from the measurements of a model, for the stage `tables`.
        trained: makes it from trainings, for the report.
        derived: makes it from other tables by their names, for the report, if several models have tickets.
        arranged: puts rows of several models, and of trainings, in the order of the report.
        title: heading of the page's section of the table.
        note: what the numbers mean, in one paragraph.
        cells: columns of the page by their headings; none: the page has only the figure.
        once: columns of which the page shows each combination once.
        prose: whether cells of the page hold sentences, which wrap.
        figure: stem of the figure that is drawn from it.
        suffixes: of its files.
        category: of its files in Snakemake's own report.
        captioned: whether that has the table, with a caption from workflow/report, beside the figure.
    """

    name: str
    of: str
    row: str
    columns: Columns
    needs: Need = "tickets"
    key: tuple[str, ...] = ()
    stage: Stage | None = None
    measured: Callable[[Measured], Frame] | None = None
    trained: "Callable[[Trained], Frame] | None" = None
    derived: Callable[[Mapping[str, Frame]], Frame] | None = None
    arranged: Callable[[Frame], Frame] | None = None
    title: str = ""
    note: str = ""
    cells: Mapping[str, Cell] = field(default_factory=dict)
    once: tuple[str, ...] = ()
    prose: bool = False
    figure: str = ""
    suffixes: tuple[str, ...] = (".csv", ".parquet")
    category: str = ""
    captioned: bool = False

    @property
    def empty(self) -> Frame:
        """The table without rows."""
        return frame([], self.columns)

    @property
    def files(self) -> list[str]:
        """Names of its files."""
        return [f"{self.name}{suffix}" for suffix in self.suffixes]

    def parsed(self, path: Path) -> Frame:
        """Read it from a file whose checksum is verified already; raises DamagedFileError if it is another table."""
        return read_table(path, self.columns, f"a table of {self.of}")

    def joined(self, parts: Iterable[tuple[str, Frame]]) -> Frame:
        """Return the rows of several such tables, each given with the name of its source.

        Raises:
            UserError: two rows have the same key.
        """
        import pandas as pd

        parts = list(parts)
        found = pd.concat([part for _, part in parts if len(part)] or [self.empty], ignore_index=True)
        key = list(self.key)
        if key and (twice := found.duplicated(key)).any():
            row = found.loc[twice, key].iloc[:1]
            where = [name for name, part in parts if len(part.merge(row))]
            raise UserError(f"{' and '.join(where)}: two rows of {cell_named(row.iloc[0].to_dict())}; {ONCE}")
        found = found.astype(dtypes(self.columns))  # categories of several files have become words
        return self.arranged(found) if self.arranged else found
