"""Check that a mask is what it claims to be, and find the parts of the model that it cuts off."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ltpipe.analysis.overlap import compare, total
from ltpipe.analysis.promises import broken_promises
from ltpipe.analysis.structure import live_heads, live_rows
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.pruning.foreign import UNKNOWN, read_any_mask
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.masks import Mask
from ltpipe.pruning.scopes import Scope, scope_named
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.progress import track

_UNKNOWN = "scope '{}' is unknown, so its counts cannot be checked"
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Structure:
    """Parts of the model in which a mask keeps nothing.

    Attributes:
        dead_tensors: names of tensors that keep nothing.
        dead_blocks: names of the model's blocks that keep none of their prunable weights.
        rows, dead_rows: output rows of all tensors, and those that keep nothing.
        heads, dead_heads: heads of all query, key and value projections, and those that keep nothing; None if the
            size of a head is unknown.
    """

    dead_tensors: tuple[str, ...]
    dead_blocks: tuple[str, ...]
    rows: int
    dead_rows: int
    heads: int | None
    dead_heads: int | None


@dataclass(frozen=True)
class MaskVerdict:
    """The verdict on one mask.

    Attributes:
        mask: without its bits.
        broken: reasons why it is not what it claims to be.
        warnings: reasons why it may work badly although it is what it claims to be.
        structure: parts of the model that it empties; None if it is not a mask of the model.
    """

    mask: Mask
    broken: tuple[str, ...]
    warnings: tuple[str, ...]
    structure: Structure | None

    @property
    def verdict(self) -> Literal["sound", "warnings", "broken"]:
        """The worst of the findings."""
        return "broken" if self.broken else "warnings" if self.warnings else "sound"


def head_size(config: Mapping[str, Any]) -> int | None:
    """Return the rows of one attention head from a model's configuration; None if it lacks them."""
    config = config.get("text_config") or config
    if config.get("head_dim"):
        return int(config["head_dim"])
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return hidden // heads if hidden and heads else None


def validate_files(paths: Sequence[Path], checkpoint: Checkpoint) -> list[MaskVerdict]:
    """Validate mask files of one model, two of them open at a time.

    Raises:
        UserError: a file is missing.
        DamagedFileError: a file is no mask, or damaged.
    """
    config = checkpoint.config
    verdicts: list[MaskVerdict] = []
    links = track(sorted(map(_link, paths)), "validating", "mask")
    for _, chain in groupby(links, key=lambda link: link[0]):
        denser: Mask | None = None
        for _, _, path in chain:
            mask = read_any_mask(path)
            verdicts.append(validate(mask, checkpoint.manifest, config, denser))
            denser = mask
    return verdicts


def validate(
    mask: Mask, manifest: Manifest, config: Mapping[str, Any] | None = None, denser: Mask | None = None
) -> MaskVerdict:
    """Validate one mask.

    Args:
        mask: the mask to check.
        manifest: manifest of its model.
        config: configuration of that model, which locates heads and other units; without it they are not checked.
        denser: the mask of the next smaller sparsity of the same criterion, scope and seed, if any.
    """
    stranger = list(_stranger(mask, manifest))
    if stranger:
        return MaskVerdict(replace(mask, bits={}), tuple(stranger), (), None)
    broken, warnings = [*_stray_bits(mask)], []
    scope = _scope(mask)
    if mask.scope == UNKNOWN:
        pass  # it promises nothing
    elif scope is None:
        warnings.append(_UNKNOWN.format(mask.scope))
    else:
        broken += broken_promises(mask, scope, manifest, config)
    if denser is not None and denser.shapes != mask.shapes:
        warnings.append(f"prunes other tensors than sparsity {denser.sparsity}")
    elif denser is not None:
        overlap = total(compare(mask, denser).values())
        if overlap.both < overlap.kept_a:
            alone = f"keeps {overlap.kept_a - overlap.both:,} weights that sparsity {denser.sparsity} does not"
            (broken if scope and scope.nested else warnings).append(f"not nested: {alone}")
    found = structure(mask, manifest, head_size(config) if config else None)
    return MaskVerdict(replace(mask, bits={}), tuple(broken), (*warnings, *_damage(mask, found, scope)), found)


