"""An accelerator for the memory tests: CUDA where there is one, else one that counts bytes and holds nothing.

On the fake one the few functions that look at values are replaced by ones that take at least as much memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from ltpipe.api import evaluator, losses, magnitude, masking, quality
from ltpipe.runtime.fake_device import ByteCounter, fake, fake_accelerator
from ltpipe.streaming.skeleton import skeleton_of

WEIGHTS = 2 * 1_543_714_304
"""Bytes of Qwen2.5-1.5B in bfloat16."""


@dataclass
class Meter:
    """Bytes of tensors on a device above those before: now, and at most since the last restart."""

    device: torch.device
    counter: ByteCounter | None
    base: int = 0

    @property
    def held(self) -> int:
        if self.counter is not None:
            return sum(self.counter.held.values())
        return torch.accelerator.memory_allocated(self.device) - self.base

    @property
    def peak(self) -> int:
        if self.counter is not None:
            return self.counter.peak.total
        return torch.accelerator.max_memory_allocated(self.device) - self.base

    def restart(self) -> None:
        if self.counter is not None:
            self.counter.restart()
        else:
            torch.accelerator.reset_peak_memory_stats(self.device)


@dataclass(frozen=True)
class Accelerator:
    """A device to test on, and a model of full size on it."""

    device: torch.device
    is_fake: bool

    @contextmanager
    def measured(self) -> Iterator[Meter]:
        """Count what is taken meanwhile."""
        if self.is_fake:
            with ByteCounter(self.device) as counter:
                yield Meter(self.device, counter)
        else:
            meter = Meter(self.device, None, torch.accelerator.memory_allocated(self.device))
            meter.restart()
            yield meter

    def qwen(self, layers: int = 28) -> nn.Module:
        """Qwen2.5-1.5B with weights of no meaning, in bfloat16."""
        from transformers import Qwen2Config

        config = Qwen2Config(
            vocab_size=151_936,
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=layers,
            num_attention_heads=12,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            dtype="bfloat16",
        )
        model = skeleton_of(config, torch.bfloat16)
        for module in model.modules():
            for kind in (module._parameters, module._buffers):
                for name, value in kind.items():
                    if value is not None:
                        kind[name] = self._placed(value)
        model.tie_weights()
        return model

    def _placed(self, value: torch.Tensor) -> torch.Tensor:
        if not isinstance(value, nn.Parameter):
            return value.to(self.device)
        made = torch.empty(value.shape, dtype=value.dtype, device=self.device)
        return nn.Parameter(made if self.is_fake else made.normal_(0, 0.02), requires_grad=False)


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accelerator]:
    if torch.cuda.is_available():
        yield Accelerator(torch.device("cuda", 0), is_fake=False)
        return
    device = fake_accelerator()
    for owner, name, stand_in in _without_values(device):
        monkeypatch.setattr(owner, name, stand_in)
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None)  # noqa: ARG005
    with fake():
        yield Accelerator(device, is_fake=True)


def _without_values(device: torch.device) -> list[tuple[object, str, Callable]]:
    def rank(weights, sparsity):  # noqa: ARG001
        shapes = {name: weights.tensor(name).shape for name in weights.parameters}
        return {name: torch.empty(shape, dtype=torch.bool, device="cpu") for name, shape in shapes.items()}

    def selected(part, chosen):  # noqa: ARG001
        torch.empty(len(part), dtype=torch.int64, device=device)  # the index that torch makes on a GPU
        return torch.empty_like(part).cpu()

    def labelled(labels):
        rows = torch.arange(labels.numel() - len(labels))
        return rows, torch.zeros_like(rows)

    def tally(parts):
        return losses.Totals(1.0, sum(len(each) for each, _ in parts), 0)

    return [
        (magnitude, "_rank", rank),
        (masking, "_selected", selected),
        (masking, "_inverted", torch.logical_not),
        (masking, "_packed", len),
        (masking, "_unpacked", lambda bits, size: torch.zeros(size, dtype=torch.bool)),  # noqa: ARG005
        (losses, "_labelled", labelled),
        (losses, "_tally", tally),
        (evaluator, "agrees", lambda *_: True),
        (quality, "sparsity_of", lambda mask: 0.5),  # noqa: ARG005
    ]
