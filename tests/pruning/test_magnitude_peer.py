"""Magnitude against torch's own global pruning, on a model whose weights are all different."""

import pytest
import torch
from torch.nn.utils import prune

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import load_mask


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_same_masks_as_torch(scope, canonical_folder, source_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = canonical_folder("llama")
    make_histogram(Checkpoint.open(folder), "magnitude", None, Selection()).write(tmp_path / "histogram")
    make_mask(Checkpoint.open(folder), tmp_path / "histogram", scope, "0.37", tmp_path / "mask")
    ours = load_mask(tmp_path / "mask")

    model = AutoModelForCausalLM.from_pretrained(source_folder("llama"))
    owners = {name: model.get_submodule(name.removesuffix(".weight")) for name in ours}
    if scope == "global":
        prune.global_unstructured([(owner, "weight") for owner in owners.values()], prune.L1Unstructured, amount=0.37)
    else:
        for owner in owners.values():
            prune.l1_unstructured(owner, "weight", amount=0.37)
    for name, kept in ours.items():
        assert torch.equal(kept, owners[name].weight_mask.bool()), name
