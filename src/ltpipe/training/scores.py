"""Scores of a trained model's weights by any criterion, which a level of iterative pruning ranks."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ltpipe.checkpoints.uses import parameter_uses
from ltpipe.pruning.layout import Layout
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import Given
from ltpipe.scoring.activations import input_norms
from ltpipe.scoring.criterion import criterion_options, every_criterion, scored_criterion
from ltpipe.scoring.curvature import SummedGradient
from ltpipe.scoring.stored import Stored
from ltpipe.scoring.subject import AccumulatorType, Change, Deliver, Objective, embedding_of_ones
from ltpipe.training.examples import Examples
from ltpipe.training.levels import Tensors, apply_mask, magnitudes
from ltpipe.training.live import load_values
from ltpipe.training.randomness import generator
from ltpipe.training.task import Task

_LABELS = 256  # labels per batch where a criterion leaves the choice
_TRANSPOSED = "Conv1D"  # GPT-2's linear layer, by name, so that training on images need not import transformers


def level_scores(
    task: Task,
    weights: Tensors,
    buffers: Tensors,
    criterion: str,
    mask: Tensors,
    examples: int,
    seed: int,
    options: Given = MappingProxyType({}),
) -> dict[str, torch.Tensor]:
    """Score every prunable weight by a criterion; a level prunes the lowest scores of the weights left.

    `magnitude` is |w| and `random` is uniform; neither uses examples. The other criteria see the model mask ⊙ weights
    as training leaves it: a pruned weight and its gradient are 0. So weights that never train again count neither in
    the norm that `fisher-clipped` clips nor in the gradient that `grasp` preserves. Scores of pruned weights are finite
    but meaningless.

    The model is in evaluation mode: no dropout, and batch normalisation uses its running statistics. With batch
    statistics, examples in a batch would affect each other, and single examples, which `fisher` and `taylor` need,
    would have no gradient. So the scores describe the function that is evaluated, they do not depend on how examples
    are split into batches, and no buffer changes. The code of Tanaka et al. 2020 (2006.05467) also scores SNIP and
    GraSP in evaluation mode. The code of the SNIP and GraSP papers uses batch statistics, since it prunes at
    initialisation, before any statistics are gathered. The option `mode: train` of both criteria does the same; a batch
    then has 256 labels.

    SynFlow prunes as it scores, from all prunable weights to 1 % of them. The flow of weights that the mask prunes is
    0, so they are pruned first, and no others until its steps run out of them. It then continues among the rest as from
    a dense model.

    Args:
        task: builds the model and gives the examples: only *training* examples, the first `examples` in an order that
            depends on `seed`.
        weights: all parameters, float32.
        buffers: running statistics of normalisations.
        criterion: one of `every_criterion()`.
        mask: names of the prunable tensors to bool tensors: the previous level's mask, or `levels.dense_mask` for the
            first level.
        examples: number of calibration examples, for a criterion that needs data.
        seed: seed of the order of examples and of `random`.
        options: the criterion's options; missing ones take their defaults.

    Returns:
        Scores, float32 on the CPU, with the names and order of `mask`. Gradients are of summed losses, in nats.

    Raises:
        UserError: the criterion is unknown, has no such option or cannot score a weight, there are too few examples, or
            a score is not finite.
    """
    if criterion not in every_criterion():
        raise UserError(f"criterion '{criterion}' is unknown; use {', '.join(every_criterion())}")
    chosen = criterion_options(criterion, options, criterion)
    if criterion == "random":
        return {name: torch.rand(kept.shape, generator=generator(seed, "random", name)) for name, kept in mask.items()}
    if criterion == "magnitude":
        found = magnitudes(weights)
    else:
        rule = scored_criterion(criterion)
        data = _calibration(task.train, examples, seed) if rule.needs_data else _blank(task.train)
        found = {}
        values = {**apply_mask(weights, mask), **buffers}
        subject = LiveSubject(task.build(0), values, mask, TaskData(task, data, rule.batch), chosen)
        rule.score(subject, found.__setitem__)
    for name in mask:
        if not bool(found[name].isfinite().all()):
            raise UserError(
                f"criterion '{criterion}': scores of '{name}' are not finite: training diverged, or the signal is too "
                "large for float32; lower the learning rate or choose another criterion"
            )
    return {name: found[name].float().cpu() for name in mask}


class LiveData(Protocol):
    """The data a live model is scored on.

    Attributes:
        tokens: number of labels of an example.
    """

    @property
    def tokens(self) -> float:
        """See above."""
        ...

    def losses(self, model: nn.Module, objective: Objective | None = None) -> Iterator[torch.Tensor]:
        """Yield a differentiable scalar per batch: the loss, or an objective, summed over the batch's labels."""
        ...

    def run(self, model: nn.Module) -> None:
        """Run every example through the model, for hooks on its modules."""
        ...

    def of_ones(self, model: nn.Module) -> AbstractContextManager["LiveData"]:
        """Give one example: an image of ones (Tanaka et al. 2020), or one token whose embedding is temporarily ones."""
        ...


