"""A source's model as transformers builds it, or one line that says why it cannot."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ltpipe.checkpoints.gguf import check_arrived, check_whole
from ltpipe.checkpoints.plainfolder import check_folder, unloadable
from ltpipe.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


def live_model(place: Path, dtype: str, key: str) -> "PreTrainedModel":
    """The model of a local source, on the CPU, in evaluation mode.

    Args:
        place: folder or GGUF file.
        dtype: as `load.load_checkpoint` takes it.
        key: configuration key of the source, for messages.

    Raises:
        UserError: it cannot be built, or not with all of its weights.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # what it warns of is refused below, in one line
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    where = {"gguf_file": place.name} if place.is_file() else {}
    if place.is_file() and place.suffix != ".gguf":
        raise UserError(f"{key}: '{place}' is no model; allowed are a .gguf file and a folder with safetensors")
    if where:
        check_whole(place, key)
    else:
        check_folder(place, key)
    kept = getattr(torch, dtype) if dtype != "auto" else torch.float32 if where else "auto"
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            place.parent if where else place,
            dtype=kept,
            use_safetensors=None if where else True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused below by name
            **where,
        )
    except Exception as error:  # damaged configurations and GGUF files raise anything, struct.error included
        raise UserError(unloadable(place, error, key)) from None
    for problem in ("missing_keys", "mismatched_keys"):
        if report.get(problem):
            names = sorted(str(name[0] if isinstance(name, tuple) else name) for name in report[problem])
            raise UserError(
                f"{key}: '{place}' has {problem.replace('_', ' ')} {', '.join(names[:3])}{' …' * (len(names) > 3)}; "
                "it is incomplete or does not fit its configuration"
            )
    if unused := sorted(report.get("unexpected_keys") or ()):
        logger.warning(
            "%s: %d tensors of '%s' are no part of the model and are left out: %s%s",
            key,
            len(unused),
            place,
            ", ".join(unused[:3]),
            " …" * (len(unused) > 3),
        )
    if where:
        check_arrived(place, model, key)
    return model.eval()
