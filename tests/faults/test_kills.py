"""kill -9 of stages, of snakemake and of both, at random moments of a whole run and in the middle of writes."""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from disturbed import Run, struck, study, until

from ltpipe.runtime.errors import UserError
from ltpipe.training.state import read_state

pytestmark = pytest.mark.faults

KILLS = 17

SEEN = {
    "stage": "the rule, its log and `Exiting because a job execution failed`",
    "snakemake": "nothing; the next start says that the directory cannot be locked",
    "both": "nothing; the next start says that the directory cannot be locked",
}
REMEDY = {
    "stage": "the same command",
    "snakemake": "`--unlock`, then the same command",
    "both": "`--unlock`, then the same command",
}
NAMES = {"stage": "a stage", "snakemake": "snakemake alone", "both": "snakemake and its stages"}


@pytest.mark.parametrize("victim", ["stage", "snakemake", "both"])
def test_kill_minus_nine_at_random_moments(victim: str, finished: Run, same: Callable, tried: Callable, tmp_path: Path):
    pace = float((finished.folder / "seconds").read_text()) / finished.done()
    run, chance, kills = Run(study(tmp_path)), random.Random(victim), Counter()
    while kills.total() < KILLS:
        snakemake = run.start()
        while kills.total() < KILLS and snakemake.poll() is None:
            jobs = run.done() + chance.choice((0, 0, 1, 1, 2, 3))
            until(lambda: snakemake.poll() is not None or run.done() >= jobs)  # noqa: B023
            time.sleep(chance.uniform(0, pace))
            in_write = chance.random() < 0.4
            kills["in a write" if in_write else "at any moment"] += struck(run, snakemake, victim, in_write)
        code = snakemake.wait()
        if victim != "stage" and run.locked:
            if kills.total() == 1:
                assert run.ended() != 0
                assert "Directory cannot be locked" in run.output
            assert run.ended("--unlock") == 0, run.output
        if code == 0:  # it got through before it had been killed often enough: once more from the start
            until(lambda: not run.stages())
            same(run)
            shutil.rmtree(run.results)
            shutil.rmtree(tmp_path / ".snakemake")
    run.mend()
    same(run)
    for moment, times in kills.items():
        tried(f"`kill -9` of {NAMES[victim]}, {moment}", SEEN[victim], REMEDY[victim], times, "identical")


def test_a_training_is_killed_again_and_again(copied: Run, same: Callable, tried: Callable):
    """Each time as soon as it has saved a later state, so that only going on from there brings it to its end."""
    trained = copied.results / "imp/small/replicate-0/level-1/ticket.safetensors"
    copied.lose(str(trained.relative_to(copied.folder)))
    resume, kills = trained.with_name(f"{trained.name}.resume"), 0
    while not trained.exists():
        before = saved(resume)
        snakemake = copied.start()
        until(lambda: snakemake.poll() is not None or saved(resume) > before)  # noqa: B023
        kills += struck(copied, snakemake, "both", in_write=False)
        if copied.locked:
            assert copied.ended("--unlock") == 0, copied.output
    assert kills > 3
    copied.mend()
    same(copied)
    fault = f"`kill -9` of {NAMES['both']}, each time a training has saved its state"
    tried(fault, SEEN["both"], REMEDY["both"], kills, "goes on from the state; identical")


def saved(resume: Path) -> int:
    """The iteration that a training has saved; -1 for none."""
    with suppress(UserError):
        return read_state(resume).iteration
    return -1
