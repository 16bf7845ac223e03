"""What happens to a stage from outside."""

import signal
import subprocess
import sys
from pathlib import Path

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


def test_terminated_stage_leaves_nothing_half_written(tmp_path: Path):
    output = tmp_path / "artefact"
    command = [sys.executable, "-c", STAGE, "--output", str(output)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout.readline() == "writing\n"
        assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
        process.terminate()
        assert process.communicate(timeout=60) == ("", "error: stopped by SIGTERM; run again to go on\n")
        assert process.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
