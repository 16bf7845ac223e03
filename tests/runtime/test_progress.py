"""Progress shows rate and remaining time on a terminal, and nothing anywhere else."""

import io
import re

import numpy as np
import pytest

from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.runtime import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def watched(monkeypatch):
    """Function that does some work on a terminal, or in a pipe, and gives what was printed."""

    def printed(work, terminal: bool, delay: float = 0.0) -> str:
        stream = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setattr(progress, "_DELAY", delay)
        work()
        return stream.getvalue()

    return printed


def loop() -> None:
    assert list(progress.track([1, 2, 3], "counting", "thing")) == [1, 2, 3]


def steps() -> None:
    with progress.counting(5, 2, "training", "step") as took:
        for done in (3, 4, 5):
            took(done)


@pytest.mark.parametrize(("work", "words"), [(loop, ("counting", "0/3")), (steps, ("training", "2/5"))])
def test_bars(work, words, watched):
    shown = watched(work, terminal=True)
    assert [word for word in words if word not in shown] == []
    assert re.search(r"\[\d\d:\d\d<.*(thing|step)", shown), "elapsed and remaining time, and a rate"
    assert watched(work, terminal=False) == ""
    assert "0/3" not in watched(work, terminal=True, delay=100), "short work shows no bar"


def test_files_show_while_they_are_written(tmp_path, watched):
    """What is written is made meanwhile: the bar counts tensors that are done, not promised."""
    stream = []

    def chunks():
        stream.append(1)
        yield np.zeros(3, np.uint8)

    tensors = [TensorData(name, "U8", (3,), chunks()) for name in "ab"]
    assert "writing out" in watched(lambda: write_tensors(tmp_path / "out", tensors), terminal=True)
    assert len(stream) == 2
