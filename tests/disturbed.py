"""A small but complete run that faults can strike, and what has to be the same when they have been mended."""

import io
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import yaml
from checkouts import SNAKEMAKE, checkout, plain_environment
from tiny import save_tiny

from ltpipe.runtime.sums import Sums

_COMMAND, _SERVER = "/runtime/forked.py", "ltpipe.runtime.forkserver"

PATIENCE = 1800
"""Seconds after which a run is taken to hang."""

CONFIG = {
    "models": {"tiny": {"source": "../models/tiny"}},
    "data": {"words": {"source": "../texts/words.txt"}, "others": {"source": "../texts/others.txt"}},
    "grid": {"criteria": ["magnitude", "taylor"], "scopes": ["global"], "sparsities": [0.5]},
    "score": {"data": "others", "sequence_length": 16, "num_sequences": 2},
    "evaluate": {"sequence_length": 16, "num_sequences": 4, "device": "cpu", "device_memory": 1, "tickets_per_pass": 2},
    "simulation": {"iterations": 2},
    "robustness": {"perturbations": ["int4"]},
    "imp": {
        "small": {
            "task": {"kind": "images", "model": "lenet-300-100", "source": "../digits.csv",
                     "validation": 20, "test": 20},
            "train": {
                "optimizer": "adam", "learning_rate": 0.01, "iterations": 40, "batch_size": 10, "evaluate_every": 5,
            },
            "compute": {"device": "cpu", "save_every": 5},
            "rewind": {"step": 2},
            "levels": 1,
            "branches": {"order": 1, "levels": [0]},
            "early_bird": {"sparsities": [0.5], "every": 4},
        }
    },
    "threads": 1,
}  # fmt: skip
"""Nearly every kind of stage, and trainings that save their state on the way."""


def slow_writes(folder: Path, seconds: float) -> None:
    """Let every write of a stage of the checkout last so long that it can be struck."""
    # Python imports a module of this name by itself.
    (folder / "src/sitecustomize.py").write_text(
        f"import os, time\nfsync = os.fsync\nos.fsync = lambda file: (time.sleep({seconds}), fsync(file))\n"
    )


def study(folder: Path) -> Path:
    """A checkout with a model, two texts, images and the configuration."""
    checkout(folder)
    save_tiny("llama", folder / "models/tiny")
    (folder / "texts").mkdir()
    for name, factor in (("words", 7), ("others", 5)):
        words = (f"w{(factor * number) ** 2 % 93}" for number in range(500))
        (folder / f"texts/{name}.txt").write_text(" ".join(words))
    generator = np.random.default_rng(0)
    rows = np.c_[generator.integers(0, 256, (120, 36)), np.arange(120) % 4]
    rows[np.arange(120), 9 * rows[:, -1]] = 255
    np.savetxt(folder / "digits.csv", rows, "%d", ",")
    (folder / "config/config.yaml").write_text(yaml.safe_dump(CONFIG))
    slow_writes(folder, 0.15)
    return folder


class Run:
    """Snakemake in a checkout, as a user starts it, disturbs it and starts it again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results"
        self.targets = ["all"]

    def lose(self, name: str) -> None:
        """Remove a result and ask for it by name from now on: nobody misses one that only other results need."""
        (self.folder / name).unlink()
        self.targets.append(name)

    def start(self, *arguments: str) -> subprocess.Popen:
        """In a process group of its own; what it prints is kept for `output`."""
        command = [SNAKEMAKE, *self.targets, "--cores", "2", "--resources", "gpu=1", *arguments]
        with (self.folder / "output").open("w") as output:
            return subprocess.Popen(
                command, cwd=self.folder, env=plain_environment(), start_new_session=True, stdout=output, stderr=output
            )

    @property
    def output(self) -> str:
        """What the latest start has printed."""
        return (self.folder / "output").read_text()

    def done(self) -> int:
        """Jobs that the latest start has ended."""
        return self.output.count("Finished jobid")

    def ended(self, *arguments: str) -> int:
        """Start it and wait for its end; gives its exit code."""
        return self.start(*arguments).wait(PATIENCE)

    def mend(self) -> None:
        """What the documentation says about restarting: unlock if it is locked, then the same command."""
        if self.locked:
            assert self.ended("--unlock") == 0, self.output
        assert self.ended() == 0, self.output
        until(lambda: not self.stages())

    @property
    def locked(self) -> bool:
        return any((self.folder / ".snakemake/locks").glob("*"))

    def stages(self) -> list[psutil.Process]:
        """Processes of stages that run in the folder, also those that have outlived their snakemake."""
        return [process for process, words in self._processes() if _COMMAND not in words]

    def commands(self) -> list[psutil.Process]:
        """Processes that wait for a stage, which runs as a fork of their server."""
        return [process for process, words in self._processes() if _COMMAND in words]

    def _processes(self) -> Iterator[tuple[psutil.Process, str]]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = " ".join(process.cmdline())
                # A fork has the command line of its server, and a shell that of all that it runs.
                if process.cwd() == str(self.folder) and ("/scripts/" in words or _SERVER in words):
                    yield from [(process, words)] if process.name() != "bash" else []

    def temporaries(self) -> list[Path]:
        """Files that only a write or a training which is under way has."""
        return [path for path in self.results.rglob("*") if path.suffix in (".tmp", ".resume")]

    def artefacts(self) -> dict[str, Any]:
        """Every result by its path, in bytes, but for what was measured while it was made."""
        paths = [path for path in self.results.rglob("*") if path.is_file()]
        names = {path: str(path.relative_to(self.results)) for path in paths}
        return {name: unmeasured(path) for path, name in names.items() if not name.startswith("logs/")}


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something is the case, and give what it is."""
    begun = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - begun < PATIENCE, "it never came to pass"
        time.sleep(0.01)
    return found


