"""Agreement and divergence against plain transformers models with the whole softmax in float64."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from allocations import allocated_peak
from byhand import masked_by_hand
from tiny import VOCABULARY

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, TOKENIZER, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.agreement import Comparison, Recorder, TopTokens, bucket_kl, top_bytes
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.evaluation.loss import cross_entropy, token_losses, walk
from ltpipe.evaluation.metrics import Metrics
from ltpipe.evaluation.plan import TOP_TOKENS, BatchSizes, EvaluationPlanner
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import load_mask, read_mask
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.fake_device import ByteCounter
from ltpipe.runtime.files import sha256_of
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
HASHES = {"checkpoint": "a" * 64, "sequences": "b" * 64}


def model_of(folder, mask=None, streamed=True):
    fetch = fetch_from(TensorFile(folder / WEIGHTS), mask, CPU, torch.float32)
    return CausalModel(
        build_skeleton(Checkpoint.open(folder), torch.float32), Manifest.read(folder / MANIFEST), fetch, CPU, streamed
    )


def recorded(folder, ids, k, sizes=(3, 10, None)) -> TopTokens:
    recorder = Recorder(ids[:, 1:].numel(), k)
    token_losses(model_of(folder), ids, *sizes, recorder)
    return recorder.top


def compared(folder, ids, reference, mask=None, sizes=(3, 10, None), streamed=True) -> Comparison:
    comparison = Comparison(reference)
    token_losses(model_of(folder, mask, streamed), ids, *sizes, comparison)
    return comparison


def plain(source, ids, mask=None) -> torch.Tensor:
    """Log-probabilities of the plain model, float64 [tokens, vocabulary]."""
    model = masked_by_hand(source, mask)
    with torch.no_grad():
        return torch.cat([model(input_ids=row[None]).logits[0, :-1] for row in ids]).double().log_softmax(-1)


def bucket_formula(log_p: torch.Tensor, log_q: torch.Tensor, k: int) -> torch.Tensor:
    """Sum over the k predicted of p log(p / q), and over the rest as one."""
    p, q = log_p.exp(), log_q.exp()
    top = log_p.argsort(-1, descending=True)[:, :k]
    known = (p * (log_p - log_q)).gather(-1, top).sum(-1)
    rest_p, rest_q = 1 - p.gather(-1, top).sum(-1), 1 - q.gather(-1, top).sum(-1)
    return known + rest_p * (rest_p / rest_q).log()


@pytest.fixture
def the_mask(canonical_folder, tmp_path):
    def make(architecture):
        folder = canonical_folder(architecture)
        make_histogram(Checkpoint.open(folder), "magnitude", None, Selection()).write(tmp_path / "histogram")
        make_mask(Checkpoint.open(folder), tmp_path / "histogram", "global", "0.3", tmp_path / "mask")
        return tmp_path / "mask"

    return make


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "in-memory"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_equal_to_the_whole_softmax(architecture, streamed, source_folder, canonical_folder, token_ids, the_mask):
    folder, path = canonical_folder(architecture), the_mask(architecture)
    dense = plain(source_folder(architecture), token_ids)
    ticket = plain(source_folder(architecture), token_ids, load_mask(path))
    whole = (dense.exp() * (dense - ticket)).sum(-1)
    assert whole.mean() > 0.01, "the mask has to matter for this test to mean anything"
    before = float("inf")
    for k in (VOCABULARY, 8, 1):
        reference = recorded(folder, token_ids, k)
        got = compared(folder, token_ids, reference, read_mask(path), streamed=streamed)
        assert torch.equal(got.agrees, dense.argmax(-1) == ticket.argmax(-1))
        assert 0 < got.agreement() < 1
        if k == VOCABULARY:
            torch.testing.assert_close(got.kl, whole, rtol=0, atol=1e-6)
        else:
            torch.testing.assert_close(got.kl, bucket_formula(dense, ticket, k), rtol=0, atol=1e-6)
            assert bool((got.kl <= whole + 1e-6).all())
        assert 0 < got.mean_kl() < before
        before = got.mean_kl()


def test_recorded_tokens_are_the_likeliest(source_folder, canonical_folder, token_ids):
    dense = plain(source_folder("llama"), token_ids)
    top = recorded(canonical_folder("llama"), token_ids, 8)
    values, indices = dense.topk(8)
    assert torch.equal(torch.from_numpy(top.indices).long(), indices)
    torch.testing.assert_close(torch.from_numpy(top.log_probabilities[:, :8]).double(), values, rtol=0, atol=1e-5)
    rest = (1 - values.exp().sum(-1)).log()
    torch.testing.assert_close(torch.from_numpy(top.log_probabilities[:, 8]).double(), rest, rtol=0, atol=1e-4)


def test_a_model_agrees_with_itself_whatever_the_batches(canonical_folder, token_ids):
    folder = canonical_folder("llama")
    reference = recorded(folder, token_ids, 5)
    for sizes in [(3, 10, None), (1, 1, 1), (2, 23, 3), (7, 1000, 5)]:
        same = compared(folder, token_ids, reference, sizes=sizes)
        assert same.agreement() == 1
        assert 0 <= same.mean_kl() <= 1e-9
        again = recorded(folder, token_ids, 5, sizes)
        assert np.array_equal(again.indices, reference.indices)
        np.testing.assert_allclose(again.log_probabilities, reference.log_probabilities, rtol=0, atol=1e-5)


def test_losses_are_the_same_to_the_bit_with_an_observer(canonical_folder, token_ids):
    alone = token_losses(model_of(canonical_folder("llama")), token_ids, 3, 10)
    recorder = Recorder(token_ids[:, 1:].numel(), 4)
    seen = token_losses(model_of(canonical_folder("llama")), token_ids, 3, 10, None, recorder)
    assert torch.equal(alone.losses, seen.losses)
    assert torch.equal(alone.correct, seen.correct)


def observed(logits, k=2):
    recorder = Recorder(len(logits), k)
    cross_entropy(logits.clone(), torch.zeros(len(logits), dtype=torch.long), recorder)
    return recorder.top


def test_ties_go_to_the_first():
    logits = torch.tensor([[0.0, 3, 1, 3, 1], [2, 2, 2, 2, 2], [0, 1, 5, 1, 0]], dtype=torch.bfloat16)
    top = observed(logits, 2)
    assert top.indices[:, 0].tolist() == logits.argmax(-1).tolist() == [1, 0, 2]
    assert top.indices[0].tolist() == [1, 3]
    assert len(set(top.indices[1].tolist())) == 2


def test_unlikely_others_are_not_lost_in_rounding():
    logits = torch.tensor([[50.0, 20.0, 0.0, -3.0]])
    rest = torch.log_softmax(logits.double(), -1)[0, 2:].logsumexp(-1)
    assert observed(logits).log_probabilities[0, 2] == pytest.approx(float(rest), abs=1e-5)


def test_tokens_that_are_ruled_out_and_others_that_are_none():
    """Of infinite logits nothing is left that is not a number; with no other token the rest adds nothing."""
    dense, ticket = torch.tensor([[2.0, 1.0, -torch.inf]]), torch.tensor([[1.0, 2.0, -torch.inf]])
    for k in (1, 2, 3):
        comparison = Comparison(observed(dense, k))
        cross_entropy(ticket.clone(), torch.zeros(1, dtype=torch.long), comparison)
        p, q = dense[0, :2].softmax(-1).double(), ticket[0, :2].softmax(-1).double()
        assert comparison.mean_kl() == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-6)
    far = Comparison(observed(torch.tensor([[2.0, 1.0, 1.5]]), 1))
    cross_entropy(torch.tensor([[900.0, 1.0, 1.5]]), torch.zeros(1, dtype=torch.long), far)
    assert 10 < far.mean_kl() < 900, "a bound, and finite, where the rest is below float32"


def test_bucket_kl_is_the_divergence():
    generator = torch.Generator().manual_seed(0)
    log_p, log_q = torch.randn((2, 50, 7), generator=generator, dtype=torch.float64).log_softmax(-1)
    expected = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(bucket_kl(log_p, log_q), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dense", [True, False], ids=["recorded", "compared"])
def test_the_plan_holds_what_observers_take(dense, dtype, canonical_folder):
    folder, length = canonical_folder("llama"), 64
    ids = torch.randint(3, 90, (8, length), generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    shape = (ids[:, 1:].numel(), 32)
    reference = TopTokens(rng.integers(0, 90, shape, dtype=np.int32), np.full((shape[0], 33), -3.5, np.float32))

    def observe():
        return Recorder(*shape) if dense else Comparison(reference)

    manifest = Manifest.read(folder / MANIFEST)
    fetch = fetch_from(TensorFile(folder / WEIGHTS), None, CPU, dtype)
    for sizes in (BatchSizes(8, 8, 16), BatchSizes(8, 3, 100)):
        skeletons = (build_skeleton(Checkpoint.open(folder), dtype) for _ in range(2))
        planner = EvaluationPlanner(next(skeletons), manifest, (), dtype, False, True, observe)
        model = CausalModel(next(skeletons), manifest, fetch, CPU, True)
        model.divide(length)

        def run(model=model, sizes=sizes):
            walk(model, ids, sizes.micro_batch, sizes.chunk, [observe()])

        planned = planner.peak(sizes, length)
        with ByteCounter(CPU) as counter:
            run()
        copied = 0 if dense else 8 * 33 * sizes.chunk  # by NumPy, which the counter does not see
        ran = counter.peak.total + dtype.itemsize  # the plan has the number that stands in for weights out of turn, too
        assert ran <= planned.total <= ran + copied
        assert planned.parts[TOP_TOKENS] == (top_bytes(*shape) if dense else 9 * shape[0])
        measured, _ = allocated_peak(run)
        scratch = 0 if dtype == torch.float32 else 2**18
        assert planned.total - copied <= 1.05 * measured
        assert measured <= 1.05 * planned.total + scratch


# The file


def top_tokens() -> TopTokens:
    return TopTokens(np.array([[3, 1], [0, 2]], np.int32), np.full((2, 3), -1.5, np.float32))


def test_file_round_trip(tmp_path: Path):
    top_tokens().write(tmp_path / "top", HASHES)
    read = TopTokens.read(tmp_path / "top", HASHES, 2, 4)
    assert np.array_equal(read.indices, top_tokens().indices)
    assert np.array_equal(read.log_probabilities, top_tokens().log_probabilities)


@pytest.mark.parametrize("what", ["checkpoint", "sequences"])
def test_predictions_on_something_else_are_refused(what: str, tmp_path: Path):
    top_tokens().write(tmp_path / "top", HASHES)
    with pytest.raises(UserError, match=f"predictions do not match the {what}"):
        TopTokens.read(tmp_path / "top", HASHES | {what: "c"}, 2, 4)


@pytest.mark.parametrize(
    "damage",
    [
        {"indices": np.array([[4, 1], [0, 2]], np.int32)},
        {"indices": np.array([[-1, 1], [0, 2]], np.int32)},
        {"indices": np.array([[3, 1], [0, 2]], np.int64)},
        {"indices": np.zeros((3, 2), np.int32)},
        {"log_probabilities": np.full((2, 2), -1, np.float32)},
        {"log_probabilities": np.full((2, 3), np.nan, np.float32)},
        {"log_probabilities": np.full((2, 3), 1, np.float32)},
    ],
)
def test_damaged_predictions_are_refused(damage, tmp_path: Path):
    replace(top_tokens(), **damage).write(tmp_path / "top", HASHES)
    with pytest.raises(DamagedFileError, match="damaged set of top-k tokens"):
        TopTokens.read(tmp_path / "top", HASHES, 2, 4)


# The stage


def command(*arguments: object) -> subprocess.CompletedProcess:
    script = [sys.executable, ROOT / "scripts/evaluate.py"]
    return subprocess.run([*script, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_stage_by_hand(canonical_folder, the_mask, tmp_path: Path):
    folder, mask = canonical_folder("llama"), the_mask("llama")
    ids = np.random.default_rng(0).integers(3, 90, (5, 12), dtype=np.int32)
    TokenSequences(ids, 5, 1, sha256_of(folder / TOKENIZER)).write(tmp_path / "ids")
    where = ["--checkpoint", folder, "--sequences", tmp_path / "ids", "--top-tokens", tmp_path / "top"]
    done = command(*where, "--top-k", 4, "--output", tmp_path / "dense.json")
    assert done.returncode == 0, done.stderr
    dense = Metrics.read(tmp_path / "dense.json")
    assert (dense.agreement, dense.kl, dense.sequence_sums.agree, dense.top_k) == (None, None, None, 4)
    baseline = ["--baseline", tmp_path / "dense.json"]
    done = command(*where, *baseline, "--mask", mask, "--output", tmp_path / "ticket.json")
    assert done.returncode == 0, done.stderr
    assert "agreement 0." in done.stderr
    ticket = Metrics.read(tmp_path / "ticket.json")
    assert ticket.agreement == sum(ticket.sequence_sums.agree) / 55
    assert ticket.kl == pytest.approx(sum(ticket.sequence_sums.kl_sum) / 55, rel=1e-12)
    assert ticket.top_k == 4
    kept = evaluate_checkpoint(
        Checkpoint.open(folder),
        tmp_path / "ids",
        ComputeSettings(),
        {"model": "m", "data": "d"},
        mask,
        tmp_path / "dense.json",
    )
    assert (kept.agreement, kept.kl, kept.loss) == (None, None, ticket.loss)
