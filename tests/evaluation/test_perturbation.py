"""Noise and rounding against a few independent lines, and evaluations with perturbed weights."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from byhand import masked_by_hand

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, TOKENIZER, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation import perturbation as module
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.evaluation.inputs import PerturbationSettings
from ltpipe.evaluation.loss import walk
from ltpipe.evaluation.metrics import Metrics
from ltpipe.evaluation.perturbation import Noise, Rounding, perturbation_named, perturbing
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.masks import load_mask, read_mask
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.fake_device import ByteCounter
from ltpipe.runtime.files import sha256_of
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
NAMES = {"model": "m", "data": "d"}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    weight.view(-1)[::3] = 0
    return weight


def rounded_by_hand(row: np.ndarray, bits: int) -> np.ndarray:
    """One output's weights, in NumPy float64."""
    step = np.abs(row).max() / (2 ** (bits - 1) - 1)
    return np.round(row / step) * step if step else row


def without_second_output(weight: np.ndarray, outputs) -> np.ndarray:
    """The weight with zeros for the second of its outputs, wherever these lie."""
    places = outputs(np.arange(weight.size).reshape(weight.shape))[1]
    weight.reshape(-1)[places.reshape(-1)] = 0
    return weight


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("layout", "shape", "outputs"),
    [
        (Layout(), (6, 9), lambda w: w),
        (Layout(inputs_first={"w"}), (9, 6), lambda w: w.T),
        (Layout(), (3, 6, 9), lambda w: w.reshape(18, 9)),
        (Layout(inputs_first={"w"}), (3, 9, 6), lambda w: w.swapaxes(1, 2).reshape(18, 9)),
        (Layout({"w": (3, 9, 6)}, {"w"}), (27, 6), lambda w: w.reshape(3, 9, 6).swapaxes(1, 2).reshape(18, 9)),
        (Layout(modules={"w": "Conv2d"}), (4, 3, 2, 2), lambda w: w.reshape(4, 12)),
    ],
)
def test_each_output_is_rounded_by_itself(layout, shape, outputs, bits, monkeypatch):
    weight = random(*shape)
    weight = torch.from_numpy(without_second_output(weight.numpy(), outputs))
    expected = [rounded_by_hand(row, bits) for row in outputs(weight.double().numpy())]
    for chunk in (1 << 22, 7):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        got = Rounding(bits)("w", weight, layout)
        np.testing.assert_allclose(outputs(got.numpy()), expected, rtol=1e-6, atol=0)
    assert bool((got[weight == 0] == 0).all())
    assert all(len(np.unique(row)) <= 2**bits - 1 for row in outputs(got.numpy()))


def test_rounding_keeps_the_dtype_and_leaves_the_weight_alone():
    weight = random(6, 9).bfloat16()
    before = weight.clone()
    got = Rounding(8)("w", weight, Layout())
    assert got.dtype == torch.bfloat16
    assert torch.equal(weight, before)
    torch.testing.assert_close(got, Rounding(8)("w", weight.float(), Layout()).bfloat16(), rtol=0, atol=0)


