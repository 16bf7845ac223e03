"""Norms of the inputs of weights, from one forward walk."""

import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ltpipe.checkpoints.uses import FACTORS, GROUPED
from ltpipe.pruning.layout import Layout
from ltpipe.runtime.errors import UserError

_COPIES = ("_to_copy", "clone")


def input_norms(
    layout: Layout,
    shapes: Mapping[str, tuple[int, ...]],
    name_of: Callable[[torch.Tensor], str | None],
    run: Callable[[], object],
) -> dict[str, torch.Tensor]:
    """Return the L2 norm of each input of linear maps over all tokens; an expert's over the tokens routed to it.

    Inputs are observed in the matrix products themselves, so it does not matter which module computes them, how experts
    are fused, or how often a block is used: all uses count.

    Args:
        layout: the model's layout.
        shapes: shapes of the weights of linear maps, by name.
        name_of: function from a tensor to the name of the weight that it is, or is a view of; None if there is none.
        run: runs the model on all tokens.

    Returns:
        Name to float32 on the CPU, in the weight's shape, or [matrices, rows, columns] if one of its dimensions has
        several matrices: a view of one number per input. Squares are summed in float32 inside a product and in float64
        over all products. Weights that never run, or that no token is routed to, have norms of zero.

    Raises:
        UserError: a weight is not the matrix of a linear map.
    """
    for name, shape in shapes.items():
        if name not in layout.seen:
            raise UserError(
                f"'{name}' of shape {list(shape)} is not the weight matrix of a linear layer, so its inputs cannot be "
                "observed; exclude it from the prunable weights or choose a criterion that needs no inputs"
            )
    products = _Products(layout, shapes, name_of)
    with products:
        run()
    return {name: _expanded(layout, name, shape, products.squares[name]) for name, shape in shapes.items()}


def _expanded(layout: Layout, name: str, shape: tuple[int, ...], squares: torch.Tensor) -> torch.Tensor:
    """Return norms from squares [matrices, inputs], laid out like the weight."""
    stack = layout.stack(name, shape)
    norms = squares.sqrt().float().unsqueeze(2 if name in layout.inputs_first else 1).expand(stack)
    return norms[0] if stack == (1, *shape) else norms


class _Products(TorchDispatchMode):
    """Sums the squares of the inputs of weights while it is entered.

    Attributes:
        squares: name to float64 [matrices, inputs].
    """

    def __init__(self, layout: Layout, names: Collection[str], name_of: Callable[[torch.Tensor], str | None]) -> None:
        super().__init__()
        self._layout, self._name_of = layout, name_of
        self._sizes = {name: layout.seen[name] for name in names}
        self._copies: dict[int, tuple[str, int, weakref.ref]] = {}
        self.squares = {
            name: torch.zeros(count, rows if name in layout.inputs_first else columns, dtype=torch.float64)
            for name, (count, rows, columns) in self._sizes.items()
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "aten":
            with self:  # composite operations are observed as their parts
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        name = func._schema.name.rpartition("::")[2]
        if name in FACTORS or name in GROUPED:
            first, second = (args[index] for index in FACTORS.get(name, (0, 1)))
            if (found := self._place(second)) is not None:
                self._add(
                    *found, second.mT if name == "linear" else second, first, args[2] if name in GROUPED else None
                )
            elif (found := self._place(first)) is not None:
                self._add(*found, first.mT, second.mT if second.dim() > 1 else second, None)
        result = func(*args, **kwargs)
        if name in _COPIES and (found := self._place(args[0])) is not None:
            self._remember(result, *found)
        return result

    def _place(self, tensor: torch.Tensor) -> tuple[str, int] | None:
        """Return which weight this is a part or a copy of, and its first element there."""
        storage = tensor.untyped_storage()
        if (copy := self._copies.get(storage._cdata)) is not None:
            name, start, _ = copy
            return name, start + int(tensor.storage_offset())
        own = self._name_of(tensor)
        return None if own is None or own not in self._sizes else (own, int(tensor.storage_offset()))

    def _remember(self, copy: torch.Tensor, name: str, start: int) -> None:
        """Remember a copy of a weight, for example in another dtype, while it exists."""
        storage = copy.untyped_storage()
        key = storage._cdata
        if self._name_of(copy) is None:
            self._copies[key] = (name, start, weakref.ref(storage, lambda _: self._copies.pop(key, None)))

    def _add(self, name: str, start: int, weight: torch.Tensor, inputs: torch.Tensor, ends: Any) -> None:
        """Add a product of inputs [(matrices,) tokens, inputs] and a part of a weight [(matrices,) inputs, outputs].

        Args:
            name: the weight's name.
            start: element at which the part begins.
            weight: the part, as a view with inputs before outputs.
            inputs: the inputs it is multiplied with.
            ends: where the rows of each matrix end, int [matrices], if all rows are in one sequence; otherwise None.
        """
        _, rows, columns = self._sizes[name]
        step = weight.stride(0) // (rows * columns) if weight.dim() == 3 else 0
        matrix, within = divmod(start, rows * columns)
        first = within // columns if name in self._layout.inputs_first else within % columns
        places = slice(first, first + weight.shape[-2])
        numbers = matrix + step * torch.arange(weight.shape[0] if weight.dim() == 3 else 1)
        if ends is not None:
            found = _by_group(inputs, ends)
        else:
            tokens = inputs.unsqueeze(0) if inputs.dim() == 1 else inputs
            found = torch.linalg.vector_norm(tokens, dim=-2, dtype=torch.float32).cpu().double().square()
        self.squares[name][:, places].index_add_(0, numbers, found.reshape(len(numbers), -1))


def _by_group(inputs: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return sums of squares over the rows of each group, float64 [groups, inputs] on the CPU."""
    rows = torch.arange(len(inputs), device=ends.device, dtype=ends.dtype)
    groups = torch.searchsorted(ends, rows, right=True)
    sums = torch.zeros(len(ends) + 1, inputs.shape[1], dtype=torch.float32, device=inputs.device)  # one for no group
    sums.index_add_(0, groups, inputs.float().square())
    return sums[:-1].cpu().double()
