"""Masks of live models: save, compare, watch and validate them with the functions that the pipeline's stages call."""

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from ltpipe.analysis.early_bird import Detector, Rule, Step, Watch
from ltpipe.analysis.overlap import compare, layerwise_chance, total
from ltpipe.analysis.validation import validate
from ltpipe.api.packed import AnyMask, as_mask
from ltpipe.api.parameters import config_of, live_manifest
from ltpipe.checkpoints.contents import digest_of, stored_tensors
from ltpipe.pruning.foreign import UNKNOWN, adopted
from ltpipe.pruning.masks import Mask, write_whole_mask
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError


def save_mask(
    mask: AnyMask,
    path: str | PathLike[str],
    model: nn.Module | None = None,
    *,
    criterion: str | None = None,
    scope: str | None = None,
    sparsity: float | str | None = None,
    seed: int | None = None,
) -> None:
    """Write a mask atomically as a mask file (docs/mask-format.md): one bit per weight, with checksums.

    With `model`, the file stores the fingerprint of the model's checkpoint, and the pipeline's stages accept the mask
    for a checkpoint with these weights. Without it, they accept the mask for any model with parameters of these names
    and shapes.

    Args:
        mask: names to bool tensors, True where a weight is kept, or the path of a file for `load_mask`.
        path: the file to write.
        model: the model the mask was made for, dense and not inside `masked`; its tensors are hashed one at a time.
        criterion: the criterion that ranked the weights, if known.
        scope: the scope in which weights competed, if known.
        sparsity: the requested sparsity; None for the exact one.
        seed: the seed of a stochastic criterion.

    Raises:
        UserError: the mask is not a mask or does not fit the model, or the sparsity is not a number from 0 to 1.
    """
    facts: dict[str, Any] = {"criterion": criterion, "scope": scope, "seed": seed}
    if sparsity is not None:
        facts["sparsity"] = Sparsity.of(sparsity)
    packed = replace(as_mask(mask), **{key: value for key, value in facts.items() if value is not None})
    if not packed.bits:
        raise UserError("mask: it is empty; mask at least one tensor")
    if model is not None:
        digests = {name: digest_of(tensor) for name, tensor in stored_tensors(model).items()}
        packed = adopted(packed, live_manifest(model, digests), "mask")
    write_whole_mask(Path(path), packed)


def compute_ticket_overlap(mask_a: AnyMask, mask_b: AnyMask) -> dict[str, float | int | None]:
    """Compare two masks of the same weights, and give what masks of the same densities would share by chance.

    Args:
        mask_a: names to bool tensors, True where a weight is kept, or the path of a file for `load_mask`.
        mask_b: the other mask.

    Returns:
        weights, kept_a, kept_b, both: counts.
        jaccard: kept by both / kept by either (Jaccard 1901).
        hamming: share of the weights that exactly one mask keeps.
        spearman: rank correlation.
        jaccard_chance, hamming_chance, spearman_chance: for independent uniform masks of these densities.
        jaccard_chance_layerwise, hamming_chance_layerwise: the same with these densities in every tensor.
        A value is None if it is 0 / 0, such as the correlation with a mask that keeps everything.

    Raises:
        UserError: an argument is not a mask, or the masks are for different weights.
    """
    parts = compare(as_mask(mask_a), as_mask(mask_b))
    whole = total(parts.values())
    spearman_chance = None if whole.spearman is None else 0.0
    return {**whole.measures, **layerwise_chance(parts), "spearman_chance": spearman_chance}


class EarlyBirdDetector:
    """Detects when a training's masks stop changing (You et al. 2020, 1909.11957).

    It keeps a window of masks, one bit per weight.

    Args:
        rule: `spearman` (correlation with the previous mask, at least 0.95), `hamming` (distance to each of the
            previous four, at most 0.1) or `jaccard` (index with each of the previous four, at least 0.9).
        threshold: replaces the rule's threshold.
        window: replaces the rule's number of masks (2, 5 and 5), the newest included.
        patience: number of consecutive masks for which the rule must hold.
        chance_corrected: measure the distance from chance; see `ltpipe.analysis.early_bird.Detector`.

    Attributes:
        history: one step per mask.

    Raises:
        UserError: an argument is not allowed.
    """

    def __init__(
        self,
        rule: Rule = "spearman",
        threshold: float | None = None,
        window: int | None = None,
        patience: int = 1,
        chance_corrected: bool = False,
    ) -> None:
        self._watch = Watch(Detector(rule, threshold, window, patience, chance_corrected))
        self.history: list[Step] = []

    def update(self, mask: AnyMask) -> bool:
        """Add the next mask; return True if the masks have converged.

        Raises:
            UserError: the mask is not a mask, or has different weights from the previous one.
        """
        self.history.append(self._watch.look(as_mask(mask)))
        return self.history[-1].converged


def validate_ticket(
    model: nn.Module, mask: AnyMask, *, sparsity: float | str | None = None, scope: str | None = None
) -> dict[str, Any]:
    """Check that a mask fits a model and has its declared sparsity, and find the parts of the model it empties.

    Args:
        model: on any device; its values are not read.
        mask: names to bool tensors, True where a weight is kept, or the path of a file for `load_mask`.
        sparsity: the declared sparsity; a file declares its own.
        scope: the scope in which weights competed; a file declares its own. `global` if only a sparsity is given.

    Returns:
        valid: False if the mask does not belong to this model or does not match its declaration.
        reasons: why it is invalid; empty for a valid mask.
        warnings: parts that a valid mask cuts off: layer collapse, dead heads, dead rows.
        verdict: the pipeline's verdict, `sound`, `warnings` or `broken`.
        kept, total, sparsity: counts and sparsity of the masked weights.
        dead_tensors, dead_blocks: names of tensors and blocks that keep nothing.
        rows, dead_rows, heads, dead_heads: total numbers, and numbers that keep nothing (heads None if unknown).

    Raises:
        UserError: the mask is neither a mapping nor a mask file.
    """
    manifest = live_manifest(model)
    try:
        given = as_mask(mask)
        found = adopted(_promising(given, sparsity, scope), manifest, "mask")
    except UserError as error:
        if not isinstance(mask, Mapping):
            raise
        return {"valid": False, "reasons": [str(error)], "warnings": [], "verdict": "broken"}
    verdict = validate(found, manifest, config_of(model))
    structure = verdict.structure
    return {
        "valid": verdict.verdict != "broken",
        "reasons": list(verdict.broken),
        "warnings": list(verdict.warnings),
        "verdict": verdict.verdict,
        "kept": found.total_kept,
        "total": found.total,
        "sparsity": 1 - found.total_kept / found.total if found.total else 0.0,
        **({} if structure is None else vars(structure)),
    }


def _promising(mask: Mask, sparsity: float | str | None, scope: str | None) -> Mask:
    """Return the mask with the caller's sparsity and scope as its own."""
    if sparsity is not None:
        mask = replace(
            mask,
            sparsity=Sparsity.of(sparsity),
            scope=scope or ("global" if mask.scope == UNKNOWN else mask.scope),
        )
    return mask if scope is None else replace(mask, scope=scope)
