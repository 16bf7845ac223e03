"""A source's model as transformers builds it, or a one-line error that says why it cannot."""

import logging
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ltpipe.checkpoints.gguf import check_arrived, check_whole
from ltpipe.checkpoints.plainfolder import PlainFolder, read_folder, unloadable
from ltpipe.runtime.errors import UserError, few

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_WHOLE_NUMBERS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")


def live_model(place: Path, dtype: str, key: str) -> "PreTrainedModel":
    """Return the model of a local source, on the CPU, in evaluation mode.

    For a checkpoint that also reads images or sound, this is the language model, if transformers has a class for it.

    Args:
        place: folder or GGUF file.
        dtype: as in `load.load_checkpoint`.
        key: configuration key of the source, for error messages.

    Raises:
        UserError: the model cannot be built, or lacks some of its weights.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # what it warns about is rejected below, in one line
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    if place.is_dir():
        model = _of_folder(read_folder(place, key), dtype, key)
    elif place.suffix == ".gguf":
        model = _of_gguf(place, dtype, key)
    else:
        raise UserError(f"{key}: '{place}' is not a model; use a .gguf file or a folder with safetensors")
    return model.eval()


def converted(model: "PreTrainedModel") -> set[str]:
    """Return the parameters that transformers fuses, splits or turns as it loads them."""
    from transformers.conversion_mapping import WeightConverter, get_model_conversion_mapping

    conversions = [each for each in get_model_conversion_mapping(model) if isinstance(each, WeightConverter)]
    patterns = [re.compile(pattern) for each in conversions for pattern in each.target_patterns]
    return {name for name, _ in model.named_parameters() if any(pattern.search(name) for pattern in patterns)}


def _of_gguf(path: Path, dtype: str, key: str) -> "PreTrainedModel":
    check_whole(path, key)
    kept = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    model, unused = _from_pretrained(path, key, path.parent, gguf_file=path.name, dtype=kept)
    _warn_of_unused(unused, path, key)
    check_arrived(path, model, key)
    return model


def _of_folder(folder: PlainFolder, dtype: str, key: str) -> "PreTrainedModel":
    place = folder.path
    eights = [name for name, spec in folder.specs.items() if spec.dtype.startswith("F8")]
    if eights and dtype == "auto" and folder.config.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise UserError(
            f"{key}: '{eights[0]}' in '{place}' is {folder.specs[eights[0]].dtype}, which no model computes in; set "
            "the model's dtype to bfloat16 or float32"
        )
    model, unused = _from_pretrained(
        place,
        key,
        place,
        config=folder.config,
        key_mapping=dict(folder.renames) or None,
        variant=folder.variant,
        dtype="auto" if dtype == "auto" else getattr(torch, dtype),
        use_safetensors=True,
    )
    _check_no_codes(folder, model, unused if eights else (), key)
    if lost := {ours for name, ours in _renamed(folder).items() if name != ours}.intersection(unused):
        raise UserError(f"{key}: text weight '{min(lost)}' in '{place}' is not part of {type(model).__name__}")
    _warn_of_unused(unused, place, key)
    return model


def _check_no_codes(folder: PlainFolder, model: "PreTrainedModel", unused: Collection[str], key: str) -> None:
    """Reject quantised values, which are meaningless without their scales; transformers would take them unscaled."""
    floating = {name for name, weight in model.named_parameters() if weight.is_floating_point()}
    for name, ours in _renamed(folder).items():
        if (kind := folder.specs[name].dtype) in _WHOLE_NUMBERS and ours in floating:
            raise UserError(
                f"{key}: '{name}' in '{folder.path}' is {kind}, so it is quantised; load an unquantised model"
            )
    if scales := [name for name in unused if "scale" in name]:
        raise UserError(
            f"{key}: '{folder.path}' has float8 weights with scales ({scales[0]}), so it is quantised; load an "
            "unquantised model"
        )


def _renamed(folder: PlainFolder) -> dict[str, str]:
    """Return the text model's name for each tensor in a folder's files."""

    def ours(name: str) -> str:
        for pattern, prefix in folder.renames.items():
            name = re.sub(pattern, prefix, name)
        return name

    return {name: ours(name) for name in folder.specs}


def _from_pretrained(
    place: Path, key: str, folder: Path, *, use_safetensors: bool | None = None, **options: object
) -> tuple["PreTrainedModel", list[str]]:
    """Return a model with all of its weights, and the names of weights that do not belong to it.

    From a folder only safetensors may be read; for a GGUF file `use_safetensors` is left unset.
    """
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=use_safetensors,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, and rejected below by name
            **options,
        )
    except Exception as error:  # damaged configurations and GGUF files raise anything, struct.error included
        raise UserError(unloadable(place, error, key)) from None
    for problem in ("missing_keys", "mismatched_keys"):
        if report.get(problem):
            names = sorted(str(name[0] if isinstance(name, tuple) else name) for name in report[problem])
            raise UserError(
                f"{key}: '{place}' has {problem.replace('_', ' ')} {few(names)}; "
                "it is incomplete or does not match its configuration"
            )
    return model, sorted(report.get("unexpected_keys") or ())


def _warn_of_unused(names: Sequence[str], place: Path, key: str) -> None:
    if names:
        logger.warning(
            "%s: %d tensors of '%s' are not part of the model and are left out: %s", key, len(names), place, few(names)
        )
