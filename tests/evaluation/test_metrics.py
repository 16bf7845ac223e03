"""Metrics files: what is written is read back, what breaks the schema is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from measured import METRICS
from sealed import rewritten

from ltpipe.evaluation.metrics import Metrics
from ltpipe.runtime.errors import DamagedFileError


def test_round_trip_keeps_every_digit(tmp_path: Path):
    METRICS.write(tmp_path / "m.json")
    assert Metrics.read(tmp_path / "m.json") == METRICS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loss", None),
        ("loss", -1.0),
        ("sparsity", "0.50"),
        ("kept", -1),
        ("vocabulary", 0),
        ("accuracy", 1.5),
        ("format", 2),
        ("agreement", 1.5),
        ("kl", -0.1),
        ("top_k", 0),
        ("perturbation", ""),
        ("extra", 1),
    ],
)
def test_schema_refuses(key: str, value: object, tmp_path: Path):
    path = tmp_path / "m.json"
    METRICS.write(path)
    rewritten(path, **{key: value})
    with pytest.raises(DamagedFileError, match=str(path)):
        Metrics.read(path)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_loss_that_is_no_number_is_never_written(loss: float, tmp_path: Path):
    with pytest.raises((ValueError, DamagedFileError)):
        replace(METRICS, loss=loss).write(tmp_path / "m.json")
    assert list(tmp_path.iterdir()) == []
