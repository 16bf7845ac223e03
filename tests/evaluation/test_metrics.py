"""Metrics files: what is written is read back, what breaks the schema is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from sealed import rewritten

from ltpipe.evaluation.metrics import Metrics, SequenceTotals
from ltpipe.runtime.errors import DamagedFileError

METRICS = Metrics(
    model="tiny",
    data="words",
    criterion="magnitude",
    scope="global",
    seed=None,
    sparsity="0.5",
    kept=50,
    total=100,
    parameters=120,
    vocabulary=93,
    loss=1 / 3,
    perplexity=1.3956124250860895,
    accuracy=0.25,
    performance_retention=0.9,
    agreement=0.75,
    kl_top_k=0.1,
    top_k=32,
    protocol="wikitext2",
    windows=2,
    tokens=8,
    precision="float32",
    device="cpu",
    execution="streamed",
    super_batch=4,
    micro_batch=1,
    chunk=128,
    out_of_memory=["memory ran out with super_batch 4, micro_batch 2, chunk 256"],
    threads=2,
    planned_bytes=900,
    planned_parts={"logits": 900},
    measured_bytes=950,
    peak_host_bytes=1000,
    peak_host_private_bytes=990,
    peak_device_bytes=None,
    peak_device_reserved_bytes=None,
    seconds=0.5,
    sequences=SequenceTotals([1.0, 5 / 3], [1, 1], [4, 4], [3, 3], [0.3, 0.5]),
    provenance={"inputs": {}},
)


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
        ("kl_top_k", -0.1),
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
