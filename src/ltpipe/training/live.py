"""A model while it is trained, and the way to and from `TrainingState`."""

import torch
from torch import nn

from ltpipe.runtime.errors import UserError
from ltpipe.training.levels import Tensors
from ltpipe.training.settings import Settings
from ltpipe.training.state import Point, TrainingState, copied


class LiveTraining:
    """What callbacks see: the model and all that its next step depends on. Loading copies into the model's tensors.

    Attributes:
        model, optimizer, settings: as they say.
        iteration: steps done.
        validation: the curve so far; callbacks add to it.
        best: weights and buffers at its smallest loss.

    Raises:
        UserError: the state or the mask is of another model, or weights that the mask prunes are not 0.
    """

    def __init__(self, model: nn.Module, settings: Settings, state: TrainingState, mask: Tensors) -> None:
        self.model, self.settings, self.iteration = model, settings, state.iteration
        self.validation: list[Point] = list(state.validation)
        self.best = copied(state.best)
        self._parameters = dict(model.named_parameters())
        _load(self._parameters, state.weights)
        _load(dict(model.named_buffers()), state.buffers)
        self._masks = [(parameter, factor) for parameter, factor in self._with_factors(mask)]
        self.optimizer = settings.new_optimizer(self._parameters.values())
        self._load_optimizer(state.optimizer)

    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights.

        This is all that holds a mask: such a weight starts at 0, and an optimizer step from value, gradient and
        momentum 0, with any weight decay, is 0. It costs one multiplication a weight. Factors are float32, the dtype
        of the gradients, since a product of two float tensors is vectorised, where `masked_fill_` is not.
        """
        for parameter, factor in self._masks:
            parameter.grad.mul_(factor)

    def state(self) -> TrainingState:
        """A copy of where the training stands, the generator for noise included."""
        names = {parameter: name for name, parameter in self._parameters.items()}
        optimizer = {
            f"{names[parameter]}/{what}": tensor
            for parameter, kept in self.optimizer.state.items()
            for what, tensor in kept.items()
            if tensor is not None
        }
        return TrainingState(
            copied(self._parameters),
            copied(dict(self.model.named_buffers())),
            copied(optimizer),
            self.iteration,
            torch.get_rng_state(),
            tuple(self.validation),
            copied(self.best),
        )

    def _with_factors(self, mask: Tensors) -> list[tuple[nn.Parameter, torch.Tensor]]:
        pairs = []
        for name, kept in mask.items():
            parameter = self._parameters.get(name)
            if parameter is None or parameter.shape != kept.shape or kept.dtype != torch.bool:
                raise UserError(f"mask: '{name}' is no bool tensor of the shape of a parameter of this model")
            if bool(parameter.detach()[~kept.to(parameter.device)].any()):
                raise UserError(f"'{name}': pruned weights are not 0 at the start of training; apply the mask first")
            pairs.append((parameter, kept.to(parameter.device, parameter.dtype)))
        return pairs

    def _load_optimizer(self, stored: Tensors) -> None:
        by_index: dict[int, dict[str, torch.Tensor]] = {}
        indices = {name: index for index, name in enumerate(self._parameters)}
        for whole, tensor in stored.items():
            name, _, what = whole.rpartition("/")
            by_index.setdefault(indices[name], {})[what] = tensor.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": by_index, "param_groups": groups})


@torch.no_grad()
def _load(live: Tensors, stored: Tensors) -> None:
    if live.keys() != stored.keys() or any(live[name].shape != stored[name].shape for name in live):
        raise UserError("the training state is of another model; start from a state of this one")
    for name, tensor in live.items():
        tensor.copy_(stored[name])
