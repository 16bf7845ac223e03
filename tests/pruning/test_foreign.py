"""Every command that takes a mask takes it in every form."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn.utils import prune

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.exporting.plain import export_plain, import_plain
from ltpipe.pruning.foreign import read_any_mask, read_mask_for
from ltpipe.pruning.masks import load_mask
from ltpipe.runtime.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def forms(canonical_folder, tmp_path_factory):
    """The same mask of every linear weight, in every form that is read, beside one that is sparser."""
    from transformers import AutoModelForCausalLM

    import ltpipe

    folder, here = canonical_folder("llama"), tmp_path_factory.mktemp("forms")
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name, sparsity in (("ours", 0.5), ("sparser", 0.6)):
        mask = ltpipe.create_magnitude_mask(model, sparsity, preset="linear")
        ltpipe.save_mask(mask, here / name, model, criterion="magnitude", scope="global", sparsity=sparsity)
    mask = load_mask(here / "ours")
    safetensors.torch.save_file(mask, here / "bools")
    export_plain(here / "ours", here / "exported")
    for dtype in ("float32", "bfloat16"):
        pruned = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        for name, kept in mask.items():
            prune.custom_from_mask(pruned.get_submodule(name.removesuffix(".weight")), "weight", kept)
        safetensors.torch.save_file(pruned.state_dict(), here / f"torch-prune-{dtype}")
    return here


FORMS = ("ours", "bools", "exported", "torch-prune-float32", "torch-prune-bfloat16")


@pytest.mark.parametrize("form", FORMS)
def test_read_the_same(form, forms, canonical_folder):
    manifest = Manifest.read(canonical_folder("llama") / MANIFEST)
    ours, read, fitted = (read_any_mask(forms / each) for each in ("ours", form)), None, None
    ours, read = ours
    fitted = read_mask_for(forms / form, manifest)
    for mask in (read, fitted):
        assert (list(mask.bits), mask.shapes, mask.kept) == (list(ours.bits), ours.shapes, ours.kept)
        assert all(np.array_equal(bits, ours.bits[name]) for name, bits in mask.bits.items())
    assert fitted.checkpoint == manifest.fingerprint
    imported = forms / f"imported-{form}"
    if form != "ours":
        import_plain(forms / form, Checkpoint.open(canonical_folder("llama")), imported, "magnitude")
        assert read_any_mask(imported).kept == ours.kept


def call(*arguments):
    ended = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_command_takes_it(form, forms, canonical_folder, calibration, tmp_path):
    folder, mask, sparser = canonical_folder("llama"), forms / form, forms / "sparser"
    early = tmp_path / "early.json"
    call("scripts/detect_early_bird.py", "--masks", mask, mask, sparser, "--output", early)
    assert json.loads(early.read_text())["history"][1]["values"] == [0.0] * 1
    call("scripts/overlap.py", "--masks", mask, sparser, "--output", tmp_path / "o", "--layers", tmp_path / "l")
    call("scripts/validation.py", "--masks", mask, "--checkpoint", folder, "--output", tmp_path / "v")
    assert "broken" not in (tmp_path / "v").read_text()
    assert json.loads(call("-m", "ltpipe.cli", "compare", mask, forms / "ours", "--json"))["facts"]["hamming"] == 0
    assert "mask" in json.loads(call("-m", "ltpipe.cli", "inspect", mask, "--json"))["kind"]
    for kind in ("bool", "hf", "torch-prune"):
        call(
            *("-m", "ltpipe.cli", "export", mask, "--format", kind, "--checkpoint", folder),
            *("--output", tmp_path / f"exported-{kind}"),
        )
    data = calibration("llama")
    call("scripts/evaluate.py", "--checkpoint", folder, "--sequences", data, "--output", tmp_path / "dense")
    ticket = tmp_path / "ticket"
    call(
        *("scripts/evaluate.py", "--checkpoint", folder, "--sequences", data, "--output", ticket),
        *("--mask", mask, "--baseline", tmp_path / "dense"),
    )
    assert json.loads(ticket.read_text())["loss"] > 0


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": torch.ones(3)}, "not a mask: 'a' is F32; use a mask file of ltpipe"),
        ({}, "has no tensors; use a mask"),
        ({"w_orig": torch.ones(2), "w_mask": torch.tensor([1.0, 0.5])}, "'w_mask' contains values other than 0 and 1"),
    ],
)
def test_what_is_no_mask_is_told_what_one_is(tensors, words, tmp_path):
    safetensors.torch.save_file(tensors, tmp_path / "theirs")
    with pytest.raises(UserError, match=words) as caught:
        read_any_mask(tmp_path / "theirs")
    assert "delete" not in str(caught.value)
