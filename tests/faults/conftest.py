"""A finished run to compare with, and rows for the table of what was tried."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from disturbed import Run, study


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An undisturbed run, made once for all processes that run tests; nobody changes it."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "undisturbed"
    with Path(f"{place}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = Run(place)
        if not place.exists():
            study(place)
            begun = time.monotonic()
            assert run.ended() == 0, run.output
            assert not run.temporaries()
            (place / "seconds").write_text(str(time.monotonic() - begun))
    return run


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Run:
    """A copy of the finished run to disturb, with the times of its files, of which nothing would be made again."""
    return Run(shutil.copytree(finished.folder, tmp_path / "run"))


@pytest.fixture
def same(finished: Run) -> Callable[[Run], None]:
    """Function that asserts that a run has the results of the undisturbed one and nothing else."""
    expected = finished.artefacts()

    def check(run: Run) -> None:
        found = run.artefacts()
        assert sorted(found) == sorted(expected)
        assert [name for name in expected if found[name] != expected[name]] == []
        assert run.temporaries() == []
        assert not run.locked

    return check


@pytest.fixture
def tried(record_property: Callable) -> Callable[..., None]:
    """Function that gives the table a row; rows that differ in the times only become one."""
    return lambda fault, seen, remedy, times, outcome: record_property("fault", (fault, seen, remedy, times, outcome))
