"""The trainings that a configuration spans."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ltpipe.pruning.sparsity import Sparsity
from ltpipe.training.record import NUMBERED
from ltpipe.workflow import grid
from ltpipe.workflow.grid import Config


@dataclass(frozen=True)
class TrainingAxes:
    """One run of a training by its axes, each as text for artefact names."""

    training: str
    replicate: str
    level: str
    branch: str

    def named(self, pattern: str) -> str:
        """Return the name of its artefact of the given pattern."""
        return pattern.format(**asdict(self))


def every_training(config: Config) -> list[TrainingAxes]:
    """Return every training of a study, sorted by name, replicate, level and branch."""
    return [
        TrainingAxes(name, str(replicate), str(level), branch)
        for name, training in sorted(config["imp"].items())
        for replicate in sorted(training["replicates"])
        for level in range(training["levels"] + 1)
        for branch in _branches(training, level)
    ]


def records(config: Config) -> list[str]:
    """Return the names of all learning records."""
    return [cell.named(grid.RECORD) for cell in every_training(config)]


def connectivities(config: Config) -> list[str]:
    """Return the names of all lines, each from a ticket to one with another data order."""
    lines = [(cell, cell.branch.removeprefix("order-")) for cell in every_training(config)]
    return [grid.CONNECTIVITY.format(**asdict(cell), order=order) for cell, order in lines if order != cell.branch]


def early_birds(config: Config) -> list[str]:
    """Return the names of all early-bird detections."""
    return [
        f"{grid.EARLY_BIRD}.json".format(training=name, replicate=replicate, sparsity=Sparsity.of(sparsity).canonical)
        for name, training in sorted(config["imp"].items())
        if training["early_bird"]
        for replicate in sorted(training["replicates"])
        for sparsity in sorted(training["early_bird"]["sparsities"])
    ]


def donor(config: Config, training: str, replicate: str, name: str) -> str:
    """Return the replicate of training `name` whose masks are transplanted into a replicate of `training`."""
    if name != training:
        return replicate
    own = sorted(config["imp"][training]["replicates"])
    return str(own[(own.index(int(replicate)) + 1) % len(own)])


def _branches(training: Config, level: int) -> Iterator[str]:
    yield "ticket"
    branches = training["branches"]
    if branches["levels"] != "all" and level not in branches["levels"]:
        return
    for kind in NUMBERED if level else ["order"]:
        yield from (f"{kind}-{number}" for number in range(1, branches[kind] + 1))
    if level:
        yield from (f"transplanted-{name}" for name in sorted(branches["transplanted"]))
        yield from (kind for kind in ("gradual", "distilled") if branches[kind])
