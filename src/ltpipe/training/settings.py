"""Training settings. All of them change the result; nothing else about a training does."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ltpipe.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

BETAS = (0.9, 0.999)
"""Adam's decay rates (Kingma & Ba 2015, 1412.6980)."""


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of one training.

    Attributes:
        optimizer: `sgd`, `adam`, or `adamw` (decoupled weight decay).
        learning_rate: the learning rate before warm-up and decay.
        iterations: total optimizer steps, counted from the initial weights even if training starts at a rewind point.
        batch_size: examples per step.
        evaluate_every: iterations between two validations.
        seed: seed of the data order and of noise inside the model (dropout).
        momentum: momentum of `sgd`.
        weight_decay: L2 for `sgd` and `adam`, decoupled for `adamw`.
        warmup: iterations over which the learning rate rises linearly to its full value.
        milestones: iterations at which the learning rate is multiplied by `decay`; empty for a constant rate.
        decay: factor at each milestone.
    """

    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rate: float
    iterations: int
    batch_size: int
    evaluate_every: int
    seed: int
    momentum: float = 0.0
    weight_decay: float = 0.0
    warmup: int = 0
    milestones: tuple[int, ...] = ()
    decay: float = 0.1

    def __post_init__(self) -> None:
        """Reject values out of range."""
        if self.optimizer not in ("sgd", "adam", "adamw"):
            raise UserError(f"optimizer: {self.optimizer} is not allowed; use sgd, adam or adamw")
        if self.momentum and self.optimizer != "sgd":
            raise UserError(f"momentum: {self.momentum} is not allowed; {self.optimizer} has its own, use 0")
        for name, smallest in {"iterations": 1, "batch_size": 1, "evaluate_every": 1, "warmup": 0}.items():
            if getattr(self, name) < smallest:
                raise UserError(f"{name}: {getattr(self, name)} is not allowed; use {smallest} or more")
        if any(milestone < 0 for milestone in self.milestones):
            raise UserError(f"milestones: {min(self.milestones)} is not allowed; use 0 or more")
        for name in ("learning_rate", "momentum", "weight_decay", "decay"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise UserError(f"{name}: {value} is not allowed; use a finite number, 0 or more")

    def rate(self, iteration: int) -> float:
        """Return the learning rate of the step after `iteration` steps: warm-up (i + 1) / `warmup` times all decays."""
        rise = min(1.0, (iteration + 1) / self.warmup) if self.warmup else 1.0
        return self.learning_rate * rise * self.decay ** sum(milestone <= iteration for milestone in self.milestones)

    def evaluates_at(self, iteration: int) -> bool:
        """Return whether to validate after `iteration` steps; always true at the end."""
        return iteration % self.evaluate_every == 0 or iteration == self.iterations

    @property
    def kept_by_optimizer(self) -> frozenset[str]:
        """What the optimizer keeps for each parameter."""
        return frozenset({"momentum_buffer"} if self.optimizer == "sgd" else {"step", "exp_avg", "exp_avg_sq"})

    def new_optimizer(self, parameters: "Iterable[torch.nn.Parameter]") -> "torch.optim.Optimizer":
        """Return a fresh optimizer. All three leave a weight at exactly 0 if its value, gradient and state are 0."""
        import torch

        common: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay, "fused": True}
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, momentum=self.momentum, **common)
        return (torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW)(parameters, betas=BETAS, **common)
