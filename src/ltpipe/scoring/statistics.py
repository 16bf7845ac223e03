"""What batch normalisation sees while a model is scored."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ltpipe.scoring.subject import Subject


def as_in(mode: Literal["eval", "train"], subject: "Subject") -> AbstractContextManager[None]:
    """Running statistics, or those of batches as in training. There is no dropout in either."""
    return subject.statistics_of_batches() if mode == "train" else nullcontext()
