"""Results of benchmarks, and their rendering as GitHub Markdown."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

_PACKAGES = ("torch", "transformers", "numba", "numpy")


@dataclass(frozen=True)
class Samples:
    """Repeated measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median value."""
        return median(self.values)

    def over(self, other: "Samples") -> "Samples":
        """Return the ratio to other samples from the same rounds, round by round."""
        return Samples(tuple(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True)))

    def plus(self, other: "Samples") -> "Samples":
        """Return the sum with other samples from the same rounds, round by round."""
        return Samples(tuple(mine + more for mine, more in zip(self.values, other.values, strict=True)))

    def scaled(self, factor: float) -> "Samples":
        """Return the samples multiplied by a factor."""
        return Samples(tuple(factor * value for value in self.values))

    def text(self, form: str = ".3f") -> str:
        """Format the median, followed by the smallest and largest value."""
        spread = f" ({min(self.values):{form}}–{max(self.values):{form}})" if len(self.values) > 1 else ""
        return f"{self.median:{form}}{spread}"


def in_turn(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Samples]:
    """Time each contestant in seconds: each once per round, in reverse order every other round."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: Samples(tuple(values)) for name, values in seconds.items()}


@dataclass(frozen=True)
class Bar:
    """A limit and the measurement it applies to.

    Attributes:
        what: the ratio or quantity in words.
        measured: the measurement; the median of the rounds decides.
        limit: the limit.
        at_most: whether `measured` must stay at or below the limit, rather than reach it.
        form: format of both numbers.
    """

    what: str
    measured: Samples
    limit: float
    at_most: bool
    form: str = ".2f"

    @property
    def holds(self) -> bool:
        """Whether the measurement meets the limit."""
        return self.measured.median <= self.limit if self.at_most else self.measured.median >= self.limit

    @property
    def row(self) -> tuple[str, ...]:
        """Cells of this bar's row in the table of bars."""
        sign = "≤" if self.at_most else "≥"
        verdict = "pass" if self.holds else "**FAIL**"
        return self.what, self.measured.text(self.form), f"{sign} {self.limit:{self.form}}", verdict


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading, with remarks below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """Render as a GitHub table; the first column is left-aligned, the others right-aligned."""
        align = [":--"] + ["--:"] * (len(self.columns) - 1)
        lines = [" | ".join(cells) for cells in (self.columns, align, *self.rows)]
        table = "\n".join(f"| {line} |" for line in lines)
        return "\n\n".join([f"### {self.title}", table, *self.notes])


@dataclass(frozen=True)
class Section:
    """One benchmark: its tables and its bars."""

    title: str
    intro: str
    tables: Sequence[Table]
    bars: Sequence[Bar]

    def markdown(self) -> str:
        """Render heading, introduction and tables."""
        return "\n\n".join([f"## {self.title}", self.intro, *(table.markdown() for table in self.tables)])


def render(command: str, threads: int, load: float, sections: Sequence[Section]) -> str:
    """Render the whole report: machine, verdicts, then the tables behind them."""
    bars = [bar for section in sections for bar in section.bars]
    verdicts = Table(
        "Bars",
        ("What", "Measured: median (min–max)", "Bar", "Verdict"),
        [bar.row for bar in bars],
        ["The median decides. Peers and limits were measured in this run, round by round in turn with ltpipe."],
    )
    return "\n\n".join(
        [
            "# Benchmarks",
            f"Written by `{command}`; run it again rather than edit this page.",
            _machine(threads, load).markdown(),
            verdicts.markdown(),
            *(section.markdown() for section in sections),
        ]
    )


def _machine(threads: int, load: float) -> Table:
    busy = " — **other work was running, timings are noisy**" if load > 0.3 else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Table(
        "Machine",
        ("Fact", "Value"),
        [
            ("CPU", _cpu()),
            ("Processors, threads used", f"{len(os.sched_getaffinity(0))}, {threads}"),
            ("Memory", f"{memory:.1f} GiB"),
            ("System", f"{platform.system()} {platform.release()}, Python {platform.python_version()}"),
            ("Packages", ", ".join(f"{name} {version(name)}" for name in _PACKAGES)),
            ("Date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")),
            ("Load average before the start (1 minute)", f"{load:.2f}{busy}"),
        ],
    )


def _cpu() -> str:
    facts = dict(
        (part.strip() for part in line.split(":", 1))
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if ":" in line
    )
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in facts["flags"].split()]
    return f"{facts['model name']}, family {facts['cpu family']} model {facts['model']} ({', '.join(flags)})"
