"""A canonical checkpoint folder, opened once per job: everything read from it is checked against its checksum."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltpipe.checkpoints.filenames import CONFIG, MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.runtime.errors import MEND, DamagedFileError
from ltpipe.runtime.jsonfiles import parse_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Checkpoint:
    """A canonical checkpoint. The manifest is read on opening, everything else on first use.

    Attributes:
        folder: the checkpoint folder.
        manifest: the list of its contents.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Open a canonical folder.

        Raises:
            UserError: it has no manifest.
            DamagedFileError: the manifest is damaged.
        """
        return cls(folder, Manifest.read(folder / MANIFEST))

    @property
    def fingerprint(self) -> str:
        """See `Manifest.fingerprint`."""
        return self.manifest.fingerprint

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's configuration, read-only; raises as `verified`."""
        path = self.folder / CONFIG
        return parse_json(path, self.manifest.verified(path))

    @property
    def precision(self) -> str:
        """The dtype of the weights according to the configuration.

        Raises:
            DamagedFileError: the configuration does not give it.
        """
        precision = self.config.get("dtype")
        if precision not in ("float32", "bfloat16", "float16"):
            raise DamagedFileError(
                f"{self.folder / CONFIG}: dtype is {precision!r}, expected float32, bfloat16 or float16; {MEND}"
            )
        return str(precision)

    @cached_property
    def weights(self) -> TensorFile:
        """The tensors.

        Raises:
            UserError: the tensor file is missing.
            DamagedFileError: the file was not written by the load stage.
        """
        file = TensorFile(self.folder / WEIGHTS)
        if not file.has_digests:
            raise DamagedFileError(f"{file.path}: no checksums, so not written by this version of ltpipe; {MEND}")
        return file

    def verified(self, name: str) -> Path:
        """Return the path of a file beside the weights, after checking its content.

        Raises:
            UserError: the file is missing.
            DamagedFileError: its content does not match the manifest.
        """
        self.manifest.verified(self.folder / name)
        return self.folder / name

    def transformers_config(self) -> "PretrainedConfig":
        """Return the configuration as a transformers object.

        Raises:
            DamagedFileError: transformers does not know the model.
        """
        try:
            return config_from(self.config)
        except Exception as error:  # a damaged configuration raises anything
            raise DamagedFileError(
                f"{self.folder / CONFIG}: transformers cannot build a model from it ({error}); {MEND}"
            ) from None


def config_from(content: Mapping[str, Any]) -> "PretrainedConfig":
    """Return the configuration that transformers wrote as JSON.

    It writes a number that is not finite as `{"__float__": "Infinity"}`, which only its own reader of files takes back
    (transformers 5, `time_step_limit` of Mamba 2).
    """
    from transformers import AutoConfig

    def number(entry: dict[str, Any]) -> Any:
        return float(entry["__float__"]) if entry.keys() == {"__float__"} else entry

    return AutoConfig.for_model(**json.loads(json.dumps(content), object_hook=number))
