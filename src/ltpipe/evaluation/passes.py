"""Tickets that share a pass although each has a job of its own.

The first job that needs a ticket also evaluates others that will be needed, and keeps their metrics ahead of their
jobs, which then only take them. So a new sparsity evaluates nothing but its own tickets, and a run that is killed
loses nothing that a job has written.
"""

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from ltpipe.evaluation.metrics import Metrics
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.made_with import asking

_EITHER_WAY = ("device_memory", "threads")
"""Settings of a computation that change no result."""


@dataclass(frozen=True)
class PassSettings:
    """Which tickets may share a pass.

    Attributes:
        tickets_per_pass: most tickets that share a pass.
        queue: all tickets of the model and text, as JSON: pairs of the settings that tickets are made with, and lists
            of sparsities by `criterion/scope/seed-S`, as in the names of masks and metrics.
        ahead: folder for metrics of tickets whose jobs come later.
    """

    tickets_per_pass: int = 1
    queue: str = "[]"
    ahead: Path = Path("ahead")


@dataclass(frozen=True)
class Queued:
    """A ticket in a queue: its mask, its metrics, its metrics ahead of its job, and the settings it is made with."""

    mask: Path
    metrics: Path
    ahead: Path
    made_with: Mapping[str, Any] | None


@dataclass(frozen=True)
class Identity:
    """What metrics must have been made from, for a job to take them as its own.

    Attributes:
        inputs: hashes of the inputs, without the mask's.
        settings: settings of the evaluation.
        code: digest of the code; None if it is not known.
        files: input files, without the mask: metrics are younger.
    """

    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    code: str | None
    files: Sequence[Path]

    def of(self, path: Path, ticket: Queued) -> Metrics | None:
        """Return a ticket's metrics in a file if they are of this kind; None if they are not, or cannot be read."""
        try:
            if path.stat().st_mtime_ns < max(file.stat().st_mtime_ns for file in (*self.files, ticket.mask)):
                return None
            with asking(ticket.made_with):
                metrics = Metrics.read(path)
        except (OSError, UserError):
            return None
        made = metrics.provenance
        same = {**made["inputs"], **self.inputs} == made["inputs"] and made.get("code") == self.code
        return metrics if same and _decisive(made["settings"]) == _decisive(self.settings) else None


class Queue:
    """The tickets of a model and a text, from the point of view of one of their jobs.

    Args:
        settings: which tickets may share a pass.
        mask: the job's mask.
        output: the job's metrics.

    Raises:
        UserError: the queue is not such JSON, or the job's ticket is not in it.
    """

    def __init__(self, settings: PassSettings, mask: Path, output: Path) -> None:
        try:
            names = {
                f"{cell}/{sparsity}": made_with
                for made_with, cells in json.loads(settings.queue)
                for cell, sparsities in cells.items()
                for sparsity in sparsities
            }
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"--queue: not pairs of settings and tickets ({error})") from None
        own = next((name for name in names if mask.as_posix().endswith(f"/{name}.safetensors")), None)
        if own is None or not output.as_posix().endswith(f"/{own}.json"):
            raise UserError(f"--queue: does not contain the ticket of {mask} and {output}")
        masks = mask.as_posix().removesuffix(f"{own}.safetensors")
        metrics = output.as_posix().removesuffix(f"{own}.json")
        self._tickets = [
            Queued(
                Path(f"{masks}{name}.safetensors"),
                Path(f"{metrics}{name}.json"),
                settings.ahead / f"{name}.json",
                made_with,
            )
            for name, made_with in names.items()
        ]
        self._own, self._most = list(names).index(own), settings.tickets_per_pass
        self._claimed = settings.ahead / "claims"

    def write(self, identity: Identity, evaluate: Callable[[list[Queued]], list[Metrics | None]]) -> Metrics:
        """Write and return the metrics of the job's ticket: those that another job has kept, or made now with others'.

        Args:
            identity: what metrics must have been made from.
            evaluate: evaluates the first of these tickets, and the next ones as far as they share its pass.
        """
        own = self._tickets[self._own]
        with self._claims() as claim:
            claim(self._own, wait=True)
            metrics = identity.of(own.ahead, own)
            if metrics is None or metrics.provenance["inputs"]["mask"] != sha256_of(own.mask):
                others: list[Queued] = []
                for number in self._candidates():
                    if len(others) == self._most - 1:
                        break
                    if claim(number) and _needed(self._tickets[number], identity):
                        others.append(self._tickets[number])
                metrics, *further = evaluate([own, *others])
                for ticket, found in zip(others, further, strict=False):
                    if found is not None:
                        with asking(ticket.made_with):
                            found.write(ticket.ahead)
            assert metrics is not None  # losses are finite, or it would have been an error
            metrics.write(own.metrics)
            own.ahead.unlink(missing_ok=True)
            return metrics

    def _candidates(self) -> list[int]:
        """Return the other tickets to look at, in an order in which jobs that start together meet late.

        Those without metrics come first; of the others only some are read, to see whether they are outdated.
        """
        count = len(self._tickets)
        stride = ceil(count / self._most)
        others = [number for number in range(count) if number != self._own]
        others.sort(key=lambda number: ((number - self._own) % stride, number))
        made = {number for number in others if self._tickets[number].metrics.exists()}
        outdated = [number for number in others if number in made][: 4 * self._most]
        return [number for number in others if number not in made] + outdated

    @contextmanager
    def _claims(self) -> Iterator[Callable[..., bool]]:
        """Give a function that claims a ticket for this process, until the end of the context or of the process.

        Claims are locks on single bytes of a file. They also hold on network file systems; without locks, nothing but
        the own ticket can be claimed.
        """
        self._claimed.parent.mkdir(parents=True, exist_ok=True)
        with self._claimed.open("ab") as file:

            def claim(number: int, wait: bool = False) -> bool:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, number)
                except OSError:
                    return False
                return True

            yield claim


def _needed(ticket: Queued, identity: Identity) -> bool:
    """Return whether a ticket has a mask but no metrics of this kind yet."""
    return ticket.mask.is_file() and not any(identity.of(path, ticket) for path in (ticket.metrics, ticket.ahead))


def _decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _EITHER_WAY}
