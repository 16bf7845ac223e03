"""How a ticket is trained. All of these settings change the result."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from ltpipe.runtime.errors import UserError
from ltpipe.training.settings import TrainingSettings

Mode = Literal["full", "lora", "norms-and-biases"]
Schedule = Literal["linear", "constant"]


class Cell(NamedTuple):
    """The axes of a ticket."""

    criterion: str
    scope: str
    seed: int | None
    sparsity: str


CONTROL = Cell("magnitude", "layer", None, "0")
"""The ticket that prunes nothing: trained, it is the dense model that others are compared with."""

LEARNING_RATES = {"full": 2e-5, "lora": 5e-4, "norms-and-biases": 1e-3}
"""Learning rates by mode, where a study gives none."""


@dataclass(frozen=True)
class RecoverySettings:
    """Settings of one recovery.

    Attributes:
        mode: what is trained: `full` (every weight that the mask keeps, and every other parameter), `lora` (low-rank
            changes of the weights that the mask keeps, in linear layers) or `norms-and-biases` (vectors).
        learning_rate: learning rate of AdamW after warm-up.
        steps: optimizer steps.
        batch_size: sequences per step.
        micro_batch: sequences that go through the model together; 0 for the whole batch. It changes the result by
            rounding, and by other draws if the model has dropout.
        weight_decay: decoupled weight decay.
        warmup: share of the steps over which the learning rate rises.
        schedule: `linear` (the learning rate falls to 0) or `constant`, after warm-up.
        rank: rank of the changes in mode `lora`.
        alpha: the changes are multiplied by alpha / rank.
        soft: share of the dense model's predictions in the loss, from 0 (no distillation) to 1.
        temperature: temperature that softens the predictions of both models.
        gradient_checkpointing: whether blocks are computed again in the backward pass, which saves memory.
        seed: seed of the order of sequences, of the initial changes, and of dropout.
    """

    mode: Mode
    learning_rate: float
    steps: int
    batch_size: int = 8
    micro_batch: int = 0
    weight_decay: float = 0.0
    warmup: float = 0.1
    schedule: Schedule = "linear"
    rank: int = 16
    alpha: float = 32.0
    soft: float = 0.0
    temperature: float = 2.0
    gradient_checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject values out of range."""
        for name, kind in {"mode": Mode, "schedule": Schedule}.items():
            if getattr(self, name) not in get_args(kind):
                raise UserError(f"{name}: {getattr(self, name)} is not allowed; use {', '.join(get_args(kind))}")
        for name, least in {"steps": 1, "batch_size": 1, "micro_batch": 0, "rank": 1, "seed": 0}.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}: {getattr(self, name)} is not allowed; use {least} or more")
        for name in ("warmup", "soft"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}: {getattr(self, name)} is not allowed; use 0 to 1")
        for name in ("alpha", "temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name}: {getattr(self, name)} is not allowed; use a number above 0")
        self.training  # noqa: B018  # checks the others

    @property
    def training(self) -> "RecoverySchedule":
        """The settings of the training loop."""
        return RecoverySchedule(
            optimizer="adamw",
            learning_rate=self.learning_rate,
            iterations=self.steps,
            batch_size=self.batch_size,
            evaluate_every=self.steps,
            seed=self.seed,
            weight_decay=self.weight_decay,
            warmup=round(self.warmup * self.steps),
            falls=self.schedule == "linear",
        )


@dataclass(frozen=True)
class RecoverySchedule(TrainingSettings):
    """Settings of a training whose learning rate may fall to 0 in a line.

    Attributes:
        falls: whether it falls.
    """

    falls: bool = True

    def rate(self, iteration: int) -> float:
        """Return the rate after `iteration` steps: times (i + 1) / warm-up, then (n - i) / (n - warm-up)."""
        if iteration < self.warmup or not self.falls:
            return super().rate(iteration)
        return self.learning_rate * (self.iterations - iteration) / (self.iterations - self.warmup)
