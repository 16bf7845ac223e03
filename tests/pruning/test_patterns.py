"""Every scope against an oracle that sorts: |w| as float64, stable argsort, the first k of each competition go."""

import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import prod
from pathlib import Path

import numpy as np
import pytest
from cutting import write_cut
from hypothesis import given, settings
from hypothesis import strategies as st

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.header import TensorSpec
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.pruning import kernels
from ltpipe.pruning.allocation import by_shares, score_sums
from ltpipe.pruning.allocations.erk import erk
from ltpipe.pruning.allocations.owl import outlier_ratios, owl
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.by_scope import cutter_for
from ltpipe.pruning.histogram import histogram_of, make_histogram
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.masks import read_mask, unpack
from ltpipe.pruning.scopes import Units, scopes
from ltpipe.pruning.scores import RankKeys, weight_keys
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError

PROPERTY = settings(max_examples=60, deadline=None)

# Names in byte order. Two blocks, one tensor outside; every kind of matrix that there is.
SHAPES = {
    "h.0.conv": (8, 12),
    "h.0.fc": (24, 40),
    "h.1.experts": (3, 8, 16),
    "h.1.filters": (8, 2, 4),
    "h.10.gate": (8, 64),
    "wte": (16, 8),
}
LAYOUT = Layout(
    {"h.1.experts": (3, 8, 16)}, {"h.0.conv"}, {"h.1.filters": "Conv1d", "h.1.experts": "MixtralExperts"}, {"h": 0}
)
BLOCKS = ["0", "0", "1", "1", "10", None]
FORMATS = {"F16": np.float16, "BF16": np.uint16, "F32": np.float32}

Arrays = dict[str, np.ndarray]


class Held:
    """Weights in memory: float32 arrays, handed out in a dtype that holds them exactly."""

    path = "memory"

    def __init__(self, arrays: Arrays, dtype: str) -> None:
        self.arrays, self.dtype = arrays, dtype

    def spec(self, name: str) -> TensorSpec:
        return TensorSpec(self.dtype, self.arrays[name].shape, 0, 0)

    def array(self, name: str) -> np.ndarray:
        if self.dtype == "BF16":
            return (self.arrays[name].view(np.uint32) >> 16).astype(np.uint16)
        return self.arrays[name].astype(FORMATS[self.dtype])


def keys_of(arrays: Arrays, dtype: str = "F32", criterion: str = "magnitude") -> RankKeys:
    return weight_keys(criterion, Held(arrays, dtype), sorted(arrays), 3 if criterion == "random" else None)


