"""The requests of a task: what the harness asks of a model, as token ids. Made once, answered by every ticket."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltpipe.checkpoints.tensorfile import artefact
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors

FORMAT = "1"
KIND = "set of requests"


@dataclass(frozen=True)
class Generation:
    """How to continue a context.

    Attributes:
        stops: texts before which the continuation ends.
        room: most tokens to generate.
    """

    stops: tuple[str, ...]
    room: int


@dataclass(frozen=True)
class Requests:
    """The requests of a task, in the order in which the harness makes them.

    A request is answered from one or several windows: contexts, whose last tokens are predicted from those before.

    Attributes:
        tokens: int32 [all tokens], the windows one after the other.
        lengths: int32 [windows], their numbers of tokens.
        predicted: int32 [windows], how many of their last tokens are predicted; 0 if the window is to be continued.
        requests: int32 [windows], the numbers of their requests, ascending.
        kinds: kinds of request and their numbers, in order: `loglikelihood`, `loglikelihood_rolling`, `generate_until`.
        generations: for the requests of kind `generate_until`, in order.
        asked: SHA-256 of the texts of all requests.
        tokenizer: SHA-256 of the tokenizer file.
        facts: the task, and the version of the harness.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    predicted: np.ndarray
    requests: np.ndarray
    kinds: tuple[tuple[str, int], ...]
    generations: tuple[Generation, ...]
    asked: str
    tokenizer: str
    facts: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        windows: Sequence[tuple[int, Sequence[int], int]],
        kinds: Sequence[tuple[str, int]],
        generations: Sequence[Generation],
        asked: str,
        tokenizer: str,
        facts: Mapping[str, Any],
    ) -> "Requests":
        """Pack windows, each a number of a request, token ids, and how many of the last of them are predicted."""
        return cls(
            np.array([token for _, tokens, _ in windows for token in tokens], np.int32),
            np.array([len(tokens) for _, tokens, _ in windows], np.int32),
            np.array([predicted for *_, predicted in windows], np.int32),
            np.array([request for request, *_ in windows], np.int32),
            tuple(kinds),
            tuple(generations),
            asked,
            tokenizer,
            facts,
        )

    @property
    def count(self) -> int:
        """Number of requests."""
        return sum(count for _, count in self.kinds)

    def windows(self) -> list[np.ndarray]:
        """Return the token ids of each window."""
        return np.split(self.tokens, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []

    def write(self, path: Path) -> None:
        """Write as safetensors."""
        metadata = {
            "format": FORMAT,
            "kind": KIND,
            "kinds": json.dumps(self.kinds),
            "generations": json.dumps([[each.stops, each.room] for each in self.generations]),
            "asked": self.asked,
            "tokenizer": self.tokenizer,
            "facts": json.dumps(self.facts),
        }
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        write_tensors(path, [TensorData.of(name, array) for name, array in arrays.items()], metadata)

    @classmethod
    def read(cls, path: Path) -> "Requests":
        """Read a file that `write` wrote.

        Raises:
            UserError: there is no such file.
            DamagedFileError: it is not a set of requests, or damaged.
        """
        with artefact(path, KIND, FORMAT) as file:
            tokens, lengths, predicted, requests = map(file.array, _ARRAYS)
            found = cls(
                tokens,
                lengths,
                predicted,
                requests,
                tuple((kind, count) for kind, count in json.loads(file.metadata["kinds"])),
                tuple(Generation(tuple(stops), room) for stops, room in json.loads(file.metadata["generations"])),
                file.metadata["asked"],
                file.metadata["tokenizer"],
                json.loads(file.metadata["facts"]),
            )
            if int(found.lengths.sum()) != len(found.tokens) or (found.predicted >= found.lengths).any():
                raise ValueError("its windows do not fit its tokens")
            return found


_ARRAYS = ("tokens", "lengths", "predicted", "requests")
