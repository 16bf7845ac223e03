"""Through Snakemake: a damaged artefact stops the stage that needs it; deleted, as the line says, it is made again."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from checkouts import SNAKEMAKE, checkout, plain_environment, snakemake
from tiny import save_tiny

from ltpipe.runtime.errors import MEND

pytestmark = pytest.mark.faults

CONFIG = {
    "models": {"tiny": {"source": "../models/tiny"}},
    "data": {"words": {"source": "../texts/words.txt"}, "calibration": {"source": "../texts/others.txt"}},
    "grid": {"criteria": ["magnitude", "wanda"], "scopes": ["layer"], "sparsities": [0.25, 0.5]},
    "evaluate": {"sequence_length": 16, "num_sequences": 4, "device": "cpu"},
    "robustness": {"perturbations": ["noise-0.1"], "seeds": [0]},
    "score": {"data": "calibration", "sequence_length": 16, "num_sequences": 4},
    "simulation": {"target_sparsity": 0.5, "iterations": 2, "batch": 1},
    "threads": 1,
    "imp": {
        "small": {
            "task": {
                "kind": "images",
                "model": "lenet-300-100",
                "source": "../digits.csv",
                "validation": 20,
                "test": 20,
            },
            "train": {
                "optimizer": "adam",
                "learning_rate": 0.01,
                "iterations": 4,
                "batch_size": 10,
                "evaluate_every": 2,
            },
            "compute": {"device": "cpu"},
            "rewind": {"step": 2},
            "prune": {"fraction": 0.2},
            "levels": 1,
            "replicates": [0],
            "branches": {"order": 1},
            "early_bird": {"sparsities": [0.5], "every": 1},
        }
    },
}
LLAMA, SMALL = "checkpoints/tiny", "imp/small/replicate-0"
TICKET = "tickets/tiny/words/magnitude/layer/seed-none/0.5.json"
MASK = "masks/tiny/magnitude/layer/seed-none/0.5.safetensors"
PERTURBED = "robustness/tiny/words/noise-0.1/seed-0/dense.json"
MAGNITUDES = "histograms/tiny/magnitude/seed-none.safetensors"
TABLES, PAGE = "analysis/tables/tiny/tickets.parquet", "report/index.html"
CASES = {
    f"{LLAMA}/model.safetensors": MAGNITUDES,
    f"{LLAMA}/manifest.json": MAGNITUDES,
    f"{LLAMA}/config.json": PERTURBED,
    f"{LLAMA}/tokenizer.json": "sequences/tiny/words.safetensors",
    "sequences/tiny/words.safetensors": PERTURBED,
    "calibration/tiny/calibration.safetensors": "scores/tiny/wanda.safetensors",
    "scores/tiny/wanda.safetensors": "histograms/tiny/wanda/seed-none.safetensors",
    MAGNITUDES: MASK,
    MASK: TICKET,
    "baselines/tiny/words.json": TICKET,
    "baselines/tiny/words.top.safetensors": PERTURBED,
    TICKET: TABLES,
    PERTURBED: TABLES,
    "analysis/overlap/tiny.csv": PAGE,
    "analysis/validation/tiny.csv": PAGE,
    "analysis/validation/tiny.parquet": PAGE,
    "simulations/tiny/words.json": TABLES,
    TABLES: PAGE,
    "imp/small/task.safetensors": f"{SMALL}/point.safetensors",
    f"{SMALL}/point.safetensors": f"{SMALL}/level-0/order-1.safetensors",
    f"{SMALL}/level-0/ticket.safetensors": f"{SMALL}/level-1/mask.safetensors",
    f"{SMALL}/level-1/mask.safetensors": f"{SMALL}/level-1/order-1.safetensors",
    f"{SMALL}/level-1/order-1.safetensors": f"{SMALL}/level-1/connectivity-1.json",
    f"{SMALL}/level-1/ticket.json": PAGE,
    f"{SMALL}/level-1/connectivity-1.json": PAGE,
    f"{SMALL}/early-bird/0.5.json": PAGE,
}
"""A damaged artefact, and what is deleted so that the stage which needs it runs again."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = checkout(tmp_path_factory.mktemp("study"))
    save_tiny("llama", folder / "models/tiny")
    (folder / "texts").mkdir()
    (folder / "texts/words.txt").write_text(" ".join(f"w{(7 * number) ** 2 % 93}" for number in range(500)))
    (folder / "texts/others.txt").write_text(" ".join(f"w{5 * number % 91}" for number in range(500)))
    generator = np.random.default_rng(0)
    rows = np.c_[generator.integers(0, 256, (120, 36)), np.arange(120) % 4]
    np.savetxt(folder / "digits.csv", rows, "%d", ",")
    (folder / "config/config.yaml").write_text(yaml.safe_dump(CONFIG))
    snakemake(folder)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_artefact_is_named_and_made_again(name: str, finished: Path, record_property: Callable):
    path, follower = finished / "results" / name, f"results/{CASES[name]}"
    before = contents(finished)
    flip(path)
    (finished / follower).unlink()
    command = [SNAKEMAKE, "--cores", "1", "--resources", "gpu=1", "--", follower]
    done = subprocess.run(command, cwd=finished, env=plain_environment(), capture_output=True, text=True, timeout=900)
    output = done.stdout + done.stderr
    assert done.returncode == 1
    (line,) = set(re.findall(r"^error: .*", output, re.MULTILINE))
    assert f"results/{name}: " in line
    assert MEND in line
    assert "Traceback" not in output
    assert not (finished / follower).exists()
    path.unlink()
    snakemake(finished, "--", follower)  # by itself, snakemake makes nothing for a page that is there
    snakemake(finished)
    assert contents(finished) == before
    seen, remedy = "`error: results/…: damaged, …; delete it and run again`", "delete it, then the same command"
    record_property("fault", ("a bit flips in an artefact", seen, remedy, 1, "never used; made again, identical"))


def flip(path: Path) -> None:
    """Flip a bit in the middle, as a disk would: without a trace in the file's times."""
    content, times = bytearray(path.read_bytes()), path.stat()
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def contents(folder: Path) -> dict[str, object]:
    """Every artefact but the report's page and tables with times: bytes, or what a record says without them."""
    kept = [path for path in (folder / "results").rglob("*.*") if path.is_file()]
    return {
        str(path): settled(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()
        for path in kept
        if path.suffix in (".safetensors", ".json", ".csv") and path.parent.name not in ("report", "logs")
    }


def settled(record: dict[str, object]) -> dict[str, object]:
    """Without the checksum, and without times, memory and dates, which differ from run to run."""
    moving = re.compile("seconds|provenance|sha256|.*_bytes")
    return {
        key: [settled(entry) if isinstance(entry, dict) else entry for entry in value] if type(value) is list else value
        for key, value in record.items()
        if not moving.fullmatch(key)
    }
