"""Descriptions of one mask or a pair: what they keep, tensor by tensor."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from ltpipe.analysis.overlap import compare, layerwise_chance, total
from ltpipe.analysis.validation import MaskVerdict, validate, validate_alone
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.inspection.description import Description, Listing, describe_file
from ltpipe.pruning.foreign import read_any_mask
from ltpipe.pruning.masks import Mask


def describe_mask(path: Path, checkpoint: Path | None = None) -> Description:
    """Describe what a mask keeps and whether it is valid, by itself or on its model's canonical checkpoint folder.

    Raises:
        UserError: a file is missing, or has the wrong kind.
    """
    mask = read_any_mask(path)
    ours = TensorFile(path).metadata.get("kind") == "mask"
    facts = {
        "criterion": mask.criterion,
        "scope": mask.scope,
        "sparsity": mask.sparsity.text,
        "seed": mask.seed,
        **{f"options of {what}": json.dumps(options) for what, options in mask.options.items()},
        "kept": mask.total_kept,
        "prunable": mask.total,
        "pruned share": _share(mask.total - mask.total_kept, mask.total),
        "tensors": len(mask.bits),
        "checkpoint": mask.checkpoint or None,
    }
    facts |= _judged(mask, checkpoint) if ours else {"verdict": "not checked: a plain file declares no sparsity"}
    kind = "mask" if ours else "plain mask"
    return describe_file(path, kind, facts, Listing.of("by tensor", _by_tensor(mask)))


def describe_pair(a: Path, b: Path) -> Description:
    """Describe what two masks share, and what they would share by chance.

    Raises:
        UserError: the masks are for different weights.
    """
    one, other = read_any_mask(a), read_any_mask(b)
    parts = compare(one, other)
    facts: dict[str, Any] = {"A": f"{a} ({_named(one)})", "B": f"{b} ({_named(other)})"}
    if one.checkpoint and other.checkpoint and one.checkpoint != other.checkpoint:
        facts["checkpoints"] = f"differ: {one.checkpoint[:12]} and {other.checkpoint[:12]}"
    facts |= total(parts.values()).measures | layerwise_chance(parts)
    rows = ({"tensor": name, **part.measures} for name, part in parts.items())
    return describe_file(a, f"compared with {b}", facts, Listing.of("by tensor", rows))


def _judged(mask: Mask, checkpoint: Path | None) -> Mapping[str, Any]:
    if checkpoint is None:
        verdict = validate_alone(mask)
        return _verdict(verdict) | {
            "checked": "only the mask; use --checkpoint FOLDER to check for dead rows and heads too"
        }
    model = Checkpoint.open(checkpoint)
    verdict = validate(mask, model.manifest, model.config)
    facts = _verdict(verdict)
    if (found := verdict.structure) is not None:
        facts |= {"dead rows": found.dead_rows, "rows": found.rows, "dead heads": found.dead_heads}
        facts |= {"heads": found.heads, "dead blocks": len(found.dead_blocks)}
    return facts


def _verdict(verdict: MaskVerdict) -> dict[str, Any]:
    return {"verdict": verdict.verdict, "reasons": [*verdict.broken, *verdict.warnings]}


def _by_tensor(mask: Mask) -> list[dict[str, Any]]:
    return [
        {
            "tensor": name,
            "shape": " × ".join(map(str, shape)),
            "kept": mask.kept[name],
            "weights": prod(shape),
            "pruned share": _share(prod(shape) - mask.kept[name], prod(shape)),
        }
        for name, shape in mask.shapes.items()
    ]


def _named(mask: Mask) -> str:
    seed = "" if mask.seed is None else f", seed {mask.seed}"
    return f"{mask.criterion} {mask.scope} {mask.sparsity}{seed}"


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
