"""Gradient scores: the file against accumulators computed plainly, with one gradient for each sequence."""

import math

import numpy as np
import pytest
import torch
from tiny import ARCHITECTURES

from ltpipe.checkpoints.layout import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile, artefact
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.gradients import Fisher, GradientNorm, Taylor, gradient_scores
from ltpipe.runtime.errors import UserError
from ltpipe.streaming.model import CausalModel, build_skeleton

CPU = torch.device("cpu")


def opened(folder, streamed=True, change=lambda _, values: values):
    inner = fetch_from(TensorFile(folder / WEIGHTS), None, CPU, torch.float32)
    skeleton, manifest = build_skeleton(folder, torch.float32), Manifest.read(folder / MANIFEST)
    return CausalModel(skeleton, manifest, lambda name: change(name, inner(name)), CPU, streamed)


def sequence_gradients(source, token_ids, names):
    """float64 gradients of each sequence's summed loss: name to [sequences, *shape], with the weights."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source).eval()
    found = {name: [] for name in names}
    for ids in token_ids:
        model.zero_grad()
        (model(input_ids=ids[None], labels=ids[None]).loss * (len(ids) - 1)).backward()
        for name in names:
            found[name].append(model.get_parameter(name).grad.double())
    weights = {name: model.get_parameter(name).detach().double() for name in names}
    return {name: torch.stack(gradients) for name, gradients in found.items()}, weights


EXPECTED = {
    Taylor: lambda gradients, weight: (gradients * weight).sum(0).abs(),
    GradientNorm: lambda gradients, _: gradients.sum(0).abs(),
    Fisher: lambda gradients, _: gradients.square().mean(0),
}


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "in-memory"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_file_holds_what_plain_gradients_say(
    architecture, streamed, source_folder, canonical_folder, token_ids, tmp_path
):
    folder, path = canonical_folder(architecture), tmp_path / "scores.safetensors"
    model = opened(folder, streamed)
    names = Selection().names(model.manifest)
    gradients, weights = sequence_gradients(source_folder(architecture), token_ids, names)
    for accumulator, expected in EXPECTED.items():
        gradient_scores(path, model, token_ids, names, accumulator, 3, 10, "abc")
        with artefact(path, "scores", "1") as file:
            assert file.metadata["criterion"] == accumulator.criterion
            assert file.metadata["checkpoint"] == model.manifest.fingerprint
            assert file.metadata["sequences"] == "abc"
            assert tuple(file.specs) == names
            for name in names:
                got, wanted = file.array(name), expected(gradients[name], weights[name]).numpy()
                assert got.dtype == np.float32
                np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5 * float(wanted.max()))


def test_accumulators_exist_for_one_block_at_a_time(canonical_folder, token_ids, tmp_path):
    alive: set[int] = set()
    most = []

    class Counted(Taylor):
        def __init__(self, shape, device):
            super().__init__(shape, device)
            alive.add(id(self))
            most.append(len(alive))

        def result(self):
            alive.remove(id(self))
            return super().result()

    model = opened(canonical_folder("llama"))
    names = Selection().names(model.manifest)
    gradient_scores(tmp_path / "scores.safetensors", model, token_ids, names, Counted, 3, 10, "")
    assert max(most) == len(names) // len(model.blocks) == 7


def test_scores_that_are_not_finite_are_refused_and_leave_no_file(canonical_folder, token_ids, tmp_path):
    def change(name, values):
        return values * math.inf if name == "lm_head.weight" else values

    model = opened(canonical_folder("llama"), change=change)
    with pytest.raises(UserError, match=r"taylor of 'model\.layers\.2\..*' is infinite or not a number"):
        gradient_scores(
            tmp_path / "scores.safetensors", model, token_ids, Selection().names(model.manifest), Taylor, 3, 10, ""
        )
    assert not list(tmp_path.iterdir())


def test_weights_outside_the_blocks_are_refused(canonical_folder, token_ids, tmp_path):
    model = opened(canonical_folder("llama"))
    names = Selection("all-weights").names(model.manifest)
    with pytest.raises(UserError, match=r"scores weights of blocks only; 'lm_head\.weight' is outside"):
        gradient_scores(tmp_path / "scores.safetensors", model, token_ids, names, Taylor, 3, 10, "")
