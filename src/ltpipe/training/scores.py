"""Scores of the weights of a model that is being trained, by any criterion: what a level of iterative pruning ranks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import Given
from ltpipe.scoring.criterion import criterion_options, every_criterion, scored_criterion
from ltpipe.scoring.curvature import SummedGradient
from ltpipe.scoring.stored import Stored
from ltpipe.scoring.subject import AccumulatorType, Change, Deliver, Objective
from ltpipe.training.examples import Examples
from ltpipe.training.levels import Tensors, apply_mask, magnitudes
from ltpipe.training.live import load_values
from ltpipe.training.randomness import generator
from ltpipe.training.task import Task

_LABELS = 256  # of examples that go through the model together where a criterion leaves the choice
_TRANSPOSED = "Conv1D"  # GPT-2's linear layer, by name: what trains images does not wait for transformers


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
    """What every prunable weight is worth to a criterion; a level prunes the lowest of those that are left.

    `magnitude` is |w| and `random` is uniform; both look at no example. The others see the model mask ⊙ weights as
    training leaves it: a pruned weight is 0 and its gradient is 0, so that what never trains again counts neither in
    the norm that `fisher-clipped` clips nor in the gradient that `grasp` is to preserve. Scores of pruned weights are
    finite and mean nothing.

    The model is in evaluation mode: no dropout, and batch normalisation with its running statistics. Those of a batch
    would let the examples of a batch see each other, and there would be no gradient of a single example, which
    `fisher` and `taylor` need. So the scores are of the function that is evaluated, they do not depend on how examples
    are cut into batches, and no buffer changes. The code of Tanaka et al. 2020 (2006.05467) scores in evaluation mode
    too, with SNIP and GraSP; the codes of their papers, which prune at initialisation where no statistics have been
    gathered, use those of the batch: the option `mode: train` of both. A batch has 256 labels then.

    SynFlow prunes as it scores, from all prunable weights to 1 % of them. With a mask, the flow of pruned weights is
    0: they fall first, and as long as its steps find enough of them nothing else does. Then it goes on among the rest
    as from a dense model.

    Args:
        task: makes the model, and gives the examples: *training* ones only, the first `examples` in an order that
            follows from `seed`.
        weights: of all parameters, float32.
        buffers: running statistics of normalisations.
        criterion: one of `every_criterion()`.
        mask: of the level before, `levels.dense_mask` for the first: names of the prunable tensors to bool tensors.
        examples: to calibrate with, for a criterion that needs data.
        seed: of the order of the examples, and of `random`.
        options: of the criterion; those that are not given have their defaults.

    Returns:
        Float32 on the CPU, with the names and in the order of `mask`. Gradients are of summed losses, nats.

    Raises:
        UserError: the criterion is unknown, has no such option or cannot score a weight, there are not so many
            examples, or a score is not finite.
    """
    if criterion not in every_criterion():
        raise UserError(f"criterion '{criterion}' is unknown; allowed are {', '.join(every_criterion())}")
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
                f"criterion '{criterion}': scores of '{name}' are not finite; training has diverged, or the signal is "
                "too large for float32: lower the learning rate or choose another criterion"
            )
    return {name: found[name].float().cpu() for name in mask}


class LiveData(Protocol):
    """What a live model is scored on.

    Attributes:
        tokens: labels of an example.
    """

    @property
    def tokens(self) -> float:
        """See above."""
        ...

    def losses(self, model: nn.Module, objective: Objective | None = None) -> Iterator[torch.Tensor]:
        """Of each batch the loss of the model summed over its labels, or an objective, to be derived."""
        ...

    def run(self, model: nn.Module) -> None:
        """Send every example through the model, for whoever watches its modules."""
        ...

    def of_ones(self, model: nn.Module) -> AbstractContextManager["LiveData"]:
        """One example: an image of ones (Tanaka et al. 2020), or one token whose embedding is ones meanwhile."""
        ...


@dataclass(frozen=True)
class TaskData:
    """Examples of a task.

    Attributes:
        task: says what its loss is.
        examples: to calibrate with.
        batch: examples that go through the model together; None is as many as suit it.
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
                inputs = inputs[:, :2]  # the second is only predicted
                stack.enter_context(embedding_of_ones(model))
            yield replace(self, examples=Examples(inputs, self.examples.labels.reshape(-1)[:1]))

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        size = self.batch or max(1, _LABELS // self.tokens)
        return zip(self.examples.inputs.split(size), self.examples.labels.split(size), strict=True)


@contextmanager
def embedding_of_ones(model: nn.Module) -> Iterator[None]:
    """Let the embedding of every token be ones for a while.

    Raises:
        UserError: the model does not say which module is its embedding.
    """
    find: Callable[[], nn.Module] | None = getattr(model, "get_input_embeddings", None)
    if find is None:
        raise UserError("this criterion needs the embedding; give the model a method get_input_embeddings")
    hook = find().register_forward_hook(lambda _module, _inputs, output: torch.ones_like(output))
    try:
        yield
    finally:
        hook.remove()


class LiveSubject:
    """A model in memory as a `Subject`. It computes where the model is, and delivers on the CPU.

    Args:
        model: its own from now on; it gets the values.
        values: of its parameters and buffers, on the CPU.
        mask: names to bool tensors, True where a weight is kept.
        data: to calibrate with.
        options: of the criterion.
    """

    def __init__(self, model: nn.Module, values: Tensors, mask: Tensors, data: LiveData, options: Any) -> None:
        self.names, self.options = tuple(sorted(mask, key=str.encode)), options
        self._mask, self._data, self._values = mask, data, values
        self._model = model.eval().requires_grad_(False)
        load_values(self._model, self._values)
        for parameter in self._parameters().values():
            parameter.requires_grad_()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a weight."""
        return tuple(self._mask[name].shape)

    def weight(self, name: str) -> torch.Tensor:
        """A weight, whatever the model computes with at the time."""
        return self._values[name].float()

    def gradients(self, make: AccumulatorType, deliver: Deliver, objective: Objective | None = None) -> None:
        """Accumulate the gradients of the loss of the task, summed over the labels of a batch, or of an objective.

        What the model does not use has gradients of zeros.
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
        """Deliver the Hessian of the summed loss, or objective, times its gradient: a second derivative of each batch.

        A difference of gradients would do for smooth models only, and those of images have ReLU.
        """
        parameters = self._parameters()
        gradient: dict[str, torch.Tensor] = {}
        self.gradients(SummedGradient, gradient.__setitem__, objective)
        products = {name: torch.zeros_like(each) for name, each in gradient.items()}
        gradient = {name: gradient[name].to(parameter.device) for name, parameter in parameters.items()}
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels of attention have no second derivative
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
        """L2 norm of the input that each weight is multiplied with, over all examples, of the shape of the weight.

        A convolution is the matrix product that it is once its inputs are unfolded into patches, as in Frantar &
        Alistarh 2022 (2208.11580): an input of the kernel is a channel at a place of the patch, zeros of the padding
        included, and its norm is taken over all patches. Squares are summed in float32 inside a batch and in float64
        over all of them. Layers that were not run have norms of zero.

        Raises:
            UserError: a weight is not that of a linear layer or convolution.
        """
        squares: dict[str, torch.Tensor] = {}
        with ExitStack() as stack:
            for name in self.names:

                def before(layer: nn.Module, inputs: tuple[torch.Tensor], name: str = name) -> None:
                    squares[name] = squares.get(name, 0) + _squared_inputs(layer, inputs[0])

                stack.callback(self._linear(name).register_forward_pre_hook(before).remove)
            self._data.run(self._model)
        nothing = {name: torch.zeros(self.shape(name)) for name in self.names if name not in squares}
        return {name: total.sqrt().float() for name, total in squares.items()} | nothing

    @contextmanager
    def changed(self, change: Change) -> Iterator[None]:
        """Let the model compute with other weights, and running statistics, for a while."""
        load_values(
            self._model,
            {name: change(name, kept) if kept.is_floating_point() else kept for name, kept in self._values.items()},
        )
        try:
            yield
        finally:
            load_values(self._model, self._values)

    @contextmanager
    def statistics_of_batches(self) -> Iterator[None]:
        """Let batch normalisation normalise by the statistics of a batch for a while; no statistic is kept of it."""
        kinds = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
        layers = [layer for layer in self._model.modules() if isinstance(layer, kinds)]
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
        """Let the only example be one of ones; see `LiveData`."""
        before = self._data
        with before.of_ones(self._model) as self._data:
            try:
                yield
            finally:
                self._data = before

    @contextmanager
    def stored(self) -> Iterator[Stored]:
        """Room for one float32 a weight, zeros at first; it is gone afterwards."""
        with TemporaryFile() as file:
            yield Stored(file, {name: self.shape(name) for name in self.names})

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: self._model.get_parameter(name) for name in self.names}

    def _linear(self, name: str) -> nn.Module:
        """The layer whose outputs are sums of products of this weight and inputs."""
        owner, _, leaf = name.rpartition(".")
        layer = self._model.get_submodule(owner)
        known = isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        if leaf != "weight" or not (known or type(layer).__name__ == _TRANSPOSED):
            raise UserError(
                f"'{name}' is no weight of a linear layer or convolution, whose inputs could be observed; exclude it "
                "from the prunable weights or choose a criterion that needs no inputs"
            )
        return layer


def _squared_inputs(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Σ x² over the inputs x that each weight of a linear layer is multiplied with, float64 of the weight's shape.

    It is the derivative by the weight of the sum of what the layer makes of x². So strides, paddings, groups and
    transposed weights are what the layer itself takes them for.
    """
    weight: Any = layer.weight  # a parameter, or what a parametrization makes of some
    with torch.enable_grad():
        total = layer.forward(inputs.detach().square()).sum()  # past the hook that calls this
        return torch.autograd.grad(total, weight)[0].cpu().double()


def _calibration(examples: Examples, count: int, seed: int) -> Examples:
    """The first so many in the order that follows from the seed."""
    if not 1 <= count <= len(examples):
        raise UserError(f"{count} examples to calibrate with; there are {len(examples)}, allowed is 1 to that")
    chosen = torch.randperm(len(examples), generator=generator(seed, "calibration"))[:count]
    return Examples(examples.inputs[chosen], examples.labels[chosen])


def _blank(examples: Examples) -> Examples:
    """One example of zeros, for a criterion that is not to see any."""
    return Examples(torch.zeros_like(examples.inputs[:1]), torch.zeros_like(examples.labels[:1]))
