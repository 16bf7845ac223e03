"""Keys of a recovery: an entry of `recover`."""

from math import ceil
from typing import Annotated, Any

from annotated_types import MinLen
from pydantic import model_validator

from ltpipe.recovery.settings import LEARNING_RATES, Mode, RecoverySettings, Schedule
from ltpipe.runtime.records import Amount, Count, Positive, Share
from ltpipe.workflow.configuration.section import AboveZero, AtLeastTwo, PrunedFraction, Section, Unique, refusals
from ltpipe.workflow.configuration.training import ComputeSection


class TeachingSection(Section):
    """Learn from the dense model's predictions too; null for none."""

    temperature: AboveZero = 2.0
    """temperature that softens the predictions of both models, a number above 0"""
    soft: Share = 0.5
    """share of the dense model's predictions in the loss, a number from 0 to 1"""


class RecoverySection(Section):
    """How tickets are trained, with their masks held."""

    mode: Mode
    """what is trained, full (all that the mask keeps), lora (low-rank changes of the weights that it keeps) or
    norms-and-biases (vectors)
    """
    data: str | None = None
    """name of the text under data to train on, no part of which may be evaluated; null takes that of score.data"""
    tokens: Positive
    """tokens to train on, an integer of at least 1, rounded up to whole steps"""
    epochs: Positive = 1
    """how often each sequence is seen, an integer of at least 1; the text needs tokens / epochs"""
    sequence_length: AtLeastTwo = 256
    """tokens per sequence, an integer of at least 2"""
    batch_size: Positive = 8
    """sequences per step, an integer of at least 1"""
    micro_batch: Positive | None = None
    """sequences that go through the model together, an integer of at least 1; null for the whole batch (the same result
    up to rounding for models without dropout)
    """
    learning_rate: Amount | None = None
    """learning rate of AdamW after warm-up, a number of at least 0; null for the mode's own (2e-5 full, 5e-4 lora, 1e-3
    norms-and-biases)
    """
    weight_decay: Amount = 0.0
    """decoupled weight decay, a number of at least 0"""
    warmup: Share = 0.1
    """share of the steps over which the learning rate rises, a number from 0 to 1"""
    schedule: Schedule = "linear"
    """learning rate after warm-up, linear (it falls to 0) or constant"""
    rank: Positive = 16
    """rank of the changes of mode lora, an integer of at least 1"""
    alpha: AboveZero = 32.0
    """the changes of mode lora are multiplied by alpha / rank, a number above 0"""
    distillation: TeachingSection | None = None
    gradient_checkpointing: bool = False
    """whether blocks are computed again in the backward pass, which saves memory, true or false"""
    seed: Count = 0
    """seed of the order of sequences, of initial changes and of dropout, an integer of at least 0"""
    criteria: Annotated[list[str], MinLen(1), Unique] | None = None
    """criteria of the grid whose tickets are trained, without duplicates; null for all"""
    scopes: Annotated[list[str], MinLen(1), Unique] | None = None
    """scopes of the grid whose tickets are trained, without duplicates; null for all"""
    sparsities: Annotated[list[PrunedFraction], MinLen(1), Unique] | None = None
    """sparsities of the grid whose tickets are trained, without duplicates; null for all; tickets of scopes with a
    sparsity of their own, such as 2of4, are always trained
    """
    control: bool = True
    """whether the dense model is trained in the same way, for comparison, true or false"""
    compute: ComputeSection = ComputeSection()

    @model_validator(mode="after")
    def _settings_fit_together(self) -> "RecoverySection":
        if self.learning_rate is None:
            self.learning_rate = LEARNING_RATES[self.mode]
        if self.batch_size % self.compute.processes:
            raise ValueError(
                f".batch_size: {self.batch_size} is not allowed; use a multiple of the {self.compute.processes} "
                "processes of compute.processes"
            )
        with refusals("."):
            RecoverySettings(**settings_of(self.model_dump()))
        return self


TEXT = frozenset({"sequence_length", "tokens", "epochs", "batch_size"})
"""Keys that the training sequences depend on."""

NOT_TRAINED = frozenset({"data", "criteria", "scopes", "sparsities", "control", "compute"})
"""Keys that say which tickets are trained, on what text and where."""


def sequences_of(section: dict[str, Any]) -> int:
    """Return the number of sequences of a recovery, each of which it sees `epochs` times: whole batches."""
    return _steps_an_epoch(section) * int(section["batch_size"])


def settings_of(section: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a recovery's `RecoverySettings`, from its own keys by name."""
    same = ("mode", "learning_rate", "batch_size", "weight_decay", "warmup", "schedule", "rank", "alpha", "seed")
    taught = section["distillation"] or {"soft": 0.0, "temperature": TeachingSection().temperature}
    return {
        **{name: section[name] for name in same},
        "steps": section["epochs"] * _steps_an_epoch(section),
        "micro_batch": section["micro_batch"] or 0,
        "gradient_checkpointing": section["gradient_checkpointing"],
        **taught,
    }


def _steps_an_epoch(section: dict[str, Any]) -> int:
    return ceil(section["tokens"] / (section["epochs"] * section["batch_size"] * section["sequence_length"]))
