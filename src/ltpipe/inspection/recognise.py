"""From a path to its description. A file is recognised by its content, never by its name."""

from pathlib import Path

from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.inspection.description import Description
from ltpipe.runtime.errors import UserError


def describe(path: Path, checkpoint: Path | None = None) -> Description:
    """Describe any artefact of ltpipe.

    Args:
        path: a file or checkpoint folder.
        checkpoint: canonical folder of a mask's model, to validate the mask on.

    Raises:
        UserError: the path is not an artefact of ltpipe, or it is damaged.
    """
    if path.is_dir():
        return _describe_folder(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file or folder") from None
    if start[8:] == b"{" and not start.lstrip().startswith(b"{"):  # safetensors: the header's length, then the header
        from ltpipe.inspection.tensors import describe_tensors

        return describe_tensors(path, checkpoint)
    if start.lstrip().startswith(b"{"):
        from ltpipe.inspection.documents import describe_json

        return describe_json(path)
    from ltpipe.inspection.tables import describe_table

    return describe_table(path)


def _describe_folder(folder: Path) -> Description:
    if (folder / MANIFEST).is_file():
        from ltpipe.inspection.documents import describe_checkpoint

        return describe_checkpoint(folder / MANIFEST)
    if (folder / WEIGHTS).is_file():
        from ltpipe.inspection.tensors import describe_tensors

        return describe_tensors(folder / WEIGHTS)
    raise UserError(f"{folder}: not a checkpoint folder of ltpipe; use a file in it or results/checkpoints/MODEL")
