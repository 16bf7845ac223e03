"""A stage opens every small file of its checkpoint once, however many of its functions look at it."""

import builtins
import io
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

from ltpipe.checkpoints.filenames import CONFIG, MANIFEST
from ltpipe.evaluation.computing import ComputeSettings

SCRIPTS = str(Path(__file__).parents[2] / "scripts")
CPU = ComputeSettings(device="cpu", threads=1)


@pytest.fixture
def opened(monkeypatch):
    """How often which file was opened, by its path."""
    counts: Counter[str] = Counter()
    open_file = io.open

    def counting(file, *arguments, **options):
        counts[str(file)] += 1
        return open_file(file, *arguments, **options)

    monkeypatch.setattr(io, "open", counting)  # what pathlib calls
    monkeypatch.setattr(builtins, "open", counting)
    return counts


def test_a_stage_reads_manifest_and_configuration_once(canonical_folder, calibration, tmp_path, monkeypatch, opened):
    monkeypatch.syspath_prepend(SCRIPTS)
    folder, sequences = canonical_folder("llama"), calibration("llama")

    def stage(script, **arguments):
        opened.clear()
        import_module(script).main(checkpoint=folder, **arguments)
        return {name: opened[str(folder / name)] for name in (MANIFEST, CONFIG)}

    scores, counts = tmp_path / "scores", tmp_path / "counts"
    mask, heads, dense = tmp_path / "mask", tmp_path / "heads", tmp_path / "dense"
    once, no_config = {MANIFEST: 1, CONFIG: 1}, {MANIFEST: 1, CONFIG: 0}
    cut = {"histogram": counts, "sparsity": "0.5", "threads": 1}
    evaluation = {"sequences": sequences, "settings": CPU}
    simulation = {"target_sparsity": 0.5, "iterations": 2, "output": tmp_path / "found", "ticket": tmp_path / "best"}
    assert stage("score", criterion="taylor", output=scores, **evaluation) == once
    assert stage("histogram", criterion="magnitude", output=counts, threads=1) == no_config
    assert stage("mask", scope="global", output=mask, **cut) == no_config
    assert stage("mask", scope="heads", output=heads, **cut) == once
    assert stage("evaluate", output=dense, top_tokens=tmp_path / "top", **evaluation) == once
    assert stage("evaluate", output=tmp_path / "ticket", mask=mask, baseline=dense, **evaluation) == once
    assert stage("simulation", histogram=counts, **simulation, **evaluation) == once
    assert stage("smaller", mask=heads, output=tmp_path / "smaller") == once
