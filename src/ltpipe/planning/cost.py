"""The total cost of a planned study: jobs, disk, and an estimate of device hours."""

from collections.abc import Iterable
from dataclasses import dataclass

from ltpipe.planning.stages import StagePlan
from ltpipe.runtime.memory import GIB

ANALYSES, GATHERING = 3, 2
"""Jobs missing from plans: overlap, validation and tables of each model; report and target of the study."""


@dataclass(frozen=True)
class Cost:
    """Sums over stages.

    Attributes:
        jobs: number of jobs.
        disk: bytes that they write.
        operations: floating-point operations on the device.
    """

    jobs: int = 0
    disk: int = 0
    operations: int = 0

    def __mul__(self, models: int) -> "Cost":
        """Return the cost of `models` models like this one."""
        return Cost(self.jobs * models, self.disk * models, self.operations * models)

    def __add__(self, other: "Cost") -> "Cost":
        """Return the cost of both."""
        return Cost(self.jobs + other.jobs, self.disk + other.disk, self.operations + other.operations)

    def hours(self, teraflops: float) -> float:
        """Return device hours at `teraflops` 10^12 operations per second: an estimate, not a measurement."""
        return self.operations / (teraflops * 1e12) / 3600


def cost(plan: Iterable[StagePlan]) -> Cost:
    """Return the total cost of stages."""
    return sum((Cost(stage.jobs, stage.disk, stage.operations) for stage in plan), start=Cost())


def cost_line(spent: Cost, teraflops: float | None = None) -> str:
    """Return the cost as one line, with hours if the speed of the device is given."""
    line = f"total: {spent.jobs:,} jobs, {spent.disk / GIB:,.2f} GiB of disk, {spent.operations:.1e} operations"
    if teraflops is None:
        return line
    return f"{line}, about {spent.hours(teraflops):,.2f} device hours at {teraflops:g} tera-operations per second"
