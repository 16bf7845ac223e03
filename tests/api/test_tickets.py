"""Masks of live models: saved as mask files, compared, watched, judged."""

import itertools

import numpy as np
import pytest
import torch
from tiny import tiny_model
from torch import nn

import ltpipe
from ltpipe.analysis.early_bird import Detector, detect
from ltpipe.analysis.overlap import compare, total
from ltpipe.analysis.validation import validate
from ltpipe.api.packed import PackedMask
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import read_mask
from ltpipe.runtime.errors import UserError


def masks(count, change=0.02, seed=0, shape=(40, 50)):
    """Random masks, each a little changed from the one before."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(shape, generator=generator) < 0.5
    for _ in range(count):
        yield {"b.weight": kept.clone(), "a.weight": kept.T.clone()}
        flipped = torch.rand(shape, generator=generator) < change
        kept = kept ^ flipped


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_saved_mask_is_the_file_that_the_mask_stage_writes(architecture, canonical_folder, tmp_path):
    folder, model = canonical_folder(architecture), tiny_model(architecture)
    for preset in ("linear", "all-weights"):
        make_histogram(Checkpoint.open(folder), "magnitude", None, Selection(preset)).write(tmp_path / "counts")
        make_mask(Checkpoint.open(folder), tmp_path / "counts", "global", "0.37", tmp_path / "theirs")
        mask = ltpipe.create_magnitude_mask(model, 0.37, preset=preset)
        facts = {"criterion": "magnitude", "scope": "global", "sparsity": 0.37}
        for form in (mask, dict(reversed(mask.items())), PackedMask.of(mask)):
            ltpipe.save_mask(form, tmp_path / "ours", model, **facts)
            assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_tied_weight_is_saved_under_its_stored_name(canonical_folder, tmp_path):
    model = tiny_model("qwen2")
    kept = torch.rand(model.lm_head.weight.shape) < 0.5
    ltpipe.save_mask({"lm_head.weight": kept}, tmp_path / "mask", model)
    saved = read_mask(tmp_path / "mask")
    assert list(saved.bits) == ["model.embed_tokens.weight"]
    assert saved.checkpoint == Manifest.read(canonical_folder("qwen2") / MANIFEST).fingerprint
    assert (saved.criterion, saved.scope, saved.seed) == ("unknown", "unknown", None)


def test_a_mask_without_its_model_and_back(tmp_path):
    (mask,) = masks(1)
    ltpipe.save_mask(mask, tmp_path / "mask", criterion="mine", seed=3)
    saved = read_mask(tmp_path / "mask")
    assert (saved.criterion, saved.seed, saved.checkpoint) == ("mine", 3, "")
    assert float(saved.sparsity) == pytest.approx(1 - saved.total_kept / saved.total, abs=1e-12)
    again = ltpipe.load_mask(tmp_path / "mask")
    assert list(again) == ["a.weight", "b.weight"]
    assert all(torch.equal(again[name], kept) for name, kept in mask.items())
    ltpipe.save_mask(tmp_path / "mask", tmp_path / "again", scope="layer")
    assert read_mask(tmp_path / "again").criterion == "mine"


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        ({}, {}, "it is empty"),
        ({"weight": torch.ones(4, 4)}, {}, r"'weight' is torch\.float32; use a bool tensor"),
        ([torch.ones(2) > 0], {}, "mask: a list is not allowed; use a dict of bool tensors"),
        ({"other": torch.ones(4, 4) > 0}, {"model": nn.Linear(4, 4)}, "mask: 'other' is not a parameter of Linear"),
        ({"weight": torch.ones(2, 4) > 0}, {"model": nn.Linear(4, 4)}, r"mask: 'weight' has shape \[2, 4\]"),
        ({"weight": torch.ones(4, 4) > 0}, {"sparsity": 7}, "fraction from 0 to 1"),
    ],
)
def test_what_is_not_saved_leaves_no_file(mask, options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        ltpipe.save_mask(mask, tmp_path / "mask", **options)
    assert not list(tmp_path.iterdir())


def test_overlap_is_that_of_the_analysis(tmp_path):
    a, b = itertools.islice(masks(2, change=0.2), 2)
    ltpipe.save_mask(a, tmp_path / "a")
    ltpipe.save_mask(b, tmp_path / "b")
    whole = total(compare(read_mask(tmp_path / "a"), read_mask(tmp_path / "b")).values())
    found = ltpipe.compute_ticket_overlap(a, b)
    assert found == ltpipe.compute_ticket_overlap(tmp_path / "a", PackedMask.of(b))
    expected = {"jaccard": whole.jaccard, "hamming": whole.hamming, "spearman": whole.spearman}
    chance = {"jaccard_chance": whole.jaccard_chance, "hamming_chance": whole.hamming_chance}
    assert {**expected, **chance, "spearman_chance": 0.0}.items() <= found.items()
    flat = [np.concatenate([kept[name].numpy().reshape(-1) for name in sorted(a)]) for kept in (a, b)]
    assert found["hamming"] == (flat[0] != flat[1]).mean()
    assert found["jaccard"] == (flat[0] & flat[1]).sum() / (flat[0] | flat[1]).sum()
    assert found["spearman"] == pytest.approx(np.corrcoef(*flat)[0, 1])
    empty = {name: torch.zeros_like(kept) for name, kept in a.items()}
    assert ltpipe.compute_ticket_overlap(empty, empty)["jaccard"] is None
    with pytest.raises(UserError, match="masks of different weights cannot be compared"):
        ltpipe.compute_ticket_overlap(a, {"a.weight": a["a.weight"]})


@pytest.mark.parametrize("rule", ["spearman", "hamming", "jaccard"])
@pytest.mark.parametrize("options", [{}, {"patience": 2}, {"threshold": 0.5, "window": 3}, {"chance_corrected": True}])
def test_the_detector_is_that_of_the_analysis(rule, options):
    drawn = [*masks(3, change=0.3), *masks(6, change=0.004, seed=1), *masks(2, change=0.3, seed=2)]
    detector = ltpipe.EarlyBirdDetector(rule=rule, **options)
    said = [detector.update(mask) for mask in drawn]
    expected = detect([PackedMask.of(mask).mask for mask in drawn], Detector(rule=rule, **options))
    assert tuple(detector.history) == expected.history
    assert said == [step.converged for step in expected.history]
    assert (True in said) == (expected.converged is not None)


def test_the_detector_as_the_reference_shows_it():
    detector = ltpipe.EarlyBirdDetector(rule="spearman", threshold=0.95, window=2, patience=1)
    (mask,) = masks(1)
    assert [detector.update(mask), detector.update(mask)] == [False, True]
    refused = [({"window": 1}, "2 or more"), ({"patience": 0}, "1 or more"), ({"threshold": 2}, "0 to 1")]
    for options, message in refused:
        with pytest.raises(UserError, match=message):
            ltpipe.EarlyBirdDetector(**options)
    with pytest.raises(UserError, match="rule: 'cosine' is not allowed; use hamming, spearman, jaccard"):
        ltpipe.EarlyBirdDetector(rule="cosine")
    with pytest.raises(UserError, match="masks of different weights"):
        detector.update({"a.weight": mask["a.weight"]})


def test_a_ticket_is_judged_as_the_validation_stage_judges_it(canonical_folder, tmp_path):
    folder, model = canonical_folder("llama"), tiny_model("llama")
    for name, change in {
        "sound": lambda mask: mask,
        "collapsed": lambda mask: {key: kept & ("layers.1." not in key) for key, kept in mask.items()},
    }.items():
        mask = change(ltpipe.create_mask(model, 0.5))
        ltpipe.save_mask(mask, tmp_path / name, model)
        checkpoint = Checkpoint.open(folder)
        expected = validate(read_mask(tmp_path / name), checkpoint.manifest, checkpoint.config)
        for form in (mask, tmp_path / name):
            found = ltpipe.validate_ticket(model, form)
            assert found["valid"]
            assert (found["verdict"], tuple(found["warnings"])) == (expected.verdict, expected.warnings)
            assert {key: found[key] for key in vars(expected.structure)} == vars(expected.structure)
    assert "layer collapse" in found["warnings"][0]


@pytest.mark.parametrize(
    ("make", "options", "reason"),
    [
        (lambda mask: mask, {"sparsity": 0.5}, None),
        (lambda mask: mask, {"sparsity": 0.6}, "keeps 11,520 weights instead of 9,216"),
        (lambda mask: mask, {"sparsity": 0.5, "scope": "layer"}, "weights instead of"),
        (lambda mask: {**mask, "other.weight": torch.ones(2) > 0}, {}, "'other.weight' is not a parameter of Llama"),
        (lambda mask: {name: kept[1:] for name, kept in mask.items()}, {}, "has shape"),
        (lambda mask: {name: kept.float() for name, kept in mask.items()}, {}, "use a bool tensor"),
    ],
)
def test_what_makes_a_ticket_invalid(make, options, reason):
    model = tiny_model("llama")
    found = ltpipe.validate_ticket(model, make(ltpipe.create_mask(model, 0.5)), **options)
    assert found["valid"] == (reason is None)
    assert (reason or "") in "; ".join(found["reasons"])


def test_a_ticket_of_any_module():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    mask = ltpipe.create_mask(model, 0.5)
    assert ltpipe.validate_ticket(model, mask)["valid"]
    mask["2.weight"][0] = False
    assert ltpipe.validate_ticket(model, mask)["dead_rows"] >= 1
    with pytest.raises(UserError, match="no such file"):
        ltpipe.validate_ticket(model, "nowhere.safetensors")


def test_a_mask_file_masks_a_model(tmp_path):
    model = tiny_model("llama")
    mask = ltpipe.create_mask(model, 0.5)
    ltpipe.save_mask(mask, tmp_path / "mask")
    with ltpipe.masked(model, ltpipe.load_mask(tmp_path / "mask")):
        assert all(bool((model.get_parameter(name)[~kept] == 0).all()) for name, kept in mask.items())
