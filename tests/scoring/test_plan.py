"""The plan of gradient scores: a large model's peak, and a small one's against what the profiler saw."""

import pytest
import torch
from allocations import allocated_peak

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.contents import manifest_of
from ltpipe.checkpoints.filenames import MANIFEST
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.plan import BLOCK, HIDDEN, LOGITS, OUTSIDE, BatchSizes
from ltpipe.runtime.errors import UserError
from ltpipe.scoring.criteria.snip import Snip
from ltpipe.scoring.criterion import criterion_names, scored_criterion
from ltpipe.scoring.plan import ACCUMULATORS, GRADIENTS, ScorePlanner
from ltpipe.streaming.skeleton import build_skeleton


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
    skeleton.tie_weights()
    manifest = manifest_of(skeleton, "foreseen")
    return skeleton, manifest, 2 * manifest.parameters


def test_gradient_scores_of_a_large_model_fit_beside_half_of_its_weights():
    skeleton, manifest, weights = qwen()
    assert weights == 3_087_428_608
    names = Selection().names(manifest)
    peak = ScorePlanner(skeleton, manifest, names, Snip, torch.bfloat16, True).peak(BatchSizes(32, 4, 64), 128)
    assert peak.total <= 0.50 * weights
    assert peak.parts[OUTSIDE] == 2 * (151936 + 1) * 1536, "embedding once, and the final norm"
    assert peak.parts[LOGITS] >= 64 * 151936 * (4 + 4)
    assert sum(peak.parts.values()) == peak.total


def test_the_parts_while_a_block_is_walked_back():
    """With few words the peak is in a block: two blocks of weights, accumulators of one, and no kept inputs."""
    skeleton, manifest, _ = qwen(vocab_size=1000, num_hidden_layers=5)
    names = Selection().names(manifest)
    planner = ScorePlanner(skeleton, manifest, names, Snip, torch.bfloat16, True)
    peak = planner.peak(BatchSizes(32, 16, 64), 128)
    scored = sum(manifest.tensors[name].size for name in names) // 5
    block = sum(entry.size for name, entry in manifest.tensors.items() if name.startswith("model.layers.0."))
    batch = 2 * 32 * 128 * 1536
    assert peak.parts[ACCUMULATORS] == 4 * scored
    assert 2 * block <= peak.parts[BLOCK] <= 2 * 2 * block
    assert peak.parts.get(GRADIENTS, 0) <= 2 * 1536 * 8960
    assert batch <= peak.parts[HIDDEN] <= 3 * batch
    assert LOGITS not in peak.parts


@pytest.mark.parametrize(
    ("architecture", "criterion"),
    [
        pytest.param(architecture, name, marks=() if architecture == "llama" or name == "snip" else pytest.mark.slow)
        for architecture in ("llama", "gpt2")
        for name in criterion_names()
    ],
)
def test_plan_against_the_profiler(architecture, criterion, subject, canonical_folder):
    """Of one walk: what else a stage does on the CPU, with files, is not on the device."""
    folder, rule = canonical_folder(architecture), scored_criterion(criterion)
    manifest, sizes = Manifest.read(folder / MANIFEST), BatchSizes(8, rule.batch or 4, 10)
    skeleton, names = build_skeleton(Checkpoint.open(folder), torch.float32), Selection().names(manifest)
    planned = ScorePlanner(skeleton, manifest, names, rule, torch.float32, False).peak(sizes, 48).total

    ids = torch.randint(3, 90, (8, 48), generator=torch.Generator().manual_seed(1))
    there = subject(architecture, micro_batch=sizes.micro_batch, ids=ids)
    there._model.divide(48)
    measured, _ = allocated_peak(lambda: rule.walk(there))
    assert planned == pytest.approx(measured, rel=0.01)


def test_what_does_not_fit_is_refused_with_what_it_needs(canonical_folder):
    folder = canonical_folder("llama")
    manifest = Manifest.read(folder / MANIFEST)
    names, skeleton = Selection().names(manifest), build_skeleton(Checkpoint.open(folder), torch.float32)
    planner = ScorePlanner(skeleton, manifest, names, Snip, torch.float32, False)
    sizes, peak = planner.fit(BatchSizes(8, 8, 64), 48, 1e9)
    assert sizes == BatchSizes(8, 8, 64)
    smaller, less = planner.fit(BatchSizes(8, 8, 64), 48, 0.9 * peak.total)
    assert smaller.super_batch == 8
    assert less.total <= 0.9 * peak.total
    with pytest.raises(UserError, match="scoring of sequences of 48 tokens needs"):
        planner.fit(BatchSizes(8, 8, 64), 48, 1)
