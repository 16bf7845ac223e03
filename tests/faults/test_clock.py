"""Clocks that jump: files from the past and from the future."""

import os
import re
import subprocess
import time
from collections.abc import Callable

import pytest
from checkouts import reruns
from disturbed import Run

pytestmark = pytest.mark.faults

YEAR = 365 * 24 * 3600
TOUCH = "`find . -newermt now -exec touch {} +`"


def test_a_copy_makes_nothing_again(copied: Run):
    """What the other tests here rest on."""
    assert reruns(copied.folder) == set()


@pytest.mark.parametrize(
    ("what", "years"),
    [("inputs", 1), ("inputs", -20), ("results", -20), ("results", 1), ("half of the results", 1)],
)
def test_times_that_jump(what: str, years: int, copied: Run, same: Callable, tried: Callable):
    """In the middle of a run: a training is still missing, and what needs it."""
    copied.lose("results/imp/small/replicate-0/level-1/ticket.safetensors")
    files = sorted(path for path in copied.folder.rglob("*") if path.is_file() and ".snakemake" not in path.parts)
    of_results = [path for path in files if copied.results in path.parents]
    chosen = {
        "inputs": [path for path in files if path not in of_results],
        "results": of_results,
        "half of the results": of_results[::2],
    }[what]
    moment = time.time() + years * YEAR
    for path in chosen:
        os.utime(path, (moment, moment))
    skewed, seen, remedy = years > 0 and what != "inputs", "nothing", "none"  # no missing job reads what the user has
    if skewed:
        assert copied.ended() == 1
        assert "has older modification time" in copied.output
        assert "Traceback" not in copied.output
        subprocess.run(["find", ".", "-newermt", "now", "-exec", "touch", "{}", "+"], cwd=copied.folder, check=True)
        seen, remedy = "`Output … has older modification time … than input …`", f"{TOUCH}, then the same command"
    copied.mend()
    assert sorted(re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", copied.output)) == ["all", "report", "training"]
    same(copied)
    assert reruns(copied.folder) == set()
    times = "one year in the future" if years > 0 else "twenty years in the past"
    outcome = f"{'refused until touched, then ' if skewed else ''}only what is missing is made; identical"
    tried(f"clock jumps in the middle of a run: {what} {times}", seen, remedy, 1, outcome)


def test_an_input_that_is_edited_and_dated_back(copied: Run, tried: Callable):
    """Snakemake looks at the content of inputs only if they are newer than the results: the user has to say it."""
    images = copied.folder / "digits.csv"
    images.write_text(images.read_text().replace("255", "254"))
    os.utime(images, (0, 0))
    assert reruns(copied.folder) == set()
    images.touch()
    assert "task small/task" in reruns(copied.folder)
    tried(
        "an input is edited and dated before the results",
        "`Nothing to be done`",
        "`touch` the input, then the same command",
        1,
        "**not noticed by itself**; made again after the `touch`",
    )