def validate_alone(mask: Mask) -> MaskVerdict:
    """Validate a mask without its model: total counts, counts per tensor, and tensors that keep nothing."""
    dead = tuple(name for name, kept in mask.kept.items() if not kept)
    found = Structure(dead, dead_blocks=(), rows=0, dead_rows=0, heads=None, dead_heads=None)
    scope = _scope(mask)
    broken = [*_stray_bits(mask), *(broken_promises(mask, scope, None) if scope else ())]
    unknown = [] if scope or mask.scope == UNKNOWN else [_UNKNOWN.format(mask.scope)]
    return MaskVerdict(replace(mask, bits={}), tuple(broken), (*unknown, *_damage(mask, found, scope)), None)


def structure(mask: Mask, manifest: Manifest, head_size: int | None = None) -> Structure:
    """Count what a mask of this model empties, streaming its bits."""
    rows = dead_rows = heads = dead_heads = 0
    blocks: dict[str, int] = {}
    layout = Layout.of(manifest)
    for name, bits in mask.bits.items():
        live = live_rows(bits, layout.stack(name, mask.shapes[name]), name in layout.inputs_first)
        rows, dead_rows = rows + live.size, dead_rows + int(live.size - live.sum())
        alive = live_heads(live, head_size) if head_size and _is_projection(name) else None
        if alive is not None:
            heads, dead_heads = heads + alive.size, dead_heads + int(alive.size - alive.sum())
        if (block := manifest.block_of(name)) is not None:
            blocks[block] = blocks.get(block, 0) + mask.kept[name]
    return Structure(
        dead_tensors=tuple(name for name, kept in mask.kept.items() if not kept),
        dead_blocks=tuple(block for block, kept in blocks.items() if not kept),
        rows=rows,
        dead_rows=dead_rows,
        heads=heads or None,
        dead_heads=dead_heads if heads else None,
    )


def _link(path: Path) -> tuple[tuple[str, str, int], int, Path]:
    """Return what masks that should be nested have in common, this one's place among them, and its path."""
    mask = read_any_mask(path)
    lineage = (mask.criterion, mask.scope, -1 if mask.seed is None else mask.seed)
    return lineage, mask.sparsity.count(mask.total), path


def _stranger(mask: Mask, manifest: Manifest) -> Iterator[str]:
    """Yield reasons why the mask does not belong to this model."""
    if mask.checkpoint and mask.checkpoint != manifest.fingerprint:
        yield f"wrong model: made from checkpoint {mask.checkpoint[:12]}, not {manifest.fingerprint[:12]}"
    for name, shape in mask.shapes.items():
        entry = manifest.tensors.get(name)
        if entry is None or entry.buffer:
            yield f"wrong model: '{name}' is not one of its parameters"
        elif entry.shape != shape:
            yield f"wrong model: '{name}' has shape {list(entry.shape)}, but {list(shape)} in the mask"


def _stray_bits(mask: Mask) -> Iterator[str]:
    for name, bits in mask.bits.items():
        size = prod(mask.shapes[name])
        if size % 8 and bits[-1] >> np.uint8(size % 8):
            yield f"'{name}' has bits set after its last weight"


def _scope(mask: Mask) -> Scope | None:
    """Return the mask's scope; None if it no longer exists."""
    try:
        return scope_named(mask.scope)
    except UserError:
        return None


def _damage(mask: Mask, found: Structure, scope: Scope | None) -> Iterator[str]:
    """Yield what the mask empties although its scope does not ask for that."""
    if not mask.total_kept:
        yield "keeps nothing"
        return
    if scope is not None and scope.empties:
        return
    if found.dead_blocks:
        yield f"layer collapse: nothing kept in {_listed(found.dead_blocks)}"
    dead = [name for name in found.dead_tensors if not any(name.startswith(block + ".") for block in found.dead_blocks)]
    if dead:
        yield f"layer collapse: nothing kept in {_listed(dead)}"
    if found.dead_heads:
        yield f"{found.dead_heads:,} of {found.heads:,} heads of query, key and value projections keep nothing"
    if found.dead_rows:
        yield f"{found.dead_rows:,} of {found.rows:,} output rows keep nothing"


def _is_projection(name: str) -> bool:
    return any(f".{projection}." in name for projection in _PROJECTIONS)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
