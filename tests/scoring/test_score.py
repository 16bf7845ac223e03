"""The score stage: what the file says, what is refused, and how little is in memory at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.pruning.scorefile import ScoreFile
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.options import as_given
from ltpipe.scoring.criteria.snip import Snip
from ltpipe.scoring.criterion import criterion_options
from ltpipe.scoring.score import score_checkpoint

SETTINGS = ComputeSettings(device="cpu")


def test_the_file_says_what_it_is_and_holds_what_the_criterion_found(
    canonical_folder, calibration, subject, scores, tmp_path
):
    folder, sequences = canonical_folder("llama"), calibration("llama")
    for criterion in ("taylor", "grasp", "wanda", "synflow"):
        path = tmp_path / criterion
        options = {"iterations": 4} if criterion == "synflow" else {}
        planned = score_checkpoint(Checkpoint.open(folder), criterion, path, Selection(), sequences, SETTINGS, options)
        assert planned.total > 0
        file = ScoreFile(path)
        assert (file.criterion, file.signed) == (criterion, criterion == "grasp")
        assert file.checkpoint == Manifest.read(folder / MANIFEST).fingerprint
        assert file.names == Selection().names(Manifest.read(folder / MANIFEST))
        metadata = TensorFile(path).metadata
        assert metadata["precision"] == "float32"
        assert file.options == as_given(criterion_options(criterion, options, ""))
        assert metadata["sequences"] == ("" if criterion == "synflow" else sha256_of(sequences))
        ids = {"ids": torch.zeros((1, 2), dtype=torch.long)} if criterion == "synflow" else {}
        for name, wanted in scores(criterion, subject("llama", micro_batch=1, **ids), **options).items():
            assert file.array(name).dtype == np.float32
            np.testing.assert_allclose(file.array(name), wanted, rtol=1e-3, atol=1e-3 * abs(wanted).max())
    assert len(list(tmp_path.iterdir())) == 5, "scratch files are gone"


def test_same_bytes_whatever_the_micro_batch_where_each_sequence_counts(canonical_folder, calibration, tmp_path):
    for number, settings in enumerate((SETTINGS, ComputeSettings(device="cpu", micro_batch=2))):
        score_checkpoint(
            Checkpoint.open(canonical_folder("llama")),
            "fisher",
            tmp_path / str(number),
            Selection(),
            calibration("llama"),
            settings,
        )
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_accumulators_exist_for_one_block_at_a_time(subject):
    alive: set[int] = set()
    most = []

    class Counted(Snip):
        def __init__(self, *args):
            super().__init__(*args)
            alive.add(id(self))
            most.append(len(alive))

        def result(self):
            alive.remove(id(self))
            return super().result()

    there = subject("llama")
    there.options = Counted.options()
    Counted.score(there, lambda *_: None)
    assert max(most) == len(there.names) // 3 == 7


def refused(match, folder, criterion, path, *, selection=None, sequences=None):
    with pytest.raises(UserError, match=match):
        score_checkpoint(
            Checkpoint.open(folder), criterion, path / "scores", selection or Selection(), sequences, SETTINGS
        )
    assert not [file for file in path.iterdir() if file.name != "llama.sequences"]


def test_what_is_refused_leaves_no_file(canonical_folder, calibration, tmp_path):
    folder, sequences = canonical_folder("llama"), calibration("llama")
    refused("criterion 'tailor' has no score stage; use fisher", folder, "tailor", tmp_path)
    refused("criterion 'taylor' needs calibration data: give --sequences", folder, "taylor", tmp_path)
    outside = {"selection": Selection("all-weights"), "sequences": sequences}
    refused(r"scores weights in blocks only, and 'lm_head\.weight' is outside", folder, "taylor", tmp_path, **outside)
    vectors = {"selection": Selection(include=("model.layers.*norm.weight",)), "sequences": sequences}
    refused("is not the weight matrix of a linear layer", folder, "wanda", tmp_path, **vectors)


def test_sequences_of_another_tokenizer_are_refused(canonical_folder, calibration, tmp_path):
    folder = canonical_folder("llama")
    sequences = calibration("llama")
    replace(TokenSequences.read(sequences), tokenizer="0" * 64).write(sequences)
    refused("not made with the tokenizer of", folder, "taylor", tmp_path, sequences=sequences)


def test_scores_that_are_not_finite_are_refused(canonical_folder, calibration, monkeypatch, tmp_path):
    monkeypatch.setattr(Snip, "result", lambda self: self._sum.fill_(torch.inf))
    refused(
        r"snip of 'model\.layers\.2\..*' is infinite or not a number",
        canonical_folder("llama"), "snip", tmp_path, sequences=calibration("llama"),
    )  # fmt: skip


def test_negative_scores_of_a_criterion_without_sign_are_refused(canonical_folder, calibration, monkeypatch, tmp_path):
    monkeypatch.setattr(Snip, "result", lambda self: self._sum.fill_(-1))
    refused("is negative", canonical_folder("llama"), "snip", tmp_path, sequences=calibration("llama"))


def test_running_out_of_memory_begins_anew_with_less(canonical_folder, calibration, monkeypatch, caplog, tmp_path):
    folder, sequences = canonical_folder("llama"), calibration("llama")
    score_checkpoint(Checkpoint.open(folder), "snip", tmp_path / "whole", Selection(), sequences, SETTINGS)
    add, calls = Snip.add, []

    def failing(self, weight, gradient):
        if not isinstance(gradient, FakeTensor):  # not the plan
            calls.append(1)
        if len(calls) == 30:  # in the second of three blocks
            raise torch.OutOfMemoryError
        add(self, weight, gradient)

    monkeypatch.setattr(Snip, "add", failing)
    settings = ComputeSettings(device="cpu", micro_batch=2)
    score_checkpoint(Checkpoint.open(folder), "snip", tmp_path / "halved", Selection(), sequences, settings)
    assert "ran out of memory" in caplog.text
    whole, halved = ScoreFile(tmp_path / "whole"), ScoreFile(tmp_path / "halved")
    for name in whole.names:
        np.testing.assert_allclose(halved.array(name), whole.array(name), rtol=1e-4, atol=1e-6)
