"""Ctrl-C while a study runs, as a terminal sends it: to Snakemake and all of its jobs."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import yaml
from checkouts import SNAKEMAKE, checkout, plain_environment

STUDY = {
    "task": {"kind": "images", "model": "lenet-300-100", "source": "../digits.csv", "validation": 20, "test": 20},
    "train": {"optimizer": "adam", "learning_rate": 0.01, "batch_size": 10, "evaluate_every": 5},
    "compute": {"device": "cpu", "save_every": 5},
    "rewind": {"step": 2},
    "levels": 1,
}
TARGET = "results/imp/small/replicate-0/level-0/ticket.json"
STOPPED = "stopped by Ctrl-C; finished work is kept; run the same command again to continue"


def configure(folder: Path, iterations: int) -> None:
    study = {**STUDY, "train": {**STUDY["train"], "iterations": iterations}}
    (folder / "config/config.yaml").write_text(yaml.safe_dump({"imp": {"small": study}}))


def start(folder: Path) -> subprocess.Popen[str]:
    command = [SNAKEMAKE, TARGET, "--cores", "1", "--resources", "gpu=1"]
    return subprocess.Popen(
        command, cwd=folder, env=plain_environment(), start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_interrupted_study_says_one_line_and_goes_on(tmp_path: Path):
    folder = checkout(tmp_path)
    rows = np.c_[np.random.default_rng(0).integers(0, 256, (120, 36)), np.arange(120) % 4]
    np.savetxt(folder / "digits.csv", rows, "%d", ",")
    configure(folder, iterations=100_000)
    resume = folder / TARGET.replace(".json", ".safetensors.resume")

    snakemake = start(folder)
    while not resume.exists():
        assert snakemake.poll() is None, snakemake.communicate()[0]
        time.sleep(0.1)
    os.killpg(snakemake.pid, signal.SIGINT)
    output, _ = snakemake.communicate(timeout=60)
    assert snakemake.returncode == 130
    *_, named, stopped = output.splitlines()
    assert named.startswith("[3/3] training small replicate 0 level 0 ticket … about ")
    assert stopped == STOPPED
    assert "Traceback" not in output
    assert [path.name for path in resume.parent.iterdir()] == [resume.name]
    log = folder / "results/logs/imp/small/replicate-0/level-0/ticket.log"
    assert log.read_text() == "error: stopped by Ctrl-C; run again to go on\n"

    configure(folder, iterations=20)
    again = start(folder)
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    assert (folder / TARGET).exists()
