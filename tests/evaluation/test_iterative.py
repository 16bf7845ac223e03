"""The simulation stage: its tickets are those of the mask and evaluation stages, and only the best mask is kept."""

import math
from pathlib import Path

import pytest

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.evaluation.iterative import simulate_iterative_pruning
from ltpipe.evaluation.simulated import SIMULATION, Simulation
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import read_mask
from ltpipe.reporting.tables.simulations import simulations_table
from ltpipe.runtime.errors import DamagedFileError, UserError

CPU = ComputeSettings(device="cpu", threads=1)


@pytest.fixture
def files(canonical_folder, calibration, tmp_path):
    folder = canonical_folder("llama")
    make_histogram(Checkpoint.open(folder), "magnitude", None, Selection()).write(tmp_path / "histogram")
    return folder, tmp_path / "histogram", calibration("llama")


def simulated(files, tmp_path, *, target=0.8, rounds=3, batch=1, settings=CPU):
    folder, *others = files
    return simulate_iterative_pruning(
        Checkpoint.open(folder), *others, settings, target, rounds, batch, ("m", "d"), tmp_path / "best"
    )


@pytest.mark.parametrize("execution", ["streamed", "in-memory"])
def test_each_iteration_is_an_evaluation_of_its_mask(execution, files, tmp_path):
    """Seven sequences: the dense model sees all, a ticket the first five, and is compared on those."""
    folder, histogram, sequences = files
    settings = ComputeSettings(device="cpu", threads=1, execution=execution)
    found = simulated(files, tmp_path, settings=settings)
    assert (found.baseline_sequences, found.ticket_sequences, found.note) == (7, 5, SIMULATION)
    assert [entry.sparsity for entry in found.iterations] == [
        pytest.approx(1 - 0.2 ** (i / 3), abs=1e-12) for i in (1, 2, 3)
    ]
    dense = evaluate_checkpoint(Checkpoint.open(folder), sequences, settings, {"model": "m", "data": "d"})
    dense.write(tmp_path / "dense")
    assert found.baseline_loss == pytest.approx(dense.loss, abs=1e-7)
    first = slice(0, 5)
    dense_loss = sum(dense.sequence_sums.loss_sum[first]) / sum(dense.sequence_sums.tokens[first])
    for entry in found.iterations:
        make_mask(Checkpoint.open(folder), histogram, "global", repr(entry.sparsity), tmp_path / "mask")
        ticket = evaluate_checkpoint(
            Checkpoint.open(folder),
            sequences,
            settings,
            {"model": "m", "data": "d"},
            tmp_path / "mask",
            tmp_path / "dense",
        )
        loss = sum(ticket.sequence_sums.loss_sum[first]) / sum(ticket.sequence_sums.tokens[first])
        assert (entry.kept, entry.total) == (ticket.kept, ticket.total)
        assert entry.loss == pytest.approx(loss, abs=1e-6)
        assert entry.performance_retention == pytest.approx(dense_loss / loss, abs=1e-6)
    best = found.iterations[found.best - 1]
    assert read_mask(tmp_path / "best").total_kept == best.kept
    assert not list(tmp_path.glob(".*"))


def test_a_result_is_read_as_it_was_written_and_becomes_a_table(files, tmp_path):
    found = simulated(files, tmp_path, rounds=2)
    found.write(tmp_path / "found.json")
    assert Simulation.read(tmp_path / "found.json") == found
    table = simulations_table([found])
    assert list(table["iteration"]) == [1, 2]
    assert list(table["best"]) == [entry.iteration == found.best for entry in found.iterations]
    assert len(simulations_table([])) == 0
    for text, message in (('{"format": 1}', "no checksum"), ("[", "not valid JSON")):
        (tmp_path / "found.json").write_text(text)
        with pytest.raises(DamagedFileError, match=message):
            Simulation.read(tmp_path / "found.json")


def test_iterations_leave_nothing_behind(files, tmp_path):
    """The tenth takes as much private memory as the second, but for the sampler's grain."""
    found = simulated(files, tmp_path, rounds=10)
    peaks = [entry.peak_host_private_bytes for entry in found.iterations]
    assert max(peaks[1:]) - min(peaks[1:]) < 4 * 2**20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch: 0 is not allowed"),
        ({"target": 1}, "target sparsity: 1 is not allowed"),
        ({"rounds": 0}, "iterations: 0 is not allowed"),
        ({"target": math.nan}, "target sparsity: nan is not allowed"),
    ],
)
def test_what_is_not_allowed_leaves_no_file(changes, message, files, tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        simulated(files, tmp_path, **changes)
    assert sorted(tmp_path.iterdir()) == before
    assert not Path(tmp_path / "best").exists()