def kept_by(arrays: Arrays, scope: str, sparsity: str, dtype: str = "F32", layout: Layout = LAYOUT) -> Arrays:
    """The mask as it is read back from its file, which checks that every tensor keeps what it promises."""
    keys = keys_of(arrays, dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mask")
        kept = write_cut(path, keys, histogram_of(keys, "c", "magnitude", None), scope, sparsity, layout)
        mask = read_mask(path)
        assert mask.total_kept == kept
        return {name: unpack(bits, mask.shapes[name]).copy() for name, bits in mask.bits.items()}


def weights(seed: int, levels: int = 9, shapes: dict[str, tuple[int, ...]] = SHAPES) -> Arrays:
    """Small whole numbers of either sign: all formats and sums hold them exactly, and nearly all are ties."""
    random = np.random.default_rng(seed)
    return {
        name: random.integers(-levels, levels + 1, shape).astype(np.float32) * (1 + index % 3)
        for index, (name, shape) in enumerate(shapes.items())
    }


def cut(scores: np.ndarray, prune: int) -> np.ndarray:
    """One competition: a flat array, and which of it stay."""
    kept = np.ones(scores.size, bool)
    kept[np.argsort(np.abs(scores.reshape(-1)), kind="stable")[:prune]] = False
    return kept.reshape(scores.shape)


def rows_of(name: str, array: np.ndarray) -> np.ndarray:
    """[rows, inputs], copied; by hand for each of the shapes above."""
    if name == "h.0.conv":
        return array.T.copy()
    if name == "h.1.filters":
        return array.reshape(8, 8).copy()
    return array.reshape(-1, array.shape[-1]).copy()


def unrowed(name: str, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return rows.T.copy() if name == "h.0.conv" else rows.reshape(shape)


def evenly(scores: np.ndarray, prune: int) -> np.ndarray:
    """Rows cut one by one, earlier rows one more where it does not come out."""
    each, extra = divmod(prune, len(scores))
    return np.stack([cut(row, each + (index < extra)) for index, row in enumerate(scores)])


def lamp_counts(arrays: Arrays, sparsity: str) -> list[int]:
    """LAMP as the paper writes it, quadratic."""
    scores = []
    for name in sorted(arrays):
        squares = np.sort(np.abs(arrays[name].reshape(-1).astype(np.float64))) ** 2
        scores.append([square / max(squares[index:].sum(), 1) for index, square in enumerate(squares)])
    kept = cut(np.float32(np.concatenate(scores)), round(Fraction(sparsity) * sum(map(len, scores))))
    borders = np.cumsum([len(part) for part in scores])[:-1]
    return [int((~part).sum()) for part in np.split(kept, borders)]


def allocated(arrays: Arrays, source: str, sparsity: str) -> list[int]:
    sizes = [array.size for array in arrays.values()]
    prune = round(Fraction(sparsity) * sum(sizes))
    magnitudes = {name: np.abs(array).astype(np.float64) for name, array in arrays.items()}
    if source == "erk":
        return erk(
            [(1, *array.shape) if name != "h.1.experts" else array.shape for name, array in arrays.items()], prune
        )
    if source == "importance":
        return by_shares(sizes, [array.sum() for array in magnitudes.values()], prune)
    if source == "lamp":
        return lamp_counts(arrays, sparsity)
    ratios = {}
    for block in ("0", "1", "10"):
        flat = np.concatenate([magnitudes[name].ravel() for name in arrays if name.startswith(f"h.{block}.")])
        ratios[block] = Fraction(int((flat > 5 * flat.mean()).sum()), flat.size)
    return owl(sizes, BLOCKS, [ratios.get(block) for block in BLOCKS], Fraction(sparsity), prune)


def oracle(arrays: Arrays, scope: str, sparsity: str) -> Arrays:
    source, _, by_row = scope.partition("-")
    if source == "row":
        return {
            name: unrowed(name, np.stack([cut(row, round(Fraction(sparsity) * row.size)) for row in rows]), array.shape)
            for name, array in arrays.items()
            for rows in [rows_of(name, array)]
        }
    counts = allocated(arrays, source, sparsity)
    if not by_row:
        return {name: cut(array, count) for (name, array), count in zip(arrays.items(), counts, strict=True)}
    return {
        name: unrowed(name, evenly(rows_of(name, array), count), array.shape)
        for (name, array), count in zip(arrays.items(), counts, strict=True)
    }


def assert_same(actual: Arrays, expected: Arrays) -> None:
    assert list(actual) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    kernels.use_threads(1)
    yield
    kernels.use_threads(2)


OF_WEIGHTS = [name for name, scope in scopes().items() if not isinstance(scope, Units)]
NEW = sorted(set(OF_WEIGHTS) - {"global", "layer"})


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("scope", NEW)
def test_mask_equals_the_oracle(scope: str, dtype: str) -> None:
    for seed, sparsity in enumerate(["0", "0.13", "0.5", "0.777", "1"]):
        arrays = weights(seed)
        arrays["h.0.fc"][:2] *= 16  # outliers, for OWL
        kept = kept_by(arrays, scope, sparsity, dtype)
        assert_same(kept, oracle(arrays, scope, sparsity))
        if scope != "row":
            total = sum(array.size for array in arrays.values())
            assert total - sum(array.sum() for array in kept.values()) == round(Fraction(sparsity) * total)


@PROPERTY
@given(st.integers(0, 1000), st.sampled_from(NEW), st.integers(0, 100), st.sampled_from([1, 3, 60]))
def test_any_sparsity_equals_the_oracle(seed: int, scope: str, percent: int, levels: int) -> None:
    arrays = weights(seed, levels)
    sparsity = f"{percent / 100:.2f}"
    assert_same(kept_by(arrays, scope, sparsity, "BF16"), oracle(arrays, scope, sparsity))


def test_keys_of_31_bits_are_cut_to_the_last_of_them() -> None:
    """Rows whose keys differ in one digit of eight bits only, each digit in turn, and the top bit is no part of it."""
    random = np.random.default_rng(4)
    for shift in (0, 8, 16, 23):
        patterns = (random.integers(0, 128, (7, 300)).astype(np.uint32) << shift) + 0x00800000
        patterns |= random.integers(0, 2, (7, 300)).astype(np.uint32) << 31
        arrays = {"w": patterns.view(np.float32)}
        kept = kept_by(arrays, "row", "0.43")["w"]
        np.testing.assert_array_equal(kept, np.stack([cut(row, 129) for row in arrays["w"]]))


def test_lamp_of_a_tensor_in_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = weights(8)
    monkeypatch.setattr("ltpipe.pruning.allocations.lamp.COPIED_CHUNK", 64)
    for dtype in FORMATS:
        assert_same(kept_by(arrays, "lamp", "0.6", dtype), oracle(arrays, "lamp", "0.6"))


# --- N:M ---


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(("keep", "group"), [(2, 4), (1, 4), (4, 8), (1, 2), (7, 8), (3, 8)])
def test_n_of_m_equals_an_independent_implementation(keep: int, group: int, dtype: str) -> None:
    arrays = weights(group + keep)
    kept = kept_by(arrays, f"{keep}of{group}", str(1 - keep / group), dtype)
    for name, array in arrays.items():
        scores, bits = np.abs(rows_of(name, array)), rows_of(name, kept[name])
        for row in range(len(scores)):
            for start in range(0, scores.shape[1], group):
                run = scores[row, start : start + group]
                largest = sorted(range(group), key=lambda place, run=run: (-run[place], -place))[:keep]
                assert set(np.flatnonzero(bits[row, start : start + group])) == set(largest)


def test_long_runs_are_cut_digit_by_digit_as_short_ones_by_rank() -> None:
    arrays = {"w": np.random.default_rng(1).integers(-9, 9, (6, 320)).astype(np.float32)}
    for group in (32, 40, 64, 320):
        kept = kept_by(arrays, f"{group // 4}of{group}", "0.75")["w"].reshape(-1, group)
        expected = [cut(run, group - group // 4) for run in arrays["w"].reshape(-1, group)]
        np.testing.assert_array_equal(kept, np.stack(expected))


def test_a_third_is_asked_for_as_the_nearest_float() -> None:
    arrays = {"w": np.arange(12, dtype=np.float32).reshape(2, 6)}
    kept = kept_by(arrays, "2of3", repr(1 / 3))["w"]
    np.testing.assert_array_equal(kept, [[0, 1, 1, 0, 1, 1]] * 2)


@pytest.mark.parametrize("sparsity", ["0.3", "0", "1", "0.5000001"])
def test_n_of_m_has_one_sparsity(sparsity: str) -> None:
    with pytest.raises(UserError, match=rf"'2of4' prunes exactly 0\.5, not {sparsity}") as caught:
        kept_by(weights(0), "2of4", sparsity)
    assert "\n" not in str(caught.value)


def test_n_of_m_names_the_tensor_that_it_does_not_divide() -> None:
    with pytest.raises(UserError, match=r"'h\.0\.conv' has 8 input columns.* multiple of 16"):
        kept_by(weights(0), "8of16", "0.5")


# --- tiles ---


def tiles_of(array: np.ndarray, height: int, width: int) -> list[tuple[slice, slice]]:
    rows, columns = array.shape
    return [
        (slice(top, min(top + height, rows)), slice(left, min(left + width, columns)))
        for top in range(0, rows, height)
        for left in range(0, columns, width)
    ]


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5), (1, 1), (16, 16), (2, 64), (100, 7)])
def test_tiles_of_the_smallest_mean_go_whole(height: int, width: int, dtype: str) -> None:
    arrays = weights(height)
    for sparsity in ("0", "0.3", "0.61", "1"):
        kept = kept_by(arrays, f"block{height}x{width}", sparsity, dtype)
        places, means = [], []
        for name, array in arrays.items():
            rows = rows_of(name, array)
            stack = rows.reshape(3, 8, 16) if name == "h.1.experts" else rows[None]
            for matrix in range(len(stack)):
                for tile in tiles_of(stack[matrix], height, width):
                    places.append((name, matrix, tile))
                    means.append(np.float32(np.abs(stack[matrix][tile]).astype(np.float64).mean()))
        stays = cut(np.array(means), round(Fraction(sparsity) * len(means)))
        for (name, matrix, tile), stay in zip(places, stays, strict=True):
            rows = rows_of(name, kept[name])
            stack = rows.reshape(3, 8, 16) if name == "h.1.experts" else rows[None]
            assert (stack[matrix][tile] == stay).all(), (name, matrix, tile)


def test_tiles_of_one_weight_are_the_global_scope() -> None:
    arrays = weights(2)
    del arrays["h.0.conv"], arrays["h.1.filters"]
    assert_same(kept_by(arrays, "block1x1", "0.37"), kept_by(arrays, "global", "0.37"))


# --- what holds for all ---


@pytest.mark.parametrize("scope", ["row", "lamp", "lamp-row", "block4x4"])
def test_masks_of_growing_sparsity_are_nested(scope: str) -> None:
    """Not promised for erk, importance and owl: a remainder may move a weight from one tensor to another."""
    arrays = weights(6, levels=40)
    denser = None
    for percent in range(0, 101, 4):
        kept = kept_by(arrays, scope, f"{percent / 100:.2f}")
        if denser:
            assert all((kept[name] <= denser[name]).all() for name in kept)
        denser = kept


@pytest.mark.parametrize("scope", [*NEW, "2of4", "32of64", "block16x16", "block3x700"])
def test_bytes_do_not_depend_on_threads(scope: str, tmp_path: Path) -> None:
    random = np.random.default_rng(9)
    arrays = {f"h.{block}.w": random.standard_normal((331, 704), np.float32) ** 3 for block in range(2)}
    arrays["h.0.w"][0] = 0
    keys = keys_of(arrays)
    histogram = histogram_of(keys, "c", "magnitude", None)
    written = []
    for threads in (1, 2):
        kernels.use_threads(threads)
        write_cut(tmp_path / "mask", keys, histogram, scope, "0.5", LAYOUT)
        written.append((tmp_path / "mask").read_bytes())
    kernels.use_threads(1)
    assert written[0] == written[1]


@pytest.mark.parametrize("scope", ["row", "erk-row", "2of4", "block4x4", "lamp", "erk"])
def test_weights_that_changed_since_they_were_counted_are_refused(scope: str, tmp_path: Path) -> None:
    arrays = weights(1)
    histogram = histogram_of(keys_of(arrays), "c", "magnitude", None)
    arrays["h.0.fc"][:] = 1
    with pytest.raises(UserError, match=r"'h\.0\.fc' changed since it was counted"):
        write_cut(tmp_path / "mask", keys_of(arrays), histogram, scope, "0.5", LAYOUT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scope", [*OF_WEIGHTS, "2of4", "block4x4"])
def test_what_is_kept_is_known_before_it_is_packed(scope: str) -> None:
    keys = keys_of(weights(3))
    cutter = cutter_for(scope, Sparsity.of("0.5"), keys, histogram_of(keys, "c", "magnitude", None), LAYOUT)
    for name in keys.names:
        bits = np.concatenate(list(cutter.packed(name)))
        assert bits.dtype == np.uint8
        assert np.bitwise_count(bits).sum() == cutter.kept[name]


@pytest.mark.parametrize("scope", [*OF_WEIGHTS, "1of4", "block2x2"])
def test_tensors_of_one_dimension_or_none_are_single_rows(scope: str) -> None:
    arrays = {"bias": np.arange(16, dtype=np.float32), "wide": np.ones((1, 4), np.float32)}
    if scope != "1of4":
        arrays["scale"] = np.float32([3]).reshape(())
    kept = kept_by(arrays, scope, "0.75", layout=Layout())
    assert kept["bias"].shape == (16,)
    if scope in ("row", "1of4"):
        assert kept["bias"].sum() == 4


# --- scores ---


@pytest.mark.parametrize("dtype", FORMATS)
def test_keys_give_the_scores_back(dtype: str) -> None:
    arrays = weights(5, levels=80)
    keys = keys_of(arrays, dtype)
    for name, array in arrays.items():
        (block,) = keys.chunks(name)
        np.testing.assert_array_equal(keys.values(block), np.abs(array).reshape(-1))
        assert keys.values(block).dtype == np.float32


def test_uniform_keys_give_numbers_below_one_in_their_order() -> None:
    keys = keys_of({"w": np.zeros((300, 300), np.float32)}, criterion="random")
    block = np.concatenate([*keys.chunks("w"), np.array([0x7FFFFFFF, 0xFFFFFFFF, 0], np.uint32)])
    values = keys.values(block)
    assert values.dtype == np.float32
    assert values.min() >= 0
    assert values.max() < 1
    assert (np.diff(values[np.argsort(block & 0x7FFFFFFF)]) >= 0).all()
    assert values[:-3].mean() == pytest.approx(0.5, abs=0.01)


def test_sums_are_those_of_float64_and_outliers_those_of_their_block() -> None:
    random = np.random.default_rng(0)
    arrays = {name: random.standard_normal(prod(shape), np.float32) ** 5 for name, shape in SHAPES.items()}
    keys = keys_of(arrays)
    for found, array in zip(score_sums(keys), arrays.values(), strict=True):
        assert found == pytest.approx(np.abs(array).astype(np.float64).sum(), rel=1e-14)
    ratios = outlier_ratios(keys, BLOCKS)
    for block, found in zip(BLOCKS, ratios, strict=True):
        if block is None:
            assert found is None
            continue
        flat = np.concatenate([np.abs(arrays[name]) for name in arrays if name.startswith(f"h.{block}.")])
        assert found == Fraction(int((flat > 5 * flat.astype(np.float64).mean()).sum()), flat.size)
        assert found > 0


def test_an_outlier_is_above_the_limit_not_at_it() -> None:
    at_the_limit = {"h.0.w": np.array([10, 2, 1, 1, 1, 1, 1, 1, 1, 1], np.float32)}
    assert outlier_ratios(keys_of(at_the_limit), ["0"]) == [0]
    at_the_limit["h.0.w"][0] = 11
    assert outlier_ratios(keys_of(at_the_limit), ["0"]) == [Fraction(1, 10)]


# --- the stage ---


@pytest.mark.parametrize(("architecture", "suffix"), [("gpt2", "c_fc.weight"), ("mixtral", "experts.down_proj")])
def test_the_stage_knows_what_a_row_is(
    architecture: str, suffix: str, canonical_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """GPT-2 keeps [in, out], Mixtral [experts, out, in]; the patterns follow the inputs of each."""
    folder = canonical_folder(architecture)
    histogram = make_histogram(Checkpoint.open(folder), "magnitude", None, Selection())
    histogram.write(tmp_path / "histogram")
    made = make_mask(Checkpoint.open(folder), tmp_path / "histogram", "2of4", "0.5", tmp_path / "mask")
    assert (made.kept, made.total) == (histogram.total // 2, histogram.total)
    mask, file = read_mask(tmp_path / "mask"), TensorFile(folder / WEIGHTS)
    for name, shape in mask.shapes.items():
        if name.endswith(suffix):
            axis = 0 if architecture == "gpt2" else 2
            kept = np.moveaxis(unpack(mask.bits[name], shape), axis, -1).reshape(-1, 4)
            scores = np.moveaxis(np.abs(file.array(name)), axis, -1).reshape(-1, 4)
            assert (kept.sum(1) == 2).all()
            assert (np.where(kept, scores, np.inf).min(1) >= np.where(kept, 0, scores).max(1)).all()


def test_the_stage_gives_owl_its_blocks(canonical_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = canonical_folder("llama")
    make_histogram(Checkpoint.open(folder), "magnitude", None, Selection(include=["model.embed_tokens.weight"])).write(
        tmp_path / "h"
    )
    make_mask(Checkpoint.open(folder), tmp_path / "h", "owl", "0.5", tmp_path / "mask")
    mask, manifest = read_mask(tmp_path / "mask"), Manifest.read(folder / MANIFEST)
    layout = Layout.of(manifest)
    density: dict[str | None, list[float]] = {}
    for name, shape in mask.shapes.items():
        density.setdefault(layout.block(name), []).append(mask.kept[name] / prod(shape))
    assert sorted(density, key=str) == ["0", "1", "2", None]
    assert density[None] == [0.5]
    assert all(max(parts) - min(parts) < 0.002 for parts in density.values()), "one sparsity in a block"
    means = sorted(np.mean(parts) for block, parts in density.items() if block)
    assert max(means[-1] - 0.5, 0.5 - means[0]) == pytest.approx(0.08, abs=0.002), "up to an end of the window"


@pytest.mark.parametrize("scope", ["global", "layer", "row", "2of4", "erk", "erk-row"])
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_weights_whose_ties_are_broken_by_position_are_counted(scope, dtype):
    """A tie is broken by position if equal weights of one competition fare differently."""
    arrays = weights(4)
    keys = keys_of(arrays, dtype)
    histogram = histogram_of(keys, "c", "magnitude", None)
    cutter = cutter_for(scope, Sparsity.of("0.5"), keys, histogram, LAYOUT)
    kept = {name: np.concatenate(list(cutter.packed(name))) for name in keys.names}
    competitions = []
    for name, array in arrays.items():
        bits = unpack(kept[name], array.shape)
        runs = [LAYOUT.matrices(name, array.shape, flat.reshape(-1)) for flat in (np.abs(array), bits)]
        length = runs[0].shape[2] if scope.endswith("row") else 4 if scope == "2of4" else array.size
        competitions += zip(*(run.reshape(-1, length) for run in runs), strict=True)
    if scope == "global":
        competitions = [tuple(np.concatenate(parts) for parts in zip(*competitions, strict=True))]
    expected = 0
    for scores, bits in competitions:
        undecided = np.intersect1d(scores[bits], scores[~bits])
        expected += int(np.isin(scores, undecided).sum())
    assert cutter.tied.total() == expected > 0