@dataclass(frozen=True)
class TaskData:
    """Examples of a task.

    Attributes:
        task: defines the loss.
        examples: the calibration examples.
        batch: examples per batch; None chooses a suitable number.
    """

    task: Task
    examples: Examples
    batch: int | None

    @property
    def tokens(self) -> int:
        """See `LiveData`."""
        return self.examples.labels[0].numel()

    def losses(self, model: nn.Module, objective: Objective | None = None) -> Iterator[torch.Tensor]:
        """See `LiveData`."""
        for inputs, labels in self._batches():
            with torch.enable_grad():
                if objective is None:
                    loss = self.task.loss(model, inputs, labels) * labels.numel()
                else:
                    logits = self.task.logits(model, inputs).float().flatten(0, -2)
                    loss = objective(logits, labels.flatten()).sum()
            yield loss

    def run(self, model: nn.Module) -> None:
        """See `LiveData`."""
        for inputs, _ in self._batches():
            with torch.no_grad():
                self.task.logits(model, inputs)

    @contextmanager
    def of_ones(self, model: nn.Module) -> Iterator["TaskData"]:
        """See `LiveData`."""
        inputs = self.examples.inputs[:1]
        with ExitStack() as stack:
            if inputs.is_floating_point():
                inputs = torch.ones_like(inputs)
            else:
                inputs = inputs[:, :2]  # the second token is only a label
                stack.enter_context(embedding_of_ones(model))
            yield replace(self, examples=Examples(inputs, self.examples.labels.reshape(-1)[:1]))

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        size = self.batch or max(1, _LABELS // self.tokens)
        return zip(self.examples.inputs.split(size), self.examples.labels.split(size), strict=True)


class LiveSubject:
    """A model in memory as a `Subject`. It computes on the model's device and delivers on the CPU.

    Args:
        model: the model, which the subject takes over and loads with `values`.
        values: values of its parameters and buffers, on the CPU.
        mask: names to bool tensors, True where a weight is kept.
        data: the calibration data.
        options: the criterion's options.
    """

    def __init__(self, model: nn.Module, values: Tensors, mask: Tensors, data: LiveData, options: Any) -> None:
        self.names, self.options = tuple(sorted(mask, key=str.encode)), options
        self._mask, self._data, self._values = mask, data, values
        self._model = model.eval().requires_grad_(False)
        load_values(self._model, self._values)
        for parameter in self._parameters().values():
            parameter.requires_grad_()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight."""
        return tuple(self._mask[name].shape)

    def weight(self, name: str) -> torch.Tensor:
        """Return a weight, unaffected by temporary changes of the model."""
        return self._values[name].float()

    def gradients(self, make: AccumulatorType, deliver: Deliver, objective: Objective | None = None) -> None:
        """Accumulate the gradients of the task's loss, summed over the labels of a batch, or of an objective.

        Weights that the model does not use get zero gradients.
        """
        parameters, tokens = self._parameters(), self._data.tokens
        sums = {name: make(parameter.shape, parameter.device, tokens) for name, parameter in parameters.items()}
        for loss in self._data.losses(self._model, objective):
            found = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
            for (name, parameter), gradient in zip(parameters.items(), found, strict=True):
                sums[name].add(parameter.detach(), gradient * self._mask[name].to(gradient.device))
        for name, each in sums.items():
            deliver(name, each.result().cpu())

    def hessian_gradient(self, deliver: Deliver, objective: Objective | None = None) -> None:
        """Deliver the Hessian of the summed loss, or objective, times its gradient: a second derivative per batch.

        A finite difference of gradients would only suit smooth models, and image models have ReLU.
        """
        parameters = self._parameters()
        gradient: dict[str, torch.Tensor] = {}
        self.gradients(SummedGradient, gradient.__setitem__, objective)
        products = {name: torch.zeros_like(each) for name, each in gradient.items()}
        gradient = {name: gradient[name].to(parameter.device) for name, parameter in parameters.items()}
        with sdpa_kernel(SDPBackend.MATH):  # the other attention kernels have no second derivative
            for loss in self._data.losses(self._model, objective):
                first = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, materialize_grads=True)
                with torch.enable_grad():
                    along = reduce(
                        torch.add, ((each * gradient[name]).sum() for name, each in zip(parameters, first, strict=True))
                    )
                second = torch.autograd.grad(along, list(parameters.values()), materialize_grads=True)
                for name, each in zip(parameters, second, strict=True):
                    products[name] += each.cpu()
        for name, product in products.items():
            deliver(name, product)

    def input_norms(self) -> dict[str, torch.Tensor]:
        """Return the L2 norm over all examples of the input to each weight, in the weight's shape.

        A convolution is treated as a matrix product of inputs unfolded into patches, as in Frantar & Alistarh 2022
        (2208.11580): an input of the kernel is a channel at a position in the patch, including zero padding, and its
        norm is taken over all patches. Squares are summed in float32 inside a batch and in float64 across batches.
        Layers that did not run have zero norms. Weights of other modules, for example fused experts, are observed in
        the products of a causal language model; an expert's norms are over the tokens routed to it.

        Raises:
            UserError: a weight does not belong to a linear layer or convolution, and is not the matrix of a product.
        """
        squares: dict[str, torch.Tensor] = {}
        layers = {name: layer for name in self.names if (layer := self._linear(name)) is not None}
        others = {name: self.shape(name) for name in self.names if name not in layers}
        uses = parameter_uses(self._model) if others else {}  # before any hook: it runs the model too
        layout = Layout(
            {name: use.matrices for name, use in uses.items() if use.matrices is not None},
            {name for name, use in uses.items() if use.inputs_first},
        )
        stored = {weight.untyped_storage()._cdata: name for name, weight in self._parameters().items()}
        with ExitStack() as stack:
            for name, layer in layers.items():

                def before(layer: nn.Module, inputs: tuple[torch.Tensor], name: str = name) -> None:
                    squares[name] = squares.get(name, 0) + _squared_inputs(layer, inputs[0])

                stack.callback(layer.register_forward_pre_hook(before).remove)
            if others:
                norms = input_norms(
                    layout,
                    others,
                    lambda tensor: stored.get(tensor.untyped_storage()._cdata),
                    lambda: self._data.run(self._model),
                )
            else:
                norms = {}
                self._data.run(self._model)
        nothing = {name: torch.zeros(self.shape(name)) for name in self.names if name not in squares}
        return nothing | {name: total.sqrt().float() for name, total in squares.items()} | norms

    @contextmanager
    def changed(self, change: Change) -> Iterator[None]:
        """Temporarily change the model's weights and running statistics."""
        load_values(
            self._model,
            {name: change(name, kept) if kept.is_floating_point() else kept for name, kept in self._values.items()},
        )
        try:
            yield
        finally:
            load_values(self._model, self._values)

    @contextmanager
    def normalising(self, mode: Literal["eval", "train"]) -> Iterator[None]:
        """See `Subject`; running statistics are restored afterwards."""
        kinds = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
        layers = [layer for layer in self._model.modules() if mode == "train" and isinstance(layer, kinds)]
        for layer in layers:
            layer.train()
        try:
            yield
        finally:
            for layer in layers:
                layer.eval()
            load_values(self._model, self._values)

    @contextmanager
    def inputs_of_ones(self) -> Iterator[None]:
        """Temporarily replace the data by one example of ones; see `LiveData.of_ones`."""
        before = self._data
        with before.of_ones(self._model) as self._data:
            try:
                yield
            finally:
                self._data = before

    @contextmanager
    def stored(self) -> Iterator[Stored]:
        """Give temporary storage for one float32 per weight, initially zero."""
        with TemporaryFile() as file:
            yield Stored(file, {name: self.shape(name) for name in self.names})

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: self._model.get_parameter(name) for name in self.names}

    def _linear(self, name: str) -> nn.Module | None:
        """Return the linear layer or convolution that this weight belongs to; None if it belongs to another module."""
        owner, _, leaf = name.rpartition(".")
        layer = self._model.get_submodule(owner)
        known = isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        return layer if leaf == "weight" and (known or type(layer).__name__ == _TRANSPOSED) else None


def _squared_inputs(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return Σ x² over the inputs x to each weight of a linear layer, float64 in the weight's shape.

    It is the derivative, with respect to the weight, of the summed outputs of the layer for inputs x². So the layer
    itself handles strides, padding, groups and transposed weights.
    """
    weight: Any = layer.weight  # a parameter or the result of a parametrization
    with torch.enable_grad():
        total = layer.forward(inputs.detach().square()).sum()  # `forward` bypasses the hook that calls this
        return torch.autograd.grad(total, weight)[0].cpu().double()


def _calibration(examples: Examples, count: int, seed: int) -> Examples:
    """Return the first `count` examples in an order that depends on the seed."""
    if not 1 <= count <= len(examples):
        raise UserError(f"examples: {count} is not allowed; use 1 to {len(examples)} calibration examples")
    chosen = torch.randperm(len(examples), generator=generator(seed, "calibration"))[:count]
    return Examples(examples.inputs[chosen], examples.labels[chosen])


def _blank(examples: Examples) -> Examples:
    """Return one example of zeros, for a criterion that must not see data."""
    return Examples(torch.zeros_like(examples.inputs[:1]), torch.zeros_like(examples.labels[:1]))
