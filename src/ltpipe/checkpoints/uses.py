"""How a model uses each of its parameters, observed in one forward pass rather than guessed from names and shapes.

The model's own forward runs on a few tokens with stand-ins for its parameters: tensors with a shape and strides but no
contents. Results computed from parameters alone stay stand-ins; results of activations with parameters are not computed
but drawn at random, in the right shape. So a pass only costs the model's small operations, whatever its size, and needs
no weights. A matrix product shows that a parameter is the matrix of a linear map, and which of its dimensions is summed
over: the inputs.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_TOKENS = 8
FACTORS = {
    "mm": (0, 1),
    "bmm": (0, 1),
    "mv": (0, 1),
    "linear": (0, 1),
    "addmm": (1, 2),
    "baddbmm": (1, 2),
    "addmv": (1, 2),
}
"""Matrix products, and the indices of the arguments that are multiplied."""
GROUPED = ("_grouped_mm", "grouped_mm_fallback")
"""Products of rows with the matrix of their group (expert); the first two arguments are multiplied."""
_PICKED = ("index", "index_select", "cat", "stack", "repeat", "slice_copy", "select_copy")
"""Operations that slice or join parameters without mixing their elements."""
_NEW = ("new_", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like")
_TABLES, _CONVOLUTIONS = ("embedding",), ("convolution", "conv1d", "conv2d", "conv3d", "conv_transpose1d")


@dataclass(frozen=True)
class Use:
    """How a parameter is used.

    Attributes:
        matrices: its matrices of linear maps, as stored: number, rows, columns; None if it has none.
        inputs_first: whether the rows are the inputs, as in GPT-2's `Conv1D`, not the outputs, as in `nn.Linear`.
        otherwise: what it is instead, in words.
    """

    matrices: tuple[int, int, int] | None = None
    inputs_first: bool = False
    otherwise: str = ""


UNUSED = Use(otherwise="not used by the forward pass")
UNKNOWN = Use(otherwise="its use is unknown")


def parameter_uses(model: nn.Module) -> dict[str, Use]:
    """Return how a causal language model uses its parameters; tied parameters under their first name.

    If the forward pass cannot be traced, a warning is logged and the module classes decide. The model is left
    unchanged; its parameters may be on any device, including the meta device.
    """
    parameters = dict(model.named_parameters())
    seen = _Seen()
    try:
        _run(model, parameters, seen)
    except Exception as error:  # models raise anything when a stand-in is not what they expect
        logger.warning("could not trace how %s uses its weights: %s", type(model).__name__, error)
        return uses_by_class(model)
    found = {name: seen.use(name, tuple(parameter.shape)) for name, parameter in parameters.items()}
    alike: dict[str, Use] = {_pattern(name): use for name, use in found.items() if use is not UNUSED}
    return {  # a few tokens do not reach every expert, but they reach a similar one
        name: alike.get(_pattern(name), UNUSED) if use is UNUSED else use for name, use in found.items()
    }


def uses_by_class(model: nn.Module) -> dict[str, Use]:
    """Return what the module classes reveal about their parameters; works for any module, without a forward pass."""
    return {name: _by_class(model, name, parameter) for name, parameter in model.named_parameters()}


def _pattern(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _run(model: "PreTrainedModel", parameters: Mapping[str, nn.Parameter], seen: "_Seen") -> None:
    device = torch.device("cpu")  # wherever the model is: an accelerator has nothing to do here
    stand_ins = {
        name: _StandIn(torch.empty(parameter.shape, dtype=parameter.dtype, device="meta"), seen, device, {name})
        for name, parameter in parameters.items()
    }
    buffers = {
        name: buffer.clone() if buffer.is_meta else buffer.to(device, copy=True)
        for name, buffer in model.named_buffers()
    }
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens = torch.arange(_TOKENS, device=device).remainder(vocabulary).unsqueeze(0)
    inputs = {"input_ids": tokens, "use_cache": False}
    with _left_as_it_was(model), torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.func.functional_call(model, {**stand_ins, **buffers}, (), inputs)


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Undo what a forward pass writes into attributes of modules."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


@dataclass
class _Seen:
    """Observed uses of parameters, by name."""

    products: dict[str, set[tuple[int, int, int, int]]] = field(default_factory=lambda: defaultdict(set))
    operations: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    random: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def use(self, name: str, shape: tuple[int, ...]) -> Use:
        products, operations = self.products.get(name, set()), self.operations.get(name, set())
        if products and len(shape) > 1:
            return _matrices(products, shape)
        if not products and not operations:
            return UNUSED
        if operations & {*_TABLES}:
            return Use(otherwise="an embedding")
        if operations & {*_CONVOLUTIONS}:
            return Use(otherwise="a convolution")
        return Use(otherwise=f"not a matrix in a product ({', '.join(sorted(operations))})")


def _matrices(products: set[tuple[int, int, int, int]], shape: tuple[int, ...]) -> Use:
    """Return the matrices behind products of (inputs, outputs, stride of the inputs, stride of the outputs)."""
    directions = {along_inputs > along_outputs for _, _, along_inputs, along_outputs in products}
    if len(directions) > 1:
        return Use(otherwise="summed over both of its dimensions")
    (inputs_first,) = directions
    size = torch.Size(shape).numel()
    rows, columns = shape[-2:]
    # If several dimensions are one in the product, or one dimension has several matrices, the strides show it.
    used = {
        (inputs if inputs_first else outputs, max(along_inputs, along_outputs))
        for inputs, outputs, along_inputs, along_outputs in products
    }
    if len(used) == 1:
        ((lines, length),) = used
        one_dimension_holds_several = length == columns and len(shape) == 2
        if (length != columns or one_dimension_holds_several) and size % (lines * length) == 0:
            rows, columns = lines, length
    return Use((size // (rows * columns), rows, columns), inputs_first)


class _StandIn(torch.Tensor):
    """A parameter, or a result computed from parameters alone; without contents."""

    # PyTorch's documented way for subclasses, which its own stubs do not allow.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(
        cls: type["_StandIn"], shaped: torch.Tensor, _seen: _Seen, device: torch.device, _names: set[str]
    ) -> "_StandIn":
        return torch.Tensor._make_wrapper_subclass(
            cls, shaped.shape, strides=shaped.stride(), storage_offset=shaped.storage_offset(), dtype=shaped.dtype,
            device=device,
        )  # fmt: skip

    def __init__(self, shaped: torch.Tensor, seen: _Seen, _device: torch.device, names: set[str]) -> None:
        self.shaped, self.seen, self.names = shaped, seen, names

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]  # its stub has no name
        return f"{type(self).__name__}({sorted(self.names)})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        name = func._schema.name.rpartition("::")[2]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        stand_ins = [tensor for tensor in tensors if isinstance(tensor, _StandIn)]
        seen, device = stand_ins[0].seen, stand_ins[0].device
        if name == "_local_scalar_dense":
            return 1.0
        meets_activations = name in _TABLES or any(
            (tensor.is_floating_point() or tensor.is_complex()) and not isinstance(tensor, _StandIn)
            for tensor in tensors
        )
        if meets_activations:
            _note(name, args, stand_ins, seen)
        if func._schema.is_mutable:
            return kwargs.get("out", args[0])
        if name in GROUPED:
            return _drawn(args[0].new_empty((len(args[0]), args[1].shape[-1]), device="meta"), seen, device)
        shaped_args, shaped_kwargs = tree_map(_shaped, (args, {k: v for k, v in kwargs.items() if k != "device"}))
        result = func(*shaped_args, **shaped_kwargs) if name != "_unsafe_view" else shaped_args[0].reshape(args[1])

        def make(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            if meets_activations or name.startswith(_NEW):
                return _drawn(leaf, seen, device)
            return _made(func, name, leaf, stand_ins)

        return tree_map(make, result)


def _note(name: str, args: Any, stand_ins: list[_StandIn], seen: _Seen) -> None:
    """Record how parameters were used together with activations."""
    factor: _StandIn | None = None
    if name in FACTORS or name in GROUPED:
        first, second = (args[index] for index in FACTORS.get(name, (0, 1)))
        if isinstance(first, _StandIn) != isinstance(second, _StandIn):
            factor = first if isinstance(first, _StandIn) else second
            inputs, outputs = (-2, -1) if factor is second and name != "linear" else (-1, -2)
            if factor.dim() > 1:
                product = (factor.shape[inputs], factor.shape[outputs], factor.stride(inputs), factor.stride(outputs))
                for each in factor.names:
                    seen.products[each].add(product)
    for tensor in stand_ins:
        if tensor is not factor:
            for each in tensor.names:
                seen.operations[each].add(name)


def _shaped(leaf: Any) -> Any:
    """Return what an operation on the meta device gets in place of an argument."""
    if isinstance(leaf, _StandIn):
        return leaf.shaped
    if isinstance(leaf, torch.Tensor):
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")
    return leaf


def _drawn(shaped: torch.Tensor, seen: _Seen, device: torch.device) -> torch.Tensor:
    """Return random activations of that shape."""
    if not shaped.is_floating_point():
        return torch.zeros(shaped.shape, dtype=shaped.dtype, device=device)
    return torch.randn(shaped.shape, generator=seen.random).to(device, shaped.dtype)


def _made(func: Any, name: str, shaped: torch.Tensor, stand_ins: list[_StandIn]) -> _StandIn:
    """Return an operation's result on parameters alone, with the strides of the parameter its elements come from."""
    first = stand_ins[0]
    is_view = name == "_unsafe_view" or any(each.alias_info is not None for each in func._schema.arguments)
    alike = next((each for each in stand_ins if each.shape == shaped.shape and each.dim() > 1), None)
    names: set[str] = set()
    if is_view or alike is not None or name in _PICKED:
        names = set().union(*(each.names for each in stand_ins))
    if alike is not None and not is_view:
        shaped = torch.empty_strided(shaped.shape, alike.shaped.stride(), dtype=shaped.dtype, device="meta")
    return _StandIn(shaped, first.seen, first.device, names)


def _by_class(model: nn.Module, name: str, parameter: nn.Parameter) -> Use:
    """Return what the class of a parameter's module reveals about it."""
    owner, _, leaf = name.rpartition(".")
    module, shape = model.get_submodule(owner), tuple(parameter.shape)
    if isinstance(module, nn.Linear) and leaf == "weight":
        return Use((1, shape[0], shape[1]))
    if type(module).__name__ == "Conv1D" and leaf == "weight":
        return Use((1, shape[0], shape[1]), inputs_first=True)
    if len(shape) == 3 and hasattr(module, "is_transposed"):  # how transformers marks fused experts
        return Use((shape[0], shape[1], shape[2]), bool(module.is_transposed))
    return UNKNOWN
