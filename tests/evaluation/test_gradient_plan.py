"""The plan of gradient scores: a large model's peak, and a small one's against what the profiler saw."""

import pytest
import torch
from allocations import allocated_peak

from ltpipe.checkpoints.layout import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest, TensorEntry
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.evaluation.gradient_plan import ACCUMULATORS, GRADIENTS, GradientPlanner
from ltpipe.evaluation.plan import BLOCK, HIDDEN, LOGITS, OUTSIDE, BatchSizes
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.gradients import Fisher, Taylor, accumulate, allowed
from ltpipe.streaming.model import CausalModel, build_skeleton

CPU = torch.device("cpu")


def qwen(**changes):
    """Qwen2.5-1.5B without contents: skeleton, manifest and bytes of the weights."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM, Qwen2Config

    shape = {
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }
    with init_empty_weights(include_buffers=False):
        skeleton = AutoModelForCausalLM.from_config(Qwen2Config(**shape | changes), dtype=torch.bfloat16).eval()
    entries = {
        f"{path}.{leaf}": TensorEntry("BF16", tuple(parameter.shape), "", type(owner).__name__)
        for path, owner in skeleton.named_modules()
        for leaf, parameter in owner.named_parameters(recurse=False)
        if path != "lm_head"
    }
    tied = {"lm_head.weight": "model.embed_tokens.weight"}
    manifest = Manifest("Qwen2ForCausalLM", "", "model.layers", entries, tied)
    return skeleton, manifest, 2 * manifest.parameters


def test_gradient_scores_of_a_large_model_fit_beside_half_of_its_weights():
    skeleton, manifest, weights = qwen()
    assert weights == 3_087_428_608
    names = Selection().names(manifest)
    peak = GradientPlanner(skeleton, manifest, names, Taylor, (), torch.bfloat16, True).peak(BatchSizes(32, 4, 64), 128)
    assert peak.total <= 0.50 * weights
    assert peak.parts[OUTSIDE] == 2 * (151936 + 1) * 1536, "embedding once, and the final norm"
    assert peak.parts[LOGITS] >= 64 * 151936 * (4 + 4)
    assert sum(peak.parts.values()) == peak.total


@pytest.mark.parametrize("masked", [False, True], ids=["dense", "masked"])
def test_the_parts_while_a_block_is_walked_back(masked):
    """With few words the peak is in a block: two blocks of weights, accumulators of one, and no kept inputs."""
    skeleton, manifest, _ = qwen(vocab_size=1000, num_hidden_layers=5)
    names = Selection().names(manifest)
    planner = GradientPlanner(skeleton, manifest, names, Taylor, names if masked else (), torch.bfloat16, True)
    peak = planner.peak(BatchSizes(32, 16, 64), 128)
    scored = sum(manifest.tensors[name].size for name in names) // 5
    block = sum(entry.size for name, entry in manifest.tensors.items() if name.startswith("model.layers.0."))
    batch = 2 * 32 * 128 * 1536
    assert peak.parts[ACCUMULATORS] == 4 * scored
    assert 2 * block <= peak.parts[BLOCK] <= 2 * 2 * block
    assert peak.parts.get(GRADIENTS, 0) <= 2 * 1536 * 8960
    assert batch <= peak.parts[HIDDEN] <= 3 * batch
    assert LOGITS not in peak.parts


@pytest.mark.parametrize(("architecture", "accumulator"), [("llama", Taylor), ("llama", Fisher), ("gpt2", Taylor)])
def test_plan_against_the_profiler(architecture, accumulator, canonical_folder):
    folder = canonical_folder(architecture)
    manifest, sizes = Manifest.read(folder / MANIFEST), BatchSizes(8, 4, 64)
    skeleton, names = build_skeleton(folder, torch.float32), Selection().names(manifest)
    planner = GradientPlanner(skeleton, manifest, names, accumulator, (), torch.float32, False)
    planned = planner.peak(sizes, 48).total

    ids = torch.randint(3, 90, (8, 48), generator=torch.Generator().manual_seed(1))
    fetch = fetch_from(TensorFile(folder / WEIGHTS), None, CPU, torch.float32)
    model = CausalModel(skeleton, manifest, fetch, CPU, True)
    model.divide(48)
    micro_batch = allowed(accumulator, sizes.micro_batch)
    measured, _ = allocated_peak(
        lambda: accumulate(model, ids, names, accumulator, micro_batch, sizes.chunk, lambda *_: None)
    )
    assert planned == pytest.approx(measured, rel=0.01)
