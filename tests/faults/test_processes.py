"""Signals to end, two snakemakes on one folder, and stages that outlive their snakemake."""

import os
import signal
import subprocess
from collections.abc import Callable

import psutil
import pytest
from disturbed import Run, until

pytestmark = pytest.mark.faults

LEVEL = "results/imp/small/replicate-0/level-1"


@pytest.fixture
def training(copied: Run) -> tuple[Run, subprocess.Popen, psutil.Process]:
    """A run in which a training is under way, its snakemake, and the process that trains."""
    copied.lose(f"{LEVEL}/ticket.safetensors")
    snakemake = copied.start()
    until((copied.folder / LEVEL / "ticket.safetensors.resume").exists)
    (stage,) = copied.stages()
    return copied, snakemake, stage


def test_sigterm_to_a_stage(training: tuple, same: Callable, tried: Callable):
    """The training loses what it did since its last save; the resume file stays until it has gone on."""
    run, snakemake, stage = training
    stage.terminate()
    assert snakemake.wait() == 1
    assert "error: stopped by SIGTERM" in run.output
    assert "Traceback" not in run.output
    assert [path.name for path in run.temporaries()] == ["ticket.safetensors.resume"]
    run.mend()
    same(run)
    seen = "`error: stopped by SIGTERM; run again to go on`"
    tried("SIGTERM to a stage", seen, "the same command", 1, "identical; a training goes on from its last save")


def test_sigterm_to_snakemake(training: tuple, same: Callable, tried: Callable):
    """It lets the jobs that run end, starts no other, and leaves no lock."""
    run, snakemake, _ = training
    snakemake.terminate()
    code = snakemake.wait()
    seen = "Will exit after finishing currently running jobs"
    assert seen in run.output
    assert "Traceback" not in run.output
    assert run.temporaries() == run.stages() == []
    assert not run.locked
    print("exit code", code)
    run.mend()
    same(run)
    tried("SIGTERM to snakemake", f"`{seen}`", "the same command", 1, "running jobs end, then it stops; identical")


def test_sigterm_to_all(training: tuple, same: Callable, tried: Callable):
    """As a machine that shuts down sends it."""
    run, snakemake, _ = training
    os.killpg(snakemake.pid, signal.SIGTERM)
    snakemake.wait()
    assert "error: stopped by SIGTERM" in run.output
    assert "Traceback" not in run.output
    assert not list(run.results.rglob("*.tmp"))
    run.mend()
    same(run)
    seen = "`error: stopped by SIGTERM; run again to go on`"
    tried("SIGTERM to snakemake and its stages", seen, "the same command", 1, "identical")


def test_a_second_snakemake_on_the_same_folder(training: tuple, same: Callable, tried: Callable):
    run, first, stage = training
    stage.suspend()  # a training may end before the second has read the study
    assert run.ended() != 0
    assert "Directory cannot be locked" in run.output
    assert "Traceback" not in run.output
    stage.resume()
    assert first.wait() == 0
    same(run)
    seen = "the second: `Error: Directory cannot be locked`"
    tried("two snakemakes on one folder", seen, "none; the first goes on", 1, "identical")


def test_a_stage_that_outlives_its_snakemake(training: tuple, same: Callable, tried: Callable):
    """It is held, also against the signal that ends it, while another process makes the same result."""
    run, snakemake, stage = training
    stage.suspend()
    snakemake.kill()
    snakemake.wait()
    assert run.ended("--unlock") == 0
    assert run.ended() == 0
    assert stage.is_running()
    assert not (run.folder / LEVEL / "ticket.safetensors.resume").exists()
    stage.resume()
    stage.wait()
    assert run.ended() == 0
    same(run)
    tried(
        "a suspended stage outlives a killed snakemake, and the restarted one runs the same job",
        "the directory cannot be locked",
        "`--unlock`, then the same command",
        1,
        "stopped by SIGTERM as soon as it goes on; identical",
    )
