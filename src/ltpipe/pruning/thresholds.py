"""Exact thresholds from histograms, ties broken by canonical order."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from ltpipe.pruning import kernels
from ltpipe.pruning.histogram import KeyHistogram, SparseCounts, changed
from ltpipe.pruning.scopes import Group
from ltpipe.pruning.scores import RankKeys
from ltpipe.runtime.errors import UserError

_FINE_BITS = 15


@dataclass(frozen=True)
class Cut:
    """How one tensor is pruned: every key below `threshold`, and the first `ties` keys equal to it.

    `pruned` is the number of weights this prunes in the tensor, and `tied` the number of its weights, pruned or kept,
    whose tie with others in their competition is broken by position.
    """

    threshold: int
    ties: int
    pruned: int
    tied: int


def exact_cuts(keys: RankKeys, histogram: KeyHistogram, plans: Sequence[Sequence[Group]]) -> list[list[Cut]]:
    """Return, for each plan (the groups of one sparsity), the cut of every tensor in its groups, in tensor order.

    15-bit keys do not require reading the weights. 31-bit keys need a second pass, shared by all plans, over the
    tensors whose boundary bin must be resolved.

    Raises:
        UserError: that pass finds other keys than were counted.
    """
    cut_groups = [[_find_bin(histogram.counts, group) for group in plan] for plan in plans]
    if histogram.bits == 15:
        return [_in_tensor_order(_spread(found, histogram.counts, 0) for found in plan) for plan in cut_groups]
    boundaries: dict[int, set[int]] = defaultdict(set)
    for found in (found for plan in cut_groups for found in plan if found.remaining):
        for member in found.group.members:
            if histogram.counts[member].at(found.bin):
                boundaries[member].add(found.bin)
    fine: dict[tuple[int, int], SparseCounts] = {}
    for member, coarse in boundaries.items():
        fine |= _count_fine(keys, histogram.counts[member], member, sorted(coarse))
    return [_in_tensor_order(_refine(found, histogram.counts, fine) for found in plan) for plan in cut_groups]


@dataclass(frozen=True)
class _Found:
    """A group's boundary bin, and how many of its keys are pruned. Earlier bins are pruned whole."""

    group: Group
    bin: int
    remaining: int


def _find_bin(counts: Sequence[SparseCounts], group: Group) -> _Found:
    if group.prune == 0:
        return _Found(group, 0, 0)
    width = 1 + max(int(counts[member].bins[-1]) for member in group.members if len(counts[member].bins))
    merged = np.zeros(width, np.int64)
    for member in group.members:
        merged[counts[member].bins] += counts[member].counts
    cumulative = np.cumsum(merged)
    boundary = int(np.searchsorted(cumulative, group.prune))
    return _Found(group, boundary, group.prune - int(cumulative[boundary] - merged[boundary]))


def _refine(
    found: _Found, counts: Sequence[SparseCounts], fine: Mapping[tuple[int, int], SparseCounts]
) -> dict[int, Cut]:
    """Resolve a coarse boundary bin with the histograms of the keys inside it."""
    nothing = SparseCounts(np.zeros(0, np.int64), np.zeros(0, np.int64))
    inside = [fine.get((member, found.bin), nothing) for member in range(len(counts))]
    within = _find_bin(inside, Group(found.group.members, found.remaining))
    cuts = _spread(within, inside, found.bin << _FINE_BITS)
    return {
        member: Cut(cut.threshold, cut.ties, cut.pruned + counts[member].below(found.bin), cut.tied)
        for member, cut in cuts.items()
    }


def _spread(found: _Found, counts: Sequence[SparseCounts], base: int) -> dict[int, Cut]:
    """Distribute a group's ties to its members in canonical order: among ties the earlier is pruned first."""
    left = found.remaining
    split = 0 < left < sum(counts[member].at(found.bin) for member in found.group.members)
    cuts = {}
    for member in found.group.members:
        equal = counts[member].at(found.bin)
        ties = min(left, equal)
        left -= ties
        pruned = counts[member].below(found.bin) + ties
        whole = ties == equal > 0
        cuts[member] = Cut(base + found.bin + whole, 0 if whole else ties, pruned, equal if split else 0)
    return cuts


def _count_fine(
    keys: RankKeys, counts: SparseCounts, member: int, coarse: Sequence[int]
) -> dict[tuple[int, int], SparseCounts]:
    chunks = keys.chunks(keys.names[member])
    dense = reduce(np.add, (kernels.count_fine(chunk, coarse) for chunk in chunks))
    if [counts.at(bin_) for bin_ in coarse] != dense.sum(1).tolist():
        raise UserError(changed(keys.names[member]))
    return {(member, bin_): SparseCounts.of(row) for bin_, row in zip(coarse, dense, strict=True)}


def _in_tensor_order(parts: Iterable[dict[int, Cut]]) -> list[Cut]:
    cuts = {member: cut for part in parts for member, cut in part.items()}
    return [cuts[member] for member in sorted(cuts)]
