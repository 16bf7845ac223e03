"""A mask file straight from rank keys, without a checkpoint."""

from pathlib import Path

from ltpipe.pruning.build import write_mask
from ltpipe.pruning.by_scope import cutter_for
from ltpipe.pruning.histogram import KeyHistogram
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.scores import RankKeys
from ltpipe.pruning.sparsity import Sparsity


def write_cut(
    path: Path, keys: RankKeys, histogram: KeyHistogram, scope: str, sparsity: str, layout: Layout | None = None
) -> int:
    """Write the mask of counted keys; return the number of weights kept."""
    wanted = Sparsity.of(sparsity)
    return write_mask(path, histogram, scope, wanted, cutter_for(scope, wanted, keys, histogram, layout or Layout()))
