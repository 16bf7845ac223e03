"""Reading a canonical checkpoint folder: nothing in it is taken without a look at its checksum."""

from pathlib import Path
from typing import Any

from ltpipe.checkpoints.layout import CONFIG, MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.runtime.errors import MEND, DamagedFileError
from ltpipe.runtime.files import check_file
from ltpipe.runtime.jsonfiles import read_json


def open_weights(folder: Path) -> TensorFile:
    """The tensors of a canonical folder.

    Raises:
        UserError: there are none.
        DamagedFileError: they are not those of the load stage.
    """
    file = TensorFile(folder / WEIGHTS)
    if not file.has_digests:
        raise DamagedFileError(f"{file.path}: without checksums, so not written by this version of ltpipe; {MEND}")
    return file


def checked(folder: Path, name: str) -> Path:
    """The path of a canonical folder's configuration, tokenizer or tokenizer configuration.

    Raises:
        UserError: it is missing, or the manifest is.
        DamagedFileError: its content is another than the manifest says, or the manifest is damaged.
    """
    check_file(folder / name)  # before the manifest, which is not what the caller named
    return Manifest.read(folder / MANIFEST).checked(folder / name)


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a canonical folder's model; raises as `checked`."""
    return read_json(checked(folder, CONFIG))
