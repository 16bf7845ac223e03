"""Block sparsity: tiles of a matrix are kept or pruned whole."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ltpipe.pruning import matrix_kernels
from ltpipe.pruning.cutters import Cutter, threshold_cutter
from ltpipe.pruning.histogram import KeyHistogram, histogram_of, read_whole
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.masks import unpack
from ltpipe.pruning.scopes import groups
from ltpipe.pruning.scores import COPIED_CHUNK, FLOAT32_INFINITY, RankKeys
from ltpipe.pruning.sparsity import Sparsity


@dataclass(frozen=True)
class TiledKeys:
    """Rank keys of tiles: the mean score of each, summed in float64 and rounded to float32."""

    keys: RankKeys
    histogram: KeyHistogram
    layout: Layout
    height: int
    width: int

    def rank_keys(self) -> RankKeys:
        """Return the keys of all tiles, [matrices, tiles down, tiles across] for each tensor."""
        shapes = tuple(self.tile_sizes(name).shape for name in self.keys.names)
        return RankKeys(self.keys.names, shapes, 31, FLOAT32_INFINITY, self._chunks)

    def tile_sizes(self, name: str) -> np.ndarray:
        """Return the number of weights in each tile of a tensor, int64 [matrices, tiles down, tiles across]."""
        shape = self.keys.shapes[self.keys.names.index(name)]
        (count, *_), width = self.layout.stack(name, shape), self.layout.columns(name, shape)
        size = self.keys.sizes[self.keys.names.index(name)]
        edges = [_parts(size // count // width, self.height), _parts(width, self.width)]
        return np.broadcast_to(np.multiply.outer(*edges), (count, *map(len, edges)))

    def _chunks(self, name: str) -> Iterator[np.ndarray]:
        shape = self.keys.shapes[self.keys.names.index(name)]
        matrices = self.layout.matrices(name, shape, read_whole(self.keys, self.histogram, name))
        sums = np.concatenate([self._sums(matrix) for matrix in matrices])
        yield (sums.reshape(-1) / self.tile_sizes(name).reshape(-1)).astype(np.float32).view(np.uint32)

    def _sums(self, matrix: np.ndarray) -> np.ndarray:
        """Return the sum of the scores of each tile, computed a few rows of tiles at a time."""
        rows = max(1, COPIED_CHUNK // (self.height * matrix.shape[1])) * self.height
        bands = (self.keys.values(matrix[start : start + rows]) for start in range(0, len(matrix), rows))
        return np.concatenate([matrix_kernels.tile_sums(band, self.height, self.width) for band in bands])


def tile_cutter(tiled: TiledKeys, sparsity: Sparsity) -> Cutter:
    """Return the cutter that prunes exactly `round(sparsity * tiles)` tiles, those with the smallest mean score.

    It takes three passes over the weights: to count the tiles' keys, to find the threshold, and to cut. The kept tiles
    are known beforehand, one bit per tile.
    """
    tiles = tiled.rank_keys()
    cutter = threshold_cutter(tiles, histogram_of(tiles, "", "tiles", None), groups("global", sparsity, tiles.sizes))
    bits = {name: np.concatenate(list(cutter.packed(name))) for name in tiles.names}

    def stay(name: str) -> np.ndarray:
        return unpack(bits[name], tiles.shapes[tiles.names.index(name)])

    def packed(name: str) -> Iterator[np.ndarray]:
        index = tiled.keys.names.index(name)
        whole = np.empty(tiled.keys.sizes[index], np.bool_)
        places = tiled.layout.matrices(name, tiled.keys.shapes[index], whole)
        for place, matrix in zip(places, stay(name), strict=True):
            tall = np.repeat(matrix, tiled.height, 0)[: place.shape[0]]
            place[...] = np.repeat(tall, tiled.width, 1)[:, : place.shape[1]]
        yield np.packbits(whole, bitorder="little")

    return Cutter({name: int(tiled.tile_sizes(name)[stay(name)].sum()) for name in tiles.names}, packed)


def _parts(size: int, step: int) -> np.ndarray:
    """Return the lengths of the parts of a line, the last perhaps shorter, int64 [ceil(size / step)]."""
    return np.minimum(step, size - np.arange(0, size, step))