def test_noise_is_gaussian_of_the_promised_size():
    weight = random(500, 400) * 3
    difference = Noise(0.1, 0)("w", weight, Layout()) - weight
    kept = weight != 0
    size = 0.1 * float(weight[kept].double().square().mean().sqrt())
    noise = (difference[kept] / size).double()
    count = int(kept.sum())
    assert abs(float(noise.mean())) < 5 / math.sqrt(count)
    assert float(noise.std()) == pytest.approx(1, abs=5 / math.sqrt(2 * count))
    assert float((noise.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.01), "the normal distribution"
    assert bool((difference[~kept] == 0).all())


def test_noise_depends_on_seed_and_name_only(monkeypatch):
    weight = random(64, 33)
    torch.manual_seed(0)
    first = Noise(0.1, 0)("a", weight, Layout())
    torch.manual_seed(1)
    assert torch.equal(Noise(0.1, 0)("a", weight, Layout()), first)
    assert not torch.equal(Noise(0.1, 0)("b", weight, Layout()), first)
    assert not torch.equal(Noise(0.1, 1)("a", weight, Layout()), first)
    monkeypatch.setattr(module, "_CHUNK", 16 * 10)
    torch.testing.assert_close(Noise(0.1, 0)("a", weight, Layout()), first)
    assert Noise(0.1, 0)("a", weight.bfloat16(), Layout()).dtype == torch.bfloat16
    assert torch.equal(Noise(0.1, 0)("a", weight * 0, Layout()), weight * 0)


def test_a_tickets_noise_is_that_of_the_dense_model():
    """Where a weight is kept, dense model and ticket get the same draw, in units of their own size."""
    weight = torch.randn((40, 50), generator=torch.Generator().manual_seed(1))
    ticket = weight * (weight.abs() > 0.5)
    draws = [(Noise(0.1, 3)("w", w, Layout()) - w) / w[w != 0].square().mean().sqrt() for w in (weight, ticket)]
    torch.testing.assert_close(draws[0][ticket != 0], draws[1][ticket != 0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["int1", "int9", "int", "noise", "noise-", "noise-0", "noise-0.10", "noise--1", "x"])
def test_unknown_names_are_one_line(name: str):
    with pytest.raises(UserError, match=f"'{name}' is unknown; use noise-X"):
        perturbation_named(name, 0)


def test_names():
    assert perturbation_named("noise-0.01", 5) == Noise(0.01, 5)
    assert perturbation_named("noise-10.5", 5) == Noise(10.5, 5)
    assert perturbation_named("int4") == Rounding(4)
    with pytest.raises(UserError, match=r"'noise-0\.01' needs a seed"):
        perturbation_named("noise-0.01")


# The stage


@pytest.fixture
def study(canonical_folder, tmp_path: Path):
    """Sequences, mask, dense metrics and top-k tokens of a tiny model, and its folder."""

    def make(architecture: str) -> Path:
        folder = canonical_folder(architecture)
        ids = np.random.default_rng(0).integers(3, 90, (5, 12), dtype=np.int32)
        TokenSequences(ids, 5, 1, sha256_of(folder / TOKENIZER)).write(tmp_path / "ids")
        make_histogram(Checkpoint.open(folder), "magnitude", None, Selection()).write(tmp_path / "histogram")
        make_mask(Checkpoint.open(folder), tmp_path / "histogram", "global", "0.5", tmp_path / "mask")
        evaluate(folder, tmp_path, baseline=False).write(tmp_path / "dense.json")
        return folder

    return make


def evaluate(folder: Path, where: Path, perturbation=None, masked=False, baseline=True, **settings) -> Metrics:
    return evaluate_checkpoint(
        Checkpoint.open(folder),
        where / "ids",
        ComputeSettings(**settings),
        NAMES,
        where / "mask" if masked else None,
        where / "dense.json" if baseline else None,
        top_tokens=where / "top",
        perturbation=perturbation,
    )


@pytest.mark.parametrize(
    ("architecture", "name", "seed", "masked"),
    [("gpt2", "int4", None, True), ("gpt2", "noise-0.2", 3, False), ("mixtral", "int4", None, False)],
)
def test_loss_is_that_of_a_plain_model_with_perturbed_weights(
    architecture, name, seed, masked, study, source_folder, tmp_path
):
    folder = study(architecture)
    manifest = Manifest.read(folder / MANIFEST)
    mask = load_mask(tmp_path / "mask")
    plain = masked_by_hand(source_folder(architecture), mask if masked else None)
    with torch.no_grad():
        for tensor in Selection().names(manifest):
            parameter = plain.get_parameter(tensor)
            changed = perturbation_named(name, seed)(tensor, parameter, Layout.of(manifest))
            if masked:
                assert not bool(changed[~mask[tensor]].any()), "pruned weights stay zero"
            parameter.copy_(changed)
        ids = torch.from_numpy(TokenSequences.read(tmp_path / "ids").input_ids.astype(np.int64))
        expected = float(plain(input_ids=ids, labels=ids).loss)
    dense = Metrics.read(tmp_path / "dense.json")
    for execution in ("streamed", "in-memory"):
        got = evaluate(folder, tmp_path, PerturbationSettings(name, seed), masked, execution=execution)
        assert got.loss == pytest.approx(expected, rel=1e-5)
        assert got.performance_retention == dense.loss / got.loss
        assert (got.perturbation, got.perturbation_seed) == (name, seed)
        assert got.agreement < 1
    assert evaluate(folder, tmp_path, None, masked, baseline=masked).loss != pytest.approx(expected, rel=1e-4)


def test_only_prunable_weights_are_perturbed(study, tmp_path):
    folder = study("llama")
    everything = PerturbationSettings("int3", None, Selection(exclude=["*mlp*"]))
    one = PerturbationSettings("int3", None, Selection(exclude=["*mlp*", "*attn.[qkv]*"]))
    losses = {evaluate(folder, tmp_path, chosen).loss for chosen in (everything, one, PerturbationSettings("int3"))}
    assert len(losses) == 3


@pytest.mark.parametrize("change", [Noise(0.1, 0), Rounding(4)], ids=["noise", "rounding"])
@pytest.mark.parametrize("masked", [False, True], ids=["dense", "ticket"])
def test_the_plan_holds_the_changed_copies(masked, change, study, tmp_path):
    folder = study("llama")
    manifest, names = Manifest.read(folder / MANIFEST), Selection().names(Manifest.read(folder / MANIFEST))
    mask = read_mask(tmp_path / "mask") if masked else None
    sizes, length, dtype = BatchSizes(2, 1, 4), 4, torch.float32
    planner = EvaluationPlanner(
        build_skeleton(Checkpoint.open(folder), dtype),
        manifest,
        mask.bits if mask else (),
        dtype,
        False,
        perturbation=change,
        perturbed=names,
    )
    planned = planner.peak(sizes, length).total
    fetch = perturbing(fetch_from(TensorFile(folder / WEIGHTS), mask, CPU, dtype), change, names, manifest)
    model = CausalModel(build_skeleton(Checkpoint.open(folder), dtype), manifest, fetch, CPU, True, planner.division)
    ids = torch.full((2, length), 5)
    with ByteCounter(CPU) as counter:
        walk(model, ids, sizes.micro_batch, sizes.chunk)
    assert planned == counter.peak.total + dtype.itemsize  # what stands in for all weights


def test_a_perturbed_model_is_no_baseline_and_needs_one(study, tmp_path):
    folder = study("llama")
    with pytest.raises(UserError, match="with --perturbation, is measured against its dense model: give --baseline"):
        evaluate(folder, tmp_path, PerturbationSettings("int4"), baseline=False)
    evaluate(folder, tmp_path, PerturbationSettings("int4")).write(tmp_path / "dense.json")
    with pytest.raises(UserError, match="a perturbed model; use those of the dense model"):
        evaluate(folder, tmp_path, PerturbationSettings("int4"))


@pytest.mark.slow
def test_the_stage_by_hand(study, tmp_path):
    folder = study("llama")
    arguments = ["--checkpoint", folder, "--sequences", tmp_path / "ids", "--baseline", tmp_path / "dense.json"]
    arguments += ["--top-tokens", tmp_path / "top", "--output", tmp_path / "out.json", "--perturbation"]

    def command(*more: str) -> subprocess.CompletedProcess:
        script = [sys.executable, ROOT / "scripts/evaluate.py", *map(str, arguments)]
        return subprocess.run([*script, *more], capture_output=True, text=True, check=False)

    done = command("int9")
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == "error: perturbation 'int9' is unknown; use noise-X (X above 0, like 0.01) or int2 to int8"
    )
    assert not (tmp_path / "out.json").exists()
    done = command("noise-0.2", "--perturbation-seed", "4")
    assert done.returncode == 0, done.stderr
    assert "dense with noise-0.2" in done.stderr
    assert (
        Metrics.read(tmp_path / "out.json").loss
        == evaluate(folder, tmp_path, PerturbationSettings("noise-0.2", 4)).loss
    )
