"""Sizes of the inputs of linear layers, from one forward walk."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from ltpipe.runtime.errors import UserError
from ltpipe.streaming.model import CausalModel

_TRANSPOSED = "Conv1D"  # GPT-2's linear layer: its weight is [inputs, outputs]


def input_norms(
    model: CausalModel, input_ids: torch.Tensor, micro_batch: int, names: Sequence[str]
) -> dict[str, torch.Tensor]:
    """L2 norm of each input of linear layers over all tokens of all sequences.

    Args:
        model: to run.
        input_ids: int64 [sequences, tokens].
        micro_batch: sequences that go through a block together.
        names: of weights of linear layers.

    Returns:
        Name to float32 on the CPU: [1, inputs], or [inputs, 1] where the weight is stored transposed. Squares are
        summed in float32 inside a micro-batch and in float64 over all of them. Layers that were not run are left out.

    Raises:
        UserError: a weight is not the matrix of a linear layer.
    """
    squares: dict[str, torch.Tensor] = {}

    def observe(name: str, inputs: torch.Tensor) -> None:
        rows = inputs.detach().reshape(-1, inputs.shape[-1])
        found = torch.linalg.vector_norm(rows, dim=0, dtype=torch.float32).cpu().double().square()
        squares[name] = squares[name] + found if name in squares else found

    with ExitStack() as stack:
        for name in names:
            module = _linear(model, name)

            def before(_: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                observe(name, args[0])

            stack.callback(module.register_forward_pre_hook(before).remove)
        model.hidden_states(input_ids, micro_batch)
    return {name: _oriented(model, name, total.sqrt().float()) for name, total in squares.items()}


def _linear(model: CausalModel, name: str) -> nn.Module:
    """The module of a weight of a linear layer."""
    entry = model.manifest.tensors[name]
    owner, _, leaf = name.rpartition(".")
    if leaf != "weight" or len(entry.shape) != 2:
        raise UserError(
            f"'{name}' of shape {list(entry.shape)} is no weight matrix of a linear layer, whose inputs could be "
            "observed; exclude it from the prunable weights or choose a criterion that needs no inputs"
        )
    return model.split.model.get_submodule(owner)


def _oriented(model: CausalModel, name: str, norms: torch.Tensor) -> torch.Tensor:
    """Norms as a row, or as a column where that is how the weight is stored."""
    return norms.unsqueeze(1 if model.manifest.tensors[name].module == _TRANSPOSED else 0)
