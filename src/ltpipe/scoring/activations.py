"""Norms of the inputs of weights, from one forward walk."""

from collections.abc import Callable, Collection, Mapping

import torch

from ltpipe.pruning.layout import Layout
from ltpipe.scoring.products import Products, check_linear


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
    check_linear(layout, shapes)
    products = _Squares(layout, shapes, name_of)
    with products:
        run()
    return {name: _expanded(layout, name, shape, products.squares[name]) for name, shape in shapes.items()}


def _expanded(layout: Layout, name: str, shape: tuple[int, ...], squares: torch.Tensor) -> torch.Tensor:
    """Return norms from squares [matrices, inputs], laid out like the weight."""
    stack = layout.stack(name, shape)
    norms = squares.sqrt().float().unsqueeze(2 if name in layout.inputs_first else 1).expand(stack)
    return norms[0] if stack == (1, *shape) else norms


class _Squares(Products):
    """Sums the squares of the inputs of weights.

    Attributes:
        squares: name to float64 [matrices, inputs].
    """

    def __init__(self, layout: Layout, names: Collection[str], name_of: Callable[[torch.Tensor], str | None]) -> None:
        super().__init__(layout, names, name_of)
        self.squares = {name: torch.zeros(size, dtype=torch.float64) for name, size in self.widths().items()}

    def take(
        self, name: str, matrices: torch.Tensor, places: slice, inputs: torch.Tensor, ends: torch.Tensor | None
    ) -> None:
        """See `Products`."""
        if ends is not None:
            found = _by_group(inputs, ends)
        else:
            found = torch.linalg.vector_norm(inputs, dim=-2, dtype=torch.float32).cpu().double().square()
        self.squares[name][:, places].index_add_(0, matrices, found.reshape(len(matrices), -1))


def _by_group(inputs: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Return sums of squares over the rows of each group, float64 [groups, inputs] on the CPU."""
    rows = torch.arange(len(inputs), device=ends.device, dtype=ends.dtype)
    groups = torch.searchsorted(ends, rows, right=True)
    sums = torch.zeros(len(ends) + 1, inputs.shape[1], dtype=torch.float32, device=inputs.device)  # one for no group
    sums.index_add_(0, groups, inputs.float().square())
    return sums[:-1].cpu().double()
