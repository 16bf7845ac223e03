"""The evaluation stage: it refuses inputs that do not belong together, and records what it did."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from byhand import masked_by_hand

from ltpipe.analysis.samples import samples
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import CONFIG, TOKENIZER
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.evaluation.metrics import Metrics
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import load_mask
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.sources import Source

NAMES = {"model": "m", "data": "d"}


@pytest.fixture
def study(canonical_folder, tmp_path: Path) -> Path:
    """A canonical folder with sequences, a mask and the dense metrics beside it."""
    folder = tmp_path / "llama"
    shutil.copytree(canonical_folder("llama"), folder)
    write_sequences(folder, folder / "sequences", seed=0)
    make_histogram(Checkpoint.open(folder), "magnitude", None, Selection()).write(folder / "histogram")
    make_mask(Checkpoint.open(folder), folder / "histogram", "layer", "0.5", folder / "mask")
    evaluate_checkpoint(Checkpoint.open(folder), folder / "sequences", ComputeSettings(), NAMES).write(
        folder / "dense.json"
    )
    return folder


def write_sequences(folder: Path, path: Path, seed: int) -> None:
    ids = np.random.default_rng(seed).integers(3, 90, (5, 12), dtype=np.int32)
    TokenSequences(ids, 5, 1, sha256_of(folder / TOKENIZER)).write(path)


def ticket(study: Path, sequences: str = "sequences") -> Metrics:
    return evaluate_checkpoint(
        Checkpoint.open(study), study / sequences, ComputeSettings(), NAMES, study / "mask", study / "dense.json"
    )


def test_a_mask_that_changes_nothing_is_an_alarm(study: Path, source_folder, tmp_path, caplog):
    """Here the weights that it prunes are zeros already; tensors that the model does not run look the same."""
    assert ticket(study).performance_retention != 1
    assert "bit-identical" not in caplog.text
    pruned, folder = tmp_path / "pruned", tmp_path / "again"
    masked_by_hand(source_folder("llama"), load_mask(study / "mask")).save_pretrained(pruned)
    for file in source_folder("llama").glob("tokenizer*"):
        shutil.copy(file, pruned)
    load_checkpoint(Source(str(pruned)), None, "auto", folder)
    shutil.copy(study / "sequences", folder)
    make_histogram(Checkpoint.open(folder), "magnitude", None, Selection()).write(folder / "histogram")
    make_mask(Checkpoint.open(folder), folder / "histogram", "layer", "0.5", folder / "mask")
    evaluate_checkpoint(Checkpoint.open(folder), folder / "sequences", ComputeSettings(), NAMES).write(
        folder / "dense.json"
    )
    assert ticket(folder).performance_retention == 1
    assert "the loss is bit-identical to the dense model's, with " in caplog.text


def test_metrics_say_what_was_measured(study: Path):
    dense, metrics = Metrics.read(study / "dense.json"), ticket(study)
    assert metrics.performance_retention == dense.loss / metrics.loss
    assert (metrics.tokens, metrics.sequence_sums.tokens) == (55, [11] * 5)
    assert metrics.loss == pytest.approx(sum(metrics.sequence_sums.loss_sum) / 55, rel=1e-12)
    assert metrics.accuracy == sum(metrics.sequence_sums.correct) / 55
    assert metrics.kept == metrics.total / 2
    assert metrics.execution == "streamed"
    assert metrics.peak_host_bytes > 10**7
    assert metrics.peak_device_bytes is None
    assert metrics.provenance["inputs"]["mask"] == sha256_of(study / "mask")
    assert dense.performance_retention == 1.0
    assert dense.sparsity is dense.kept is None


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_is_near(precision: str, study: Path):
    """Losses are float32 per token, so that only the model's own arithmetic is coarse."""
    metrics = evaluate_checkpoint(
        Checkpoint.open(study), study / "sequences", ComputeSettings(precision=precision), NAMES
    )
    assert metrics.precision == precision
    assert metrics.loss != Metrics.read(study / "dense.json").loss
    assert metrics.loss == pytest.approx(Metrics.read(study / "dense.json").loss, rel=0.02)


def test_sequences_of_another_tokenizer(study: Path):
    sequences = study / "sequences"
    replace(TokenSequences.read(sequences), tokenizer="0" * 64).write(sequences)
    with pytest.raises(UserError, match="not made with the tokenizer of"):
        ticket(study)


def test_baseline_of_other_sequences(study: Path):
    write_sequences(study, study / "other", seed=1)
    with pytest.raises(UserError, match="baseline does not match the sequences"):
        ticket(study, "other")


def test_mask_without_baseline_and_baseline_without_mask(study: Path):
    for mask, baseline in [(study / "mask", None), (None, study / "dense.json")]:
        with pytest.raises(UserError, match="give --mask and --baseline, or neither"):
            evaluate_checkpoint(Checkpoint.open(study), study / "sequences", ComputeSettings(), NAMES, mask, baseline)


def test_table_refuses_a_baseline_of_other_sequences(study: Path):
    metrics = ticket(study)
    dense = Metrics.read(study / "dense.json")
    inputs = {**dense.provenance["inputs"], "sequences": "0" * 64}
    assert len(samples([dense], [metrics])) == 1
    with pytest.raises(UserError, match="m on d: baseline does not match the sequences"):
        samples([replace(dense, provenance={"inputs": inputs})], [metrics])


@pytest.mark.parametrize("content", ["{}", '{"dtype": "float32"}', '{"dtype": "float32", "model_type": "none"}'])
def test_damaged_configuration(content: str, study: Path):
    (study / CONFIG).write_text(content)
    with pytest.raises(DamagedFileError, match=CONFIG):
        ticket(study)
