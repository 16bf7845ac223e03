"""The plan of a recovery: two steps on tensors without contents, whose bytes and operations are counted."""

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ltpipe.checkpoints.header import TORCH_NAMES
from ltpipe.checkpoints.manifest import TensorEntry
from ltpipe.recovery.model import TensorSource, build
from ltpipe.recovery.recover import next_token_loss, taught_by
from ltpipe.recovery.settings import RecoverySettings
from ltpipe.runtime.fake_device import ByteCounter, Peak, fake, fake_accelerator

WEIGHTS, TRAINED, GRADIENTS, OPTIMIZER = "weights", "trained weights", "gradients", "optimizer"
MASK, ACTIVATIONS = "mask", "activations"


@dataclass(frozen=True)
class PlannedStep:
    """What a step of a recovery takes.

    Attributes:
        peak: peak of tensors, bytes by kind.
        trained: number of parameters that the optimizer changes.
        operations: floating-point operations of a step, of all processes.
        values: names of the tensors that get new values.
    """

    peak: Peak
    trained: int
    operations: int
    values: tuple[str, ...]


def planned_step(
    skeleton: Callable[[], Any],
    tensors: Mapping[str, TensorEntry],
    covered: Collection[str],
    settings: RecoverySettings,
    length: int,
    mixed_precision: str,
    processes: int,
    accelerator: bool,
) -> PlannedStep:
    """Plan a step of a recovery, with the optimizer's state.

    Args:
        skeleton: returns the model without storage.
        tensors: the tensors of its checkpoint.
        covered: names of those that the mask covers.
        settings: settings of the recovery.
        length: tokens of a sequence.
        mixed_precision: `no` or `bf16`.
        processes: number of processes that share a batch.
        accelerator: whether to plan for an accelerator; on the CPU, weights as stored are pages of a mapped file, which
            take no memory of their own.

    Raises:
        UserError: the model has nothing that the mode trains.
    """
    mixed = mixed_precision == "bf16"
    device = fake_accelerator() if accelerator and not mixed else torch.device("cpu")  # the fake one has no autocast
    counter = ByteCounter(device)
    with torch.autograd.set_multithreading_enabled(False), fake():
        mapped = {
            name: torch.empty(entry.shape, dtype=getattr(torch, TORCH_NAMES[entry.dtype]))
            for name, entry in tensors.items()
        }
        source = TensorSource(
            device,
            tensors,
            lambda name: torch.empty_like(mapped[name], dtype=_computed(mapped[name].dtype), device=device),
            lambda name: torch.empty_like(mapped[name], device=device) if accelerator else mapped[name],
            lambda name: torch.empty((tensors[name].size + 7) // 8, dtype=torch.uint8, device=device),
        )
        with counter:
            with counter.labelled(WEIGHTS):
                model, changed = build(skeleton(), source, covered, settings)
                dense = build(skeleton(), source, covered, None)[0].eval() if settings.soft else None
            for parameter in model.parameters():
                counter.relabel(parameter, TRAINED)
            with counter.labelled(MASK):
                factors = [
                    (torch.ones_like(parameter), torch.ones(parameter.shape, dtype=torch.bool))
                    for name, parameter in model.named_parameters()
                    if name in covered
                ]
            optimizer = settings.training.new_optimizer(model.parameters())
            batch = -(-settings.batch_size // processes)
            shape = (min(settings.micro_batch or batch, batch), length)
            inputs = torch.zeros(shape, dtype=torch.int64, device=device)
            loss_of = taught_by(dense, settings) if dense is not None else next_token_loss
            autocast = torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext()
            for _ in range(2):  # the first makes gradients and the optimizer's state
                with FlopCounterMode(display=False) as counted:
                    with counter.labelled(ACTIVATIONS), autocast:
                        loss = loss_of(model.train(), inputs, inputs[:, 1:])
                    with counter.labelled(GRADIENTS):
                        loss.backward()
                with counter.labelled(OPTIMIZER):
                    optimizer.step()
                del loss
            del factors
        passes = processes * batch / len(inputs)
        values = tuple(changed) or tuple(name for name, _ in model.named_parameters())
        trained = sum(parameter.numel() for parameter in model.parameters())
        return PlannedStep(counter.peak, trained, int(counted.get_total_flops() * passes), values)


def _computed(stored: torch.dtype) -> torch.dtype:
    return torch.float32 if stored.is_floating_point else stored
