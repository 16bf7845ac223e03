"""The trainings that the studies of a configuration span."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ltpipe.pruning.sparsity import Sparsity
from ltpipe.training.record import NUMBERED
from ltpipe.workflow import grid

Config = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One training of a study, each axis as the text that stands in artefact names."""

    study: str
    replicate: str
    level: str
    branch: str

    def named(self, pattern: str) -> str:
        """Its artefact of the given pattern."""
        return pattern.format(**asdict(self))


def trainings(config: Config) -> list[Cell]:
    """Every training of every study, by study, replicate, level and branch."""
    return [
        Cell(name, str(replicate), str(level), branch)
        for name, study in sorted(config["imp"].items())
        for replicate in sorted(study["replicates"])
        for level in range(study["levels"] + 1)
        for branch in _branches(study, level)
    ]


def records(config: Config) -> list[str]:
    """Names of all learning records."""
    return [cell.named(grid.RECORD) for cell in trainings(config)]


def connectivities(config: Config) -> list[str]:
    """Names of all lines, each from a ticket to one with another data order."""
    lines = [(cell, cell.branch.removeprefix("order-")) for cell in trainings(config)]
    return [grid.CONNECTIVITY.format(**asdict(cell), order=order) for cell, order in lines if order != cell.branch]


def early_birds(config: Config) -> list[str]:
    """Names of all early-bird detections."""
    return [
        f"{grid.EARLY_BIRD}.json".format(study=name, replicate=replicate, sparsity=Sparsity.of(sparsity).canonical)
        for name, study in sorted(config["imp"].items())
        if study["early_bird"]
        for replicate in sorted(study["replicates"])
        for sparsity in sorted(study["early_bird"]["sparsities"])
    ]


def donor(config: Config, study: str, replicate: str, name: str) -> str:
    """The replicate of study `name` whose masks are transplanted into a replicate of `study`."""
    if name != study:
        return replicate
    own = sorted(config["imp"][study]["replicates"])
    return str(own[(own.index(int(replicate)) + 1) % len(own)])


def _branches(study: Config, level: int) -> Iterator[str]:
    yield "ticket"
    branches = study["branches"]
    if branches["levels"] != "all" and level not in branches["levels"]:
        return
    for kind in NUMBERED if level else ["order"]:
        yield from (f"{kind}-{number}" for number in range(1, branches[kind] + 1))
    if level:
        yield from (f"transplanted-{name}" for name in sorted(branches["transplanted"]))
        yield from (kind for kind in ("gradual", "distilled") if branches[kind])
