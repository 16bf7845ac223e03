"""Masks of live models: saved, compared, watched and judged, by the functions that the pipeline's stages call."""

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
from ltpipe.pruning.scopes import exact_fraction
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
    """Write a mask as a mask file (docs/mask-format.md): one bit a weight, checksums, written at once or not at all.

    With the model that it was made for, the file holds the fingerprint of its checkpoint: the pipeline's stages take
    the mask for a checkpoint that was loaded with these weights. Without it they take it for any model that has
    parameters of these names and shapes.

    Args:
        mask: names to bool tensors, True where a weight is kept, or the path of a file that `load_mask` reads.
        path: of the file to write.
        model: dense, not inside `masked`; every tensor is hashed, one at a time.
        criterion: that ranked the weights, if that is known.
        scope: in which they competed.
        sparsity: that was asked for; None takes the exact one.
        seed: of a stochastic criterion.

    Raises:
        UserError: it is no mask, not one of the model, or the sparsity is no number from 0 to 1.
    """
    facts: dict[str, Any] = {"criterion": criterion, "scope": scope, "seed": seed}
    if sparsity is not None:
        exact_fraction(sparsity)
        facts["sparsity"] = str(sparsity)
    packed = replace(as_mask(mask), **{key: value for key, value in facts.items() if value is not None})
    if not packed.bits:
        raise UserError("mask: it masks nothing; a file of it would say nothing")
    if model is not None:
        digests = {name: digest_of(tensor) for name, tensor in stored_tensors(model).items()}
        packed = adopted(packed, live_manifest(model, digests), "mask")
    write_whole_mask(Path(path), packed)


def compute_ticket_overlap(mask_a: AnyMask, mask_b: AnyMask) -> dict[str, float | int | None]:
    """What two masks of the same weights have in common, and what masks as dense as these have by chance.

    Args:
        mask_a: names to bool tensors, True where a weight is kept, or the path of a file that `load_mask` reads.
        mask_b: the other.

    Returns:
        weights, kept_a, kept_b, both: counts.
        jaccard: kept by both / kept by any (Jaccard 1901).
        hamming: share of the weights that exactly one of them keeps.
        spearman: rank correlation.
        jaccard_chance, hamming_chance, spearman_chance: of independent uniform masks of these densities.
        jaccard_chance_layerwise, hamming_chance_layerwise: of those with these densities in every tensor.
        None where a value is 0 / 0, the correlation with a mask that keeps everything for example.

    Raises:
        UserError: they are no masks, or of other weights.
    """
    parts = compare(as_mask(mask_a), as_mask(mask_b))
    whole, (jaccard, hamming) = total(parts.values()), layerwise_chance(parts)
    return {
        "weights": whole.size,
        "kept_a": whole.kept_a,
        "kept_b": whole.kept_b,
        "both": whole.both,
        "jaccard": whole.jaccard,
        "jaccard_chance": whole.jaccard_by_chance,
        "jaccard_chance_layerwise": jaccard,
        "hamming": whole.hamming,
        "hamming_chance": whole.hamming_by_chance,
        "hamming_chance_layerwise": hamming,
        "spearman": whole.spearman,
        "spearman_chance": None if whole.spearman is None else 0.0,
    }


class EarlyBirdDetector:
    """Says when the masks of a training have stopped changing (You et al. 2020, 1909.11957).

    A window of masks is kept, one bit a weight.

    Args:
        rule: `spearman` (correlation with the mask before, at least 0.95), `hamming` (distance to each of the four
            before, at most 0.1) or `jaccard` (index with each of the four before, at least 0.9).
        threshold: another limit than the rule's.
        window: another number of masks than the rule's (2, 5 and 5), the newest included.
        patience: the rule has to hold for so many masks in a row.
        chance_corrected: measure the distance from chance; see `ltpipe.analysis.early_bird.Detector`.

    Attributes:
        history: what every mask showed.

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
        """Look at the next mask; True if the masks have converged with it.

        Raises:
            UserError: it is no mask, or of other weights than the one before it.
        """
        self.history.append(self._watch.look(as_mask(mask)))
        return self.history[-1].converged


def validate_ticket(
    model: nn.Module, mask: AnyMask, *, sparsity: float | str | None = None, scope: str | None = None
) -> dict[str, Any]:
    """Whether a mask fits a model and keeps what it promises, and what of the model it has emptied.

    Args:
        model: on any device; its values are not looked at.
        mask: names to bool tensors, True where a weight is kept, or the path of a file that `load_mask` reads.
        sparsity: what it promises to prune; a file says it itself.
        scope: in which weights competed, likewise; `global` where only a sparsity is given.

    Returns:
        valid: False if it is not a mask of this model, or not what it promises.
        reasons: why not; empty for a valid one.
        warnings: what it has cut off though it is as promised: layer collapse, dead heads, dead rows.
        verdict: `sound`, `warnings` or `broken`, as the pipeline calls it.
        kept, total, sparsity: of the masked weights.
        dead_tensors, dead_blocks: names of those that keep nothing.
        rows, dead_rows, heads, dead_heads: how many there are, and keep nothing (heads None if not known).

    Raises:
        UserError: the mask is neither a mapping nor a file of a mask.
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
    """A mask that says of itself what the caller says of it."""
    if sparsity is not None:
        exact_fraction(sparsity)
        mask = replace(mask, sparsity=str(sparsity), scope=scope or ("global" if mask.scope == UNKNOWN else mask.scope))
    return mask if scope is None else replace(mask, scope=scope)
