"""Wanda against the one that can be installed: torchao's, on the same model and calibration data.

torchao (0.18) multiplies with the squared norms of the inputs, where the paper (2306.11695, equation 1) has the norms.
So it is compared with ltpipe's norms squared; that the root is there is tested against the paper's formula elsewhere.
"""

import numpy as np
import pytest
import torch

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import load_mask
from ltpipe.scoring.criteria.wanda import Wanda
from ltpipe.scoring.score import score_checkpoint

torchao = pytest.importorskip("torchao.sparsity", reason="torchao is not installed; make test-peers runs this")


def masks_of_torchao(model, names, token_ids, **settings):
    """What torchao keeps of each weight, bool."""
    sparsifier = torchao.WandaSparsifier(**settings)
    sparsifier.prepare(model, [{"tensor_fqn": name} for name in names])
    with torch.no_grad():
        model(input_ids=token_ids)
    sparsifier.step()
    owners = {name: model.get_submodule(name.removesuffix(".weight")) for name in names}
    return {name: owner.parametrizations.weight[0].mask.bool() for name, owner in owners.items()}


@pytest.mark.parametrize(
    ("scope", "sparsity", "settings"),
    [("layer", "0.6", {"sparsity_level": 0.6}), ("2of4", "0.5", {"semi_structured_block_size": 4})],
)
@pytest.mark.filterwarnings("ignore")
def test_same_masks_as_torchao(
    scope, sparsity, settings, canonical_folder, source_folder, calibration, token_ids, monkeypatch, tmp_path
):
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(Wanda, "combine", staticmethod(lambda weight, norms: weight.abs() * norms.square()))
    folder, scores = canonical_folder("llama"), tmp_path / "scores"
    score_checkpoint(
        Checkpoint.open(folder), "wanda", scores, Selection(), calibration("llama"), ComputeSettings(device="cpu")
    )
    make_histogram(Checkpoint.open(folder), "wanda", None, Selection(), scores).write(tmp_path / "histogram")
    make_mask(Checkpoint.open(folder), tmp_path / "histogram", scope, sparsity, tmp_path / "mask", scores)
    ours = load_mask(tmp_path / "mask")

    model = AutoModelForCausalLM.from_pretrained(source_folder("llama")).eval()
    theirs = masks_of_torchao(model, list(ours), token_ids, **settings)
    for name, kept in ours.items():
        # torchao prunes int(s·N) weights, ltpipe round(s·N); float rounding of a norm may swap neighbours.
        assert abs(int(kept.sum()) - int(theirs[name].sum())) <= 1
        assert np.count_nonzero(kept.numpy() != theirs[name].numpy()) <= 2, name
