"""The statistics that batch normalisation uses while a model is scored."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ltpipe.scoring.subject import Subject


def as_in(mode: Literal["eval", "train"], subject: "Subject") -> AbstractContextManager[None]:
    """Use running statistics, or batch statistics as in training. Dropout is off in both."""
    return subject.statistics_of_batches() if mode == "train" else nullcontext()
