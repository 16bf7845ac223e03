"""The plan of recoveries: on tensors without contents, on the CPU and on an accelerator that only counts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tiny import tiny_model

from ltpipe.checkpoints.contents import manifest_of
from ltpipe.checkpoints.prunable import Selection
from ltpipe.recovery.plan import ACTIVATIONS, MASK, OPTIMIZER, TRAINED, WEIGHTS, PlannedStep, planned_step
from ltpipe.recovery.settings import LEARNING_RATES, RecoverySettings
from ltpipe.runtime.fake_device import fake_accelerator
from ltpipe.streaming.skeleton import skeleton_of

SETTINGS = RecoverySettings("full", 1e-3, steps=4, batch_size=4, micro_batch=2, rank=2)


def plan(architecture: str, accelerator: bool = False, mixed: str = "no", **settings: Any):
    config = tiny_model(architecture).config
    skeleton: Callable[[], Any] = partial(skeleton_of, config, torch.float32)
    manifest = manifest_of(skeleton(), "planned")
    chosen = RecoverySettings(**{**vars(SETTINGS), **settings})
    names = set(Selection().names(manifest))
    step = planned_step(skeleton, manifest.tensors, names, chosen, 16, mixed, 1, accelerator)
    return step, manifest, names


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("mode", LEARNING_RATES)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_what_is_trained_is_held_and_all_else_is_not(architecture, mode, accelerator):
    """On an accelerator, every tensor has to be there: torch refuses operations across devices."""
    step, manifest, names = plan(architecture, accelerator, mode=mode)
    parts, total = step.peak.parts, sum(entry.nbytes for entry in manifest.tensors.values())
    assert sum(parts.values()) == step.peak.total
    assert parts[ACTIVATIONS] > 0
    assert parts[TRAINED] == 4 * step.trained
    assert parts[OPTIMIZER] >= 8 * step.trained
    masked = sum(manifest.tensors[name].size for name in names)
    factor = (4 if accelerator else 5) * (mode == "full")  # the mask itself stays in main memory
    assert parts.get(MASK, 0) == factor * masked
    stored = parts.get(WEIGHTS, 0)
    if mode == "full":
        assert step.trained * 4 == total
        assert set(step.values) == manifest.tensors.keys()
    elif not accelerator:
        held = sum(manifest.tensors[name].nbytes for name in names if "experts" not in name)
        assert stored <= total - held + masked / 8 + 2048, "linear layers are pages of the mapped file"
    else:
        assert stored >= total - parts[TRAINED]


@pytest.mark.parametrize("accelerator", [False, True])
def test_a_teacher_smaller_parts_and_checkpoints(accelerator):
    fake_accelerator()  # what is planned on the CPU does not depend on it

    def plan_lora(**changes: Any) -> PlannedStep:
        return plan("llama", accelerator, **{"mode": "lora", "micro_batch": 0, **changes})[0]

    whole = plan_lora()
    parts = plan_lora(micro_batch=1)
    assert parts.peak.total < whole.peak.total
    assert whole.operations < parts.operations < 1.2 * whole.operations, "the change is multiplied out for each part"
    checkpointed = plan_lora(gradient_checkpointing=True)
    assert checkpointed.peak.total < whole.peak.total
    assert checkpointed.operations > whole.operations
    taught = plan_lora(soft=0.5)
    assert taught.peak.total > whole.peak.total
    assert taught.operations > whole.operations
    mixed = plan_lora(mixed="bf16")
    assert mixed.peak.parts[ACTIVATIONS] < whole.peak.parts[ACTIVATIONS]
