"""A model being trained, and its conversion to and from `TrainingState`."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ltpipe.runtime.determinism import stable_seed
from ltpipe.runtime.errors import UserError
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.levels import Tensors
from ltpipe.training.settings import TrainingSettings
from ltpipe.training.state import Point, TrainingState, copied, on_host


class LiveTraining:
    """A training in progress, driven by trainers and seen by callbacks. Loading copies into the model's tensors.

    Attributes:
        model: the model to run forward passes with, wrapped by `computing` for mixed precision and several devices.
        optimizer, settings, computing: the training's own.
        iteration: steps done.
        mask: names to bool tensors on the CPU; see `TrainingState`.
        validation: the curve so far; callbacks append to it.
        best: weights and buffers at the curve's smallest loss.
        stopped: set by a callback to stop training early.

    Raises:
        UserError: the state or the mask belongs to another model, or pruned weights are not 0.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: TrainingSettings,
        state: TrainingState,
        computing: TrainingCompute,
        callbacks: Sequence["Callback"] = (),
    ) -> None:
        self.settings, self.computing, self.iteration, self.stopped = settings, computing, state.iteration, False
        self.validation: list[Point] = list(state.validation)
        self.best = copied(state.best)
        self._callbacks = callbacks
        self._module = model
        load_values(model, {**state.weights, **state.buffers})
        self.model = computing.prepare(model.train())
        self.optimizer = settings.new_optimizer(model.parameters())
        self._load_optimizer(state.optimizer)
        self.mask: Tensors = {}
        self._factors: list[tuple[nn.Parameter, torch.Tensor]] = []
        self._adopt(state.mask)
        if not all(torch.equal(parameter, parameter * factor) for parameter, factor in self._factors):
            raise UserError("pruned weights are not 0 at the start of training; apply the mask first")

    def begin(self) -> None:
        """Prepare a step: set its learning rate, clear gradients, and seed noise from seed and iteration alone."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.iteration)
        self.optimizer.zero_grad()
        self.computing.seed_noise(stable_seed(self.settings.seed, "noise", str(self.iteration)))

    def step(self, loss: torch.Tensor) -> None:
        """Take an optimizer step on a loss.

        Zeroing the gradients of pruned weights is enough to keep them at 0: a pruned weight starts at 0, and an
        optimizer step with value, gradient and momentum 0 is 0 under any weight decay. It costs one multiplication per
        weight. Factors are float32, the dtype of the gradients: a product of two float tensors is vectorised,
        `masked_fill_` is not.
        """
        self.computing.backward(loss)
        # The optimizer skips parameters that the loss did not use.
        held = [(parameter.grad, factor) for parameter, factor in self._factors if parameter.grad is not None]
        if held:
            torch._foreach_mul_(*map(list, zip(*held, strict=True)))
        self.optimizer.step()
        self._advance()

    def took_step(self) -> None:
        """Register a step that the trainer took itself; pruned weights are set to 0 again."""
        self._zero_pruned()
        self._advance()

    def call(self) -> None:
        """Run the callbacks."""
        for callback in self._callbacks:
            callback(self)

    def prune(self, mask: Tensors) -> None:
        """Switch to a sparser mask; values and optimizer state of the weights it prunes become 0."""
        self._adopt(mask)
        self._zero_pruned()
        for parameter, factor in self._factors:
            for tensor in self.optimizer.state.get(parameter, {}).values():
                if isinstance(tensor, torch.Tensor) and tensor.shape == parameter.shape:
                    tensor.mul_(factor)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the parameters, not copied."""
        return {name: parameter.detach() for name, parameter in self._module.named_parameters()}

    def values(self) -> dict[str, torch.Tensor]:
        """Return a copy of all parameters and buffers, on the CPU."""
        return copied({**dict(self._module.named_parameters()), **dict(self._module.named_buffers())})

    def state(self, shared: bool = False) -> TrainingState:
        """Return a copy of the current training state; if `shared`, it may change with the next step."""
        take = on_host if shared else copied
        names: dict[torch.Tensor, str] = {parameter: name for name, parameter in self._module.named_parameters()}
        optimizer = {
            f"{names[parameter]}/{what}": tensor
            for parameter, kept in self.optimizer.state.items()
            for what, tensor in kept.items()
            if tensor is not None
        }
        return TrainingState(
            take(dict(self._module.named_parameters())),
            take(dict(self._module.named_buffers())),
            take(optimizer),
            self.iteration,
            take(self.mask),
            tuple(self.validation),
            take(self.best),
        )

    def _advance(self) -> None:
        self.iteration += 1
        self.call()

    def _adopt(self, mask: Tensors) -> None:
        parameters = dict(self._module.named_parameters())
        self._factors = []
        for name, kept in mask.items():
            parameter = parameters.get(name)
            if parameter is None or parameter.shape != kept.shape or kept.dtype != torch.bool:
                raise UserError(
                    f"mask: '{name}' does not match a parameter of this model; use a bool tensor of its name and shape"
                )
            self._factors.append((parameter, kept.to(parameter.device, parameter.dtype)))
        self.mask = mask

    @torch.no_grad()
    def _zero_pruned(self) -> None:
        for parameter, factor in self._factors:
            parameter.mul_(factor)

    def _load_optimizer(self, stored: Tensors) -> None:
        if not {whole.rpartition("/")[2] for whole in stored} <= self.settings.kept_by_optimizer:
            raise UserError(
                f"optimizer: {self.settings.optimizer} cannot continue from another optimizer's state; use the same "
                "optimizer or a state at step 0"
            )
        by_index: dict[int, dict[str, torch.Tensor]] = {}
        indices = {name: index for index, (name, _) in enumerate(self._module.named_parameters())}
        for whole, tensor in stored.items():
            name, _, what = whole.rpartition("/")
            by_index.setdefault(indices[name], {})[what] = tensor.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": by_index, "param_groups": groups})


Callback = Callable[[LiveTraining], None]
"""Called before the first step and after every step; it gets the model in training mode and must leave it so."""


@torch.no_grad()
def load_values(model: nn.Module, values: Tensors) -> None:
    """Copy parameters and buffers into a model.

    Raises:
        UserError: the values belong to another model.
    """
    live = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if live.keys() != values.keys() or any(live[name].shape != values[name].shape for name in live):
        raise UserError("the training state belongs to another model; start from a state of this model")
    for name, tensor in live.items():
        tensor.copy_(values[name])
