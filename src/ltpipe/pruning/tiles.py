"""Block sparsity: tiles of a matrix are kept or pruned whole."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ltpipe.pruning import matrix_kernels
from ltpipe.pruning.cutters import threshold_cutter
from ltpipe.pruning.histogram import KeyHistogram, count_keys, read_whole
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.masks import unpack
from ltpipe.pruning.scopes import groups
from ltpipe.pruning.scores import COPIED_BLOCK, FLOAT32_INFINITY, RankKeys
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
        return RankKeys(self.keys.names, shapes, 31, FLOAT32_INFINITY, self._blocks)

    def tile_sizes(self, name: str) -> np.ndarray:
        """Return the number of weights in each tile of a tensor, int64 [matrices, tiles down, tiles across]."""
        shape = self.keys.shapes[self.keys.names.index(name)]
        (count, *_), width = self.layout.stack(name, shape), self.layout.columns(name, shape)
        size = self.keys.sizes[self.keys.names.index(name)]
        edges = [_parts(size // count // width, self.height), _parts(width, self.width)]
        return np.broadcast_to(np.multiply.outer(*edges), (count, *map(len, edges)))

    def _blocks(self, name: str) -> Iterator[np.ndarray]:
        shape = self.keys.shapes[self.keys.names.index(name)]
        matrices = self.layout.matrices(name, shape, read_whole(self.keys, self.histogram, name))
        sums = np.concatenate([self._sums(matrix) for matrix in matrices])
        yield (sums.reshape(-1) / self.tile_sizes(name).reshape(-1)).astype(np.float32).view(np.uint32)

    def _sums(self, matrix: np.ndarray) -> np.ndarray:
        """Return the sum of the scores of each tile, computed a few rows of tiles at a time."""
        rows = max(1, COPIED_BLOCK // (self.height * matrix.shape[1])) * self.height
        bands = (self.keys.values(matrix[start : start + rows]) for start in range(0, len(matrix), rows))
        return np.concatenate([matrix_kernels.tile_sums(band, self.height, self.width) for band in bands])


@dataclass(frozen=True)
class TileCutter:
    """Prunes whole tiles. The kept tiles are known beforehand, one bit per tile."""

    tiled: TiledKeys
    tiles: Mapping[str, np.ndarray]

    @property
    def kept(self) -> Mapping[str, int]:
        """See `Cutter`."""
        return {name: int(self.tiled.tile_sizes(name)[self._kept_tiles(name)].sum()) for name in self.tiles}

    @property
    def tied(self) -> int:
        """See `Cutter`."""
        return 0

    def packed(self, name: str) -> Iterator[np.ndarray]:
        """See `Cutter`."""
        index = self.tiled.keys.names.index(name)
        kept = np.empty(self.tiled.keys.sizes[index], np.bool_)
        places = self.tiled.layout.matrices(name, self.tiled.keys.shapes[index], kept)
        for place, tiles in zip(places, self._kept_tiles(name), strict=True):
            tall = np.repeat(tiles, self.tiled.height, 0)[: place.shape[0]]
            place[...] = np.repeat(tall, self.tiled.width, 1)[:, : place.shape[1]]
        yield np.packbits(kept, bitorder="little")

    def _kept_tiles(self, name: str) -> np.ndarray:
        return unpack(self.tiles[name], self.tiled.tile_sizes(name).shape)


def tile_cutter(tiled: TiledKeys, sparsity: Sparsity) -> TileCutter:
    """Return the cutter that prunes exactly `round(sparsity * tiles)` tiles, those with the smallest mean score.

    It takes three passes over the weights: to count the tiles' keys, to find the threshold, and to cut.
    """
    tiles = tiled.rank_keys()
    cutter = threshold_cutter(tiles, count_keys(tiles, "", "tiles", None), groups("global", sparsity, tiles.sizes))
    return TileCutter(tiled, {name: np.concatenate(list(cutter.packed(name))) for name in tiles.names})


def _parts(size: int, step: int) -> np.ndarray:
    """Return the lengths of the parts of a line, the last perhaps shorter, int64 [ceil(size / step)]."""
    return np.minimum(step, size - np.arange(0, size, step))
