"""Messages of a run on the terminal: the name of each job that starts, the time left, and the end of the run.

Snakemake alone prints ten lines per job or, with `--quiet rules`, names a job only when it has ended.
"""

import logging
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any

_TARGET = "all"
"""The rule that only requests results; it takes no time and is not announced."""

_STOPPED = "stopped by Ctrl-C; finished work is kept; run the same command again to continue"
_INTERRUPT = "Terminating processes on user request"
_CHATTER = ("Select jobs to execute...", "Execute ", "Workflow defines that rule ")


def job_name(rule: str, wildcards: Mapping[str, str]) -> str:
    """Return a short name of a job: `ticket smollm2-135m speeches wanda row sparsity 0.5`.

    A number follows the name of its axis. The seed of a deterministic criterion is omitted.
    """
    axes = {axis.replace("_", " "): value for axis, value in wildcards.items() if value != "none"}
    values = (f"{axis} {value}" if value[:1].isdigit() else value for axis, value in axes.items())
    return " ".join((rule.replace("_", " "), *values))


def duration(seconds: float) -> str:
    """Return a duration for people, rounded to about a tenth: `40 s`, `4 min`, `2 h 10 min`."""
    if seconds < 55:
        return f"{max(10, 10 * round(seconds / 10))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(10 * round(minutes / 10), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


class Pace:
    """Estimates the time left from the jobs that have finished.

    A job is expected to take the average time of its rule's finished jobs or, without any, of all finished jobs. As
    many jobs are expected to run at a time as before.
    """

    def __init__(self, jobs: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._left, self._clock, self._began = Counter(jobs), clock, clock()
        self._running: dict[int, tuple[str, float]] = {}
        self._took: defaultdict[str, list[float]] = defaultdict(list)

    def start(self, job: int, rule: str) -> None:
        """Record that a job has started."""
        self._running[job] = rule, self._clock()

    def finish(self, job: int) -> None:
        """Record that a job has succeeded."""
        if job in self._running:
            rule, began = self._running.pop(job)
            self._took[rule].append(self._clock() - began)
            self._left[rule] -= 1

    def seconds_left(self) -> float | None:
        """Return the estimated time until all jobs are done; None before the first one is."""
        all_took = [seconds for took in self._took.values() for seconds in took]
        if not all_took:
            return None
        now, busy = self._clock(), sum(all_took)
        left = sum(count * self._average(rule, all_took) for rule, count in self._left.items() if count > 0)
        for rule, began in self._running.values():
            busy += now - began
            left -= min(now - began, self._average(rule, all_took))
        return left / max(1.0, busy / max(now - self._began, 1e-9))

    def _average(self, rule: str, otherwise: list[float]) -> float:
        took = self._took.get(rule, otherwise)
        return sum(took) / len(took)


class Console(logging.Filter):
    """Filters Snakemake's log: adds a line per job and drops the messages that this line replaces.

    It is a filter and not a logger plugin because Snakemake looks for plugins only among the installed packages.

    Attributes:
        interrupted: whether Ctrl-C has been pressed.
    """

    def __init__(self, say: Callable[[str], None], quiet: bool) -> None:
        """`say` logs a line; `quiet` is true if Snakemake does not show rules itself."""
        super().__init__()
        self._say, self._quiet = say, quiet
        self._pace, self._started, self._total = Pace({}), set[int](), 0
        self.interrupted = self._stopped = False

    @classmethod
    def of(cls, logger: logging.Logger, quiet: bool) -> "Console":
        """Add a console to a logger, and report a Ctrl-C that comes before the first job."""
        console, before = cls(logger.info, quiet), sys.excepthook
        logger.addFilter(console)

        def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            if issubclass(kind, KeyboardInterrupt):
                print(_STOPPED, file=sys.stderr)
            else:
                before(kind, error, trace)

        sys.excepthook = hook
        # In the background, Ctrl-C may be ignored, and stays so.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler and (
            threading.current_thread() is threading.main_thread()
        ):
            signal.signal(signal.SIGINT, console.interrupt)
        return console

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Note a Ctrl-C and raise KeyboardInterrupt: Snakemake may see the jobs that it stops before it sees the key.

        asyncio, which Snakemake runs in, leaves a handler alone that is not Python's own.
        """
        self.interrupted = True
        signal.default_int_handler(number, frame)

    def say_stopped(self) -> None:
        """Say once how to go on."""
        if not self._stopped:
            self._stopped = True
            self._say(_STOPPED)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether Snakemake should show a record."""
        said: Any = record  # Snakemake gives its records attributes of their own
        match getattr(record, "event", None):
            case "run_info":
                self._total = said.stats["total"]
                self._pace = Pace({rule: jobs for rule, jobs in said.stats.items() if rule not in ("total", _TARGET)})
            case "progress":
                self._total = said.total  # Snakemake checkpoints add jobs
            case "job_info" if said.rule_name != _TARGET:
                self._started.add(said.jobid)  # a retried job counts once
                self._pace.start(said.jobid, said.rule_name)
                self._say(self._line(job_name(said.rule_name, said.wildcards)))
            case "job_finished":
                self._pace.finish(said.job_id)
            case "error" if self.interrupted:
                return False
        message = str(record.msg)
        if message.startswith(_INTERRUPT):
            self.interrupted = True
            self.say_stopped()
            return False
        if self.interrupted:  # what Snakemake says of the jobs that were stopped is not news
            return message == _STOPPED
        return not (self._quiet and message.startswith(_CHATTER))

    def _line(self, name: str) -> str:
        left = self._pace.seconds_left()
        estimate = "" if left is None else f" … about {duration(left)} left"
        return f"[{len(self._started)}/{self._total}] {name}{estimate}"
