"""What happens to a stage from outside."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STAGE = """
import sys, time
from pathlib import Path
from ltpipe.runtime import stage
from ltpipe.runtime.files import atomic_write

def main(*, output: Path) -> None:
    with atomic_write(output) as file:
        file.write(b"half")
        print("writing", flush=True)
        time.sleep(60)

stage.run(main)
"""


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_stopped_stage_leaves_nothing_half_written(tmp_path: Path, number: signal.Signals, name: str):
    output = tmp_path / "artefact"
    command = [sys.executable, "-c", STAGE, "--output", str(output)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout.readline() == "writing\n"
        assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
        process.send_signal(number)
        assert process.communicate(timeout=60) == ("", f"error: stopped by {name}; run again to go on\n")
        assert process.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_stage_of_a_pipeline_that_loads_its_libraries_ends_without_frames(tmp_path: Path):
    loading = "import ltpipe, time; print('loading', flush=True); time.sleep(60)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    told = os.environ | {"LTPIPE_LOG": str(tmp_path / "log")}
    with subprocess.Popen([sys.executable, "-c", loading], text=True, env=told, **pipes) as process:
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 128 + signal.SIGINT
