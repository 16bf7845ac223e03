"""Learning records, lines and detections on disk: read as written, and nothing else is read."""

from dataclasses import replace

import pytest
from sealed import rewritten

from ltpipe.analysis.early_bird import EarlyBird
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.jsonfiles import read_record, write_record
from ltpipe.training.connectivity import Connectivity
from ltpipe.training.record import Branch, LearningRecord

RECORD = LearningRecord(
    "lenet", 2, 7, "reinitialised-3", (0, 100, 200, 300), (2.3, 0.1, 0.1, 0.4), (0.1, 0.97, 0.98, 0.96), 100,
    0.11, 0.9712345678901234, 0.3, 0.96, 0.11, 56_169, 266_200, 12.5, {"inputs": {"task": "abc"}, "git_commit": None},
)  # fmt: skip
LINE = Connectivity.of("lenet", 0, 3, ("ticket", "order-1"), (0.02, 0.06, 0.04))
HALF = Sparsity.of("0.5")
BIRD = EarlyBird(
    "lenet", 1, HALF, "hamming", 0.1, 5, 1, False, (10, 20, 30, 40, 50), (None, None, None, None, 0.07), 50
)


@pytest.mark.parametrize("written", [RECORD, LINE, BIRD, replace(BIRD, converged=None)], ids=lambda x: type(x).__name__)
def test_what_was_written_is_read(written, tmp_path):
    written.write(tmp_path / "a.json")
    assert type(written).read(tmp_path / "a.json") == written
    before = (tmp_path / "a.json").read_bytes()
    type(written).read(tmp_path / "a.json").write(tmp_path / "b.json")
    assert (tmp_path / "b.json").read_bytes() == before


def test_a_record_knows_its_early_stop_and_density():
    assert RECORD.weights_remaining == 56_169 / 266_200
    assert (RECORD.validation_loss, RECORD.validation_accuracy) == (0.1, 0.97)
    assert LINE.barrier == pytest.approx(0.03)
    assert not LINE.stable


@pytest.mark.parametrize(
    ("written", "changes", "words"),
    [
        (RECORD, {"kind": "metrics"}, "expected kind 'learning record' in format 3"),
        (RECORD, {"format": 1}, "expected kind 'learning record' in format 3"),
        (RECORD, {"seconds": None}, "seconds: 'None' is not allowed"),
        (RECORD, {"replicate": True}, "replicate: 'True' is not allowed"),
        (RECORD, {"level": 7.0}, "level: '7.0' is not allowed"),
        (RECORD, {"training": 7}, "training: '7' is not allowed"),
        (RECORD, {"test_loss": float("nan")}, "NaN is not a JSON number"),
        (RECORD, {"test_loss": "0.1"}, "test_loss: '0.1'"),
        (RECORD, {"test_loss": 10**400}, "test_loss: '1000"),
        (RECORD, {"iterations": 5}, "iterations: '5'"),
        (RECORD, {"iterations": [0, 100, 200]}, "differ in length"),
        (RECORD, {"iterations": [0, 100, 200, "300"]}, "iterations.3: '300'"),
        (RECORD, {"early_stop_iteration": 200}, "200 is not the first minimum"),
        (RECORD, {"iterations": [], "validation_losses": [], "validation_accuracies": []}, "first minimum"),
        (RECORD, {"test_accuracy": 97.1}, "not between 0 and 1"),
        (RECORD, {"test_majority": 1.5}, "not between 0 and 1"),
        (RECORD, {"kept": 266_201}, "266201 of 266200"),
        (RECORD, {"branch": "reinitialised"}, "branch: 'reinitialised' is not allowed; use ticket"),
        (RECORD, {"provenance": []}, "provenance: "),
        (RECORD, {"more": 1}, "more: unknown"),
        (LINE, {"barrier": 0.01}, "barrier: 0.01 does not match the errors"),
        (LINE, {"branches": ["ticket"]}, "branches.1: missing"),
        (LINE, {"alphas": [0.0, 1.0]}, "alphas and errors"),
        (LINE, {"stable": 0}, "stable: '0'"),
        (BIRD, {"rule": "cosine"}, "rule: 'cosine' is not allowed; use hamming"),
        (BIRD, {"sparsity": "1.5"}, "sparsity 1.5 is not allowed; use a fraction from 0 to 1"),
        (BIRD, {"sparsity": 0.5}, "sparsity: '0.5' is not allowed"),
        (BIRD, {"converged": 45}, "no mask was drawn at 45"),
        (BIRD, {"distances": [None]}, "differ in length"),
    ],
)
def test_anything_else_is_refused_by_name(written, changes, words, tmp_path):
    path = tmp_path / "a.json"
    written.write(path)
    rewritten(path, **changes)
    with pytest.raises(DamagedFileError) as error:
        type(written).read(path)
    assert str(path) in str(error.value)
    assert words in str(error.value)


def test_truncated_missing_and_foreign_files(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(UserError, match="no such file"):
        LearningRecord.read(path)
    RECORD.write(path)
    path.write_text(path.read_text()[:-40])
    with pytest.raises(DamagedFileError, match="not valid JSON"):
        LearningRecord.read(path)
    LINE.write(path)
    with pytest.raises(DamagedFileError, match="expected kind 'learning record'"):
        LearningRecord.read(path)
    RECORD.write(path)
    rewritten(path, test_loss=1)
    assert LearningRecord.read(path).test_loss == 1.0
    content = read_record(path)
    del content["kept"]
    write_record(path, content)
    with pytest.raises(DamagedFileError, match="kept: missing"):
        LearningRecord.read(path)


def test_branches_by_name():
    assert Branch.named("ticket") == Branch("ticket")
    assert Branch.named("shuffled-12") == Branch("shuffled", seed=12)
    assert Branch.named("transplanted-fashion-2") == Branch("transplanted", donor="fashion-2")
    for name in ("", "Ticket", "ticket-1", "shuffled-", "shuffled-x", "shuffled-1-2", "transplanted", "gradual-1", "x"):
        with pytest.raises(ValueError, match="use ticket, reinitialised-N"):
            Branch.named(name)
