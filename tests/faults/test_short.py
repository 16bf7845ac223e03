"""The short form, in the quick suite: kill -9 of a stage, and of snakemake, in the middle of writes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import yaml
from checkouts import checkout
from disturbed import Run, slow_writes, struck

HISTOGRAM = "results/histograms/tiny/magnitude/seed-none.safetensors"
MASK = "results/masks/tiny/magnitude/global/seed-none/0.5.safetensors"
CONFIG = {
    "models": {"tiny": {"source": "../models/tiny"}},
    "data": {"words": {"source": "../words.txt"}},
    "grid": {"criteria": ["magnitude"], "sparsities": [0.5]},
    "threads": 1,
}


def test_kill_minus_nine_in_the_middle_of_writes(source_folder: Callable, tmp_path: Path):
    run = Run(checkout(tmp_path))
    shutil.copytree(source_folder("llama"), tmp_path / "models/tiny", copy_function=shutil.copyfile)
    (tmp_path / "words.txt").write_text("w1 w2")
    (tmp_path / "config/config.yaml").write_text(yaml.safe_dump(CONFIG))
    run.targets = [MASK]
    assert run.ended() == 0, run.output
    expected = run.artefacts()
    shutil.rmtree(run.results / "histograms"), shutil.rmtree(run.results / "masks")

    slow_writes(tmp_path, 0.5)
    for victim in ("stage", "snakemake"):
        snakemake = run.start()
        assert struck(run, snakemake, victim, in_write=True)
        assert snakemake.wait() != 0
        assert victim == "snakemake" or run.temporaries()
        assert run.locked == (victim == "snakemake")
    run.mend()
    assert run.artefacts() == expected
    assert run.temporaries() == []
