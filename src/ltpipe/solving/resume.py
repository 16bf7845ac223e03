"""What a solve stage has finished so far, one file a block, so that a killed one goes on at the block it was in."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from inspect import getfile
from pathlib import Path

import numpy as np

from ltpipe.checkpoints.tensorfile import artefact
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.runtime.errors import DamagedFileError
from ltpipe.runtime.files import sha256_of

logger = logging.getLogger(__name__)

FORMAT = "1"
KIND = "solved block"


@dataclass(frozen=True)
class Solved:
    """A solved tensor.

    Attributes:
        bits: kept weights, packed as in a mask file, uint8.
        values: the values of kept weights, flat, in the stored dtype (bfloat16 as bit patterns); empty if a mask is
            all.
        errors: as in `Solution`.
    """

    bits: np.ndarray
    values: np.ndarray
    errors: tuple[float, float]


class Resume:
    """The finished blocks of one solve stage.

    Args:
        output: what the stage writes; the blocks are in a folder beside it until it is there.
        identity: what the result depends on; finished blocks with another identity are not used.
    """

    def __init__(self, output: Path, identity: str) -> None:
        self._folder, self._identity = output.with_name(f"{output.name}.resume"), identity

    def read(self, block: str) -> dict[str, Solved] | None:
        """Return the tensors of a block, by name; None if it is not finished, or its file cannot be used."""
        path = self._path(block)
        try:
            if not path.exists():
                return None
            with artefact(path, KIND, FORMAT, however_made=True) as file:
                if file.metadata["identity"] != self._identity:
                    return None
                # Copied, since the files are removed while the stage still runs.
                return {
                    name: Solved(file.array(f"bits/{name}").copy(), file.array(f"values/{name}").copy(), tuple(errors))
                    for name, errors in json.loads(file.metadata["errors"]).items()
                }
        except DamagedFileError as error:
            logger.warning("%s; solving the block again", error)
            return None

    def write(self, block: str, tensors: Mapping[str, Solved]) -> None:
        """Keep the tensors of a block."""
        self._folder.mkdir(parents=True, exist_ok=True)
        metadata = {
            "format": FORMAT,
            "kind": KIND,
            "identity": self._identity,
            "errors": json.dumps({name: solved.errors for name, solved in tensors.items()}),
        }
        data = [
            TensorData.of(f"{what}/{name}", getattr(solved, what))
            for name, solved in tensors.items()
            for what in ("bits", "values")
        ]
        write_tensors(self._path(block), data, metadata)

    def done(self) -> None:
        """Remove all files."""
        if self._folder.exists():
            shutil.rmtree(self._folder)

    def _path(self, block: str) -> Path:
        return self._folder / f"{block}.safetensors"


def code_of(rule: type) -> str:
    """Return the digest of the source files of a solver and of this package: whoever edits them solves again."""
    files = {*Path(__file__).parent.rglob("*.py"), *(Path(getfile(each)) for each in rule.__mro__[:-1])}
    return sha256("".join(sorted(sha256_of(file) for file in files)).encode()).hexdigest()
