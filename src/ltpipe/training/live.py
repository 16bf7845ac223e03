"""A model while it is trained, and the way to and from `TrainingState`."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ltpipe.runtime.determinism import stable_seed
from ltpipe.runtime.errors import UserError
from ltpipe.training.computing import Computing
from ltpipe.training.levels import Tensors
from ltpipe.training.settings import Settings
from ltpipe.training.state import Point, TrainingState, copied


class LiveTraining:
    """A training under way: what trainers drive and callbacks see. Loading copies into the model's tensors.

    Attributes:
        model: to run forward; in mixed precision, and on several devices, as `computing` wraps it.
        optimizer, settings, computing: as they say.
        iteration: steps done.
        mask: names to bool tensors on the CPU; see `TrainingState`.
        validation: the curve so far; callbacks add to it.
        best: weights and buffers at its smallest loss.
        stopped: set by a callback that has seen enough.

    Raises:
        UserError: the state or the mask is of another model, or weights that the mask prunes are not 0.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        state: TrainingState,
        computing: Computing,
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
        """Before a step: its learning rate, no gradients, and noise that depends on seed and iteration alone."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(self.iteration)
        self.optimizer.zero_grad()
        self.computing.seed_noise(stable_seed(self.settings.seed, "noise", str(self.iteration)))

    def step(self, loss: torch.Tensor) -> None:
        """Take the optimizer step of a loss.

        Zeroing the gradients of pruned weights is all that holds a mask: such a weight starts at 0, and an optimizer
        step from value, gradient and momentum 0, with any weight decay, is 0. It costs one multiplication a weight.
        Factors are float32, the dtype of the gradients, since a product of two float tensors is vectorised, where
        `masked_fill_` is not.
        """
        self.computing.backward(loss)
        # The optimizer leaves alone what the loss did not use.
        held = [(parameter.grad, factor) for parameter, factor in self._factors if parameter.grad is not None]
        if held:
            torch._foreach_mul_(*map(list, zip(*held, strict=True)))
        self.optimizer.step()
        self._advance()

    def took_step(self) -> None:
        """Say that a trainer took a step of its own: pruned weights are made 0 again."""
        self._zero_pruned()
        self._advance()

    def call(self) -> None:
        """Let the callbacks look."""
        for callback in self._callbacks:
            callback(self)

    def prune(self, mask: Tensors) -> None:
        """Go on with a sparser mask: values and momenta of the weights that it prunes become 0."""
        self._adopt(mask)
        self._zero_pruned()
        for parameter, factor in self._factors:
            for tensor in self.optimizer.state.get(parameter, {}).values():
                if isinstance(tensor, torch.Tensor) and tensor.shape == parameter.shape:
                    tensor.mul_(factor)

    def weights(self) -> dict[str, torch.Tensor]:
        """The parameters, not copied."""
        return {name: parameter.detach() for name, parameter in self._module.named_parameters()}

    def values(self) -> dict[str, torch.Tensor]:
        """A copy of all parameters and buffers, on the CPU."""
        return copied({**dict(self._module.named_parameters()), **dict(self._module.named_buffers())})

    def state(self) -> TrainingState:
        """A copy of where the training stands."""
        names: dict[torch.Tensor, str] = {parameter: name for name, parameter in self._module.named_parameters()}
        optimizer = {
            f"{names[parameter]}/{what}": tensor
            for parameter, kept in self.optimizer.state.items()
            for what, tensor in kept.items()
            if tensor is not None
        }
        return TrainingState(
            copied(dict(self._module.named_parameters())),
            copied(dict(self._module.named_buffers())),
            copied(optimizer),
            self.iteration,
            copied(self.mask),
            tuple(self.validation),
            copied(self.best),
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
                raise UserError(f"mask: '{name}' is no bool tensor of the shape of a parameter of this model")
            self._factors.append((parameter, kept.to(parameter.device, parameter.dtype)))
        self.mask = mask

    @torch.no_grad()
    def _zero_pruned(self) -> None:
        for parameter, factor in self._factors:
            parameter.mul_(factor)

    def _load_optimizer(self, stored: Tensors) -> None:
        if not {whole.rpartition("/")[2] for whole in stored} <= self.settings.kept_by_optimizer:
            raise UserError(
                f"optimizer: {self.settings.optimizer}; the state to go on from was trained by another one, allowed is "
                "that one, or a state at step 0"
            )
        by_index: dict[int, dict[str, torch.Tensor]] = {}
        indices = {name: index for index, (name, _) in enumerate(self._module.named_parameters())}
        for whole, tensor in stored.items():
            name, _, what = whole.rpartition("/")
            by_index.setdefault(indices[name], {})[what] = tensor.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": by_index, "param_groups": groups})


Callback = Callable[[LiveTraining], None]
"""Called before the first step and after every step; it finds the model in training mode and leaves it so."""


@torch.no_grad()
def load_values(model: nn.Module, values: Tensors) -> None:
    """Copy parameters and buffers into a model.

    Raises:
        UserError: they are of another model.
    """
    live = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    if live.keys() != values.keys() or any(live[name].shape != values[name].shape for name in live):
        raise UserError("the training state is of another model; start from a state of this one")
    for name, tensor in live.items():
        tensor.copy_(values[name])