def struck(run: Run, snakemake: subprocess.Popen, victim: str, in_write: bool) -> bool:
    """kill -9 of a stage or its command, of snakemake or of all, now or in a write; False if nothing was killed."""
    left = set(run.temporaries())  # by earlier kills: nobody writes them
    victims: list[psutil.Process] = []

    def is_the_moment() -> bool:
        writes = [path for path in run.results.rglob(".*.tmp") if path not in left] if in_write else []
        if victim == "stage":
            alive = run.stages() if in_write else [*run.stages(), *run.commands()]
            victims[:] = [process for process in alive if not in_write or _holds(process, writes)]
        return bool(victims if victim == "stage" else writes) or not in_write or snakemake.poll() is not None

    until(is_the_moment)
    if victim == "stage":
        with suppress(psutil.NoSuchProcess):
            if victims:
                random.choice(victims).kill()
                return True
        return False
    with suppress(ProcessLookupError):
        (os.kill if victim == "snakemake" else os.killpg)(snakemake.pid, signal.SIGKILL)
    return snakemake.wait() == -signal.SIGKILL


def _holds(stage: psutil.Process, files: list[Path]) -> bool:
    """Whether a process has one of the files open."""
    with suppress(psutil.Error):
        return bool({file.path for file in stage.open_files()} & {str(path) for path in files})
    return False


MEASURED = {
    "created", "seconds", "median_seconds", "longest_seconds", "measured_bytes", "peak_host_bytes",
    "peak_host_private_bytes", "peak_device_bytes", "peak_device_reserved_bytes",
}  # fmt: skip
"""Keys and columns that say how and when something was made; all others have to be the same twice."""

ON_THE_PAGE = {
    "seconds", "measured memory", "peak host memory", "private host memory", "peak device memory",
    "reserved device memory", "private memory, MiB", "all runs, s", "median run, s", "longest run, s", "measured, MiB",
}  # fmt: skip
"""What the page calls them."""


def unmeasured(path: Path) -> Any:
    """A result without what is `MEASURED`; in bytes, if nothing in it is."""
    content = path.read_bytes()
    if path.suffix == ".json":
        record = json.loads(content)
        record.pop("sha256", None)  # of the whole record, which its reader compares
        return _without(record)
    if path.suffix == ".sha256" or path.name == "SHA256SUMS":
        sums = Sums.read(path)
        return [path.with_name(name) == sums.check(name) for name in sums.digests]
    if path.suffix in (".csv", ".parquet"):
        file = io.BytesIO(content)
        table = pd.read_csv(file, dtype=str) if path.suffix == ".csv" else pd.read_parquet(file)
        measured = [*MEASURED & set(table)]
        return table.drop(columns=measured).to_csv() if measured else content
    if path.stem == "costs":
        return "a picture of measured times"
    if path.suffix == ".html":
        page = re.sub(r'<figure id="figure-costs">.*?</figure>', "", content.decode(), flags=re.DOTALL)
        page = re.sub(r'(?<=id="data">).*?(?=</script>)', _unmeasured_views, page, flags=re.DOTALL)
        return re.sub(r"<table.*?</table>", _unmeasured_table, page, flags=re.DOTALL)
    return content


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items() if key not in MEASURED}
    return [_without(inner) for inner in value] if isinstance(value, list) else value


def _unmeasured_views(data: re.Match) -> str:
    views = json.loads(data[0])["views"]
    return str({name: view for name, view in views.items() if not name.startswith("costs-")})


def _unmeasured_table(table: re.Match) -> str:
    headings = [re.sub(r"<.*?>", "", re.sub("<small>.*?</small>", "", each)).strip() for each in _cells(table[0], "th")]
    kept = [index for index, heading in enumerate(headings) if heading not in ON_THE_PAGE]
    rows = [_cells(row, "td") for row in _cells(table[0], "tr")]
    return "\n".join([str(headings), *(str([row[index] for index in kept]) for row in rows if row)])


def _cells(text: str, tag: str) -> list[str]:
    return re.findall(rf"<{tag}\b.*?</{tag}>", text, re.DOTALL)
