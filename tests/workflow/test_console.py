"""What a run says on the terminal."""

import logging
import signal

import pytest

from ltpipe.workflow.console import Console, Pace, duration, job_name


@pytest.mark.parametrize(
    ("rule", "wildcards", "name"),
    [
        ("report", {}, "report"),
        (
            "ticket",
            {"model": "tiny", "criterion": "wanda", "scope": "2of4", "seed": "none", "sparsity": "0.5"},
            "ticket tiny wanda scope 2of4 sparsity 0.5",
        ),
        ("early_bird", {"training": "mnist", "replicate": "0"}, "early bird mnist replicate 0"),
        ("perturbed_dense", {"perturbation_seed": "7"}, "perturbed dense perturbation seed 7"),
    ],
)
def test_name_of_a_job(rule: str, wildcards: dict[str, str], name: str):
    assert job_name(rule, wildcards) == name


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2, "10 s"), (44, "40 s"), (56, "1 min"), (250, "4 min"), (3599, "1 h"), (7900, "2 h 10 min")],
)
def test_duration(seconds: float, text: str):
    assert duration(seconds) == text


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_left_is_that_of_jobs_of_the_same_rule():
    clock = Clock()
    pace = Pace({"mask": 3, "ticket": 2}, clock)
    pace.start(1, "mask")
    assert pace.seconds_left() is None
    clock.now = 10
    pace.finish(1)
    assert pace.seconds_left() == 40  # four more, each as long as the only one so far
    pace.start(2, "ticket")
    clock.now = 110
    pace.finish(2)
    assert pace.seconds_left() == 2 * 10 + 100
    pace.start(3, "mask")
    clock.now = 114
    assert pace.seconds_left() == 6 + 10 + 100
    clock.now = 150
    assert pace.seconds_left() == 10 + 100  # it takes longer than it should, and others will take what they should


def test_jobs_side_by_side_take_half_the_time():
    clock = Clock()
    pace = Pace({"ticket": 6}, clock)
    for job in (1, 2):
        pace.start(job, "ticket")
    clock.now = 10
    for job in (1, 2):
        pace.finish(job)
    assert pace.seconds_left() == 20


@pytest.fixture
def logger():
    logger = logging.Logger("snakemake")
    logger.lines = []
    handler = logging.Handler()
    handler.emit = lambda record: logger.lines.append(record.getMessage())
    logger.addHandler(handler)
    return logger


def test_jobs_are_named_and_interrupts_are_one_line(logger: logging.Logger):
    console = Console(logger.info, quiet=True)
    logger.addFilter(console)
    job = {"event": "job_info", "jobid": 3, "rule_name": "mask", "wildcards": {"model": "tiny"}}
    logger.info("stats", extra={"event": "run_info", "stats": {"mask": 1, "all": 1, "total": 2}})
    for line in ("Select jobs to execute...", "Execute 1 jobs..."):
        logger.info(line)
    logger.info("rule mask:", extra=job)
    logger.error("it failed", extra={"event": "error"})
    logger.info("rule mask:", extra=job)  # tried again
    logger.info("Terminating processes on user request, this might take some time.")
    logger.error("a thousand words", extra={"event": "error"})
    logger.info("Complete log(s): …")
    named = ["[1/2] mask tiny", "rule mask:"]
    stopped = "stopped by Ctrl-C; finished work is kept; run the same command again to continue"
    assert logger.lines == ["stats", *named, "it failed", *named, stopped]
    assert console.interrupted


def test_a_key_pressed_counts_whatever_snakemake_sees_first():
    """It may see the jobs that Ctrl-C stops before it sees the key; then the run says how to go on all the same."""
    said: list[str] = []
    console = Console(said.append, quiet=False)
    with pytest.raises(KeyboardInterrupt):
        console.interrupt(signal.SIGINT, None)
    assert console.interrupted
    for _ in range(2):
        console.say_stopped()
    assert [line for line in said if line.startswith("stopped by Ctrl-C")] == said
    assert len(said) == 1


def test_a_key_that_is_ignored_stays_ignored():
    """As in a job in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Console.of(logging.getLogger("background"), quiet=False)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
