"""The inputs of linear maps, observed in the matrix products of a forward pass."""

import weakref
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ltpipe.checkpoints.uses import FACTORS, GROUPED
from ltpipe.pruning.layout import Layout
from ltpipe.runtime.errors import UserError

_COPIES = ("_to_copy", "clone")


def check_linear(layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UserError if a weight, name to shape, is not the matrix of a linear map."""
    for name, shape in shapes.items():
        if name not in layout.seen:
            raise UserError(
                f"'{name}' of shape {list(shape)} is not the weight matrix of a linear layer, so its inputs cannot be "
                "observed; exclude it from the prunable weights or choose a criterion that needs no inputs"
            )


class Products(TorchDispatchMode):
    """Observes the inputs of weights while it is entered: override `take`.

    It does not matter which module computes a product, how experts are fused, or how often a block is used: all uses
    count.

    Args:
        layout: the model's layout.
        names: names of the weights.
        name_of: function from a tensor to the name of the weight that it is, or is a view of; None if there is none.
    """

    def __init__(self, layout: Layout, names: Collection[str], name_of: Callable[[torch.Tensor], str | None]) -> None:
        super().__init__()
        self._layout, self._name_of = layout, name_of
        self._sizes = {name: layout.seen[name] for name in names}
        self._copies: dict[int, tuple[str, int, weakref.ref]] = {}

    def widths(self) -> dict[str, tuple[int, int]]:
        """Return the number of matrices and of inputs of each weight."""
        return {
            name: (count, rows if name in self._layout.inputs_first else columns)
            for name, (count, rows, columns) in self._sizes.items()
        }

    @abstractmethod
    def take(
        self, name: str, matrices: torch.Tensor, places: slice, inputs: torch.Tensor, ends: torch.Tensor | None
    ) -> None:
        """Take the inputs of a product.

        Args:
            name: the weight's name.
            matrices: numbers of the weight's matrices that are multiplied, int64 [matrices].
            places: the inputs of the matrices that are multiplied, if it is a part of each.
            inputs: [(matrices,) tokens, inputs].
            ends: where the rows of each matrix end, int [matrices], if all rows are in one sequence; otherwise None.
        """

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
        self.take(name, numbers, places, inputs.unsqueeze(0) if inputs.dim() == 1 else inputs, ends)
