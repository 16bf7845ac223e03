"""The export formats of tickets, by name."""

from pathlib import Path
from typing import Literal

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.exporting.folder import Exported
from ltpipe.runtime.errors import UserError

Format = Literal["hf", "bool", "torch-prune", "smaller"]


def export_ticket(
    kind: Format, mask: Path | None, checkpoint: Checkpoint | None, output: Path, solution: Path | None = None
) -> Exported:
    """Write a ticket in a format (docs/export.md).

    Args:
        kind: the format.
        mask: mask file; None writes the dense model, which only `hf` supports.
        checkpoint: checkpoint that the mask was made from; `bool` needs none.
        output: file (`bool`, `torch-prune`) or folder to write.
        solution: new values of the ticket's weights, if a solver or a recovery changed them; only `hf` takes one.

    Raises:
        UserError: no checkpoint was given, or the format cannot store this ticket.
    """
    if solution is not None and (mask is None or kind != "hf"):
        raise UserError(
            f"--solution: format {kind} {'' if mask else 'without a mask '}takes no new values of weights; use format "
            "hf, with the ticket's mask"
        )
    if mask is None:
        if kind != "hf":
            raise UserError(f"format {kind} needs a mask: give its file; without one, only format hf can be written")
    elif kind == "bool":
        from ltpipe.exporting.plain import export_plain

        return export_plain(mask, output)
    if checkpoint is None:
        raise UserError(f"format {kind} needs the weights: give --checkpoint FOLDER; format bool is the mask alone")
    if mask is None or kind == "hf":
        from ltpipe.exporting.checkpoint import export_checkpoint

        return export_checkpoint(checkpoint, mask, output, solution)
    if kind == "torch-prune":
        from ltpipe.exporting.torch_prune import export_torch_prune

        return export_torch_prune(checkpoint, mask, output)
    from ltpipe.exporting.smaller import export_smaller

    return export_smaller(checkpoint, mask, output)
