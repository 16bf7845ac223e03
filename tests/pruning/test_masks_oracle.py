"""Masks and cuts against an oracle that sorts: |w| as float64, stable argsort, the first k go."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from cutting import write_cut
from hypothesis import given, settings
from hypothesis import strategies as st

from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.pruning import kernels
from ltpipe.pruning.histogram import KeyHistogram, histogram_of
from ltpipe.pruning.masks import load_mask, read_mask
from ltpipe.pruning.scopes import groups
from ltpipe.pruning.scores import weight_keys
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.pruning.thresholds import exact_cuts
from ltpipe.runtime.errors import DamagedFileError, UserError

CHECKPOINT = "c0ffee" * 10 + "abcd"

BITS = {"BF16": np.uint16, "F16": np.uint16, "F32": np.uint32}
SIGN = {"BF16": 0x8000, "F16": 0x8000, "F32": 0x80000000}
LARGEST = {"BF16": 0x7F7F, "F16": 0x7BFF, "F32": 0x7F7FFFFF}
SMALLEST_NORMAL = {"BF16": 0x0080, "F16": 0x0400, "F32": 0x00800000}

PROPERTY = settings(max_examples=100, deadline=None)


@dataclass(frozen=True)
class Weight:
    """A tensor by its bit patterns, so that denormals and negative zeros are what they are meant to be."""

    dtype: str
    bits: np.ndarray

    def data(self, name: str) -> TensorData:
        stored = self.bits if self.dtype == "BF16" else self.bits.view(f"f{self.bits.itemsize}")
        return TensorData(name, self.dtype, self.bits.shape, [stored])

    def magnitudes(self) -> np.ndarray:
        """|w| as flat float64, which holds every value of the three dtypes exactly."""
        flat = self.bits.reshape(-1)
        if self.dtype == "BF16":
            flat = flat.astype(np.uint32) << 16
        return np.abs(flat.view(f"f{flat.itemsize}").astype(np.float64))


Weights = dict[str, Weight]


def canonical(names: Sequence[str]) -> list[str]:
    return sorted(names, key=str.encode)


def oracle(weights: Mapping[str, Weight], scope: str, sparsity: str) -> dict[str, np.ndarray]:
    """Name -> which weights are kept, in the tensor's shape."""
    names = canonical(list(weights))
    kept = {}
    for group in [names] if scope == "global" else [[name] for name in names]:
        magnitudes = np.concatenate([weights[name].magnitudes() for name in group])
        keep = np.ones(magnitudes.size, bool)
        keep[np.argsort(magnitudes, kind="stable")[: round(Fraction(sparsity) * magnitudes.size)]] = False
        borders = np.cumsum([weights[name].bits.size for name in group])[:-1]
        for name, part in zip(group, np.split(keep, borders), strict=True):
            kept[name] = part.reshape(weights[name].bits.shape)
    return kept


class Workbench:
    """A weight file in a folder, its keys and their histogram, and masks made from them."""

    def __init__(
        self,
        folder: Path,
        weights: Weights,
        criterion: str = "magnitude",
        seed: int | None = None,
        order: Sequence[str] | None = None,
    ) -> None:
        self.folder = folder
        path = folder / "weights.safetensors"
        write_tensors(path, [weights[name].data(name) for name in order or weights])
        names = canonical(list(weights))
        self.keys = weight_keys(criterion, TensorFile(path), names, seed=seed)
        self.histogram = histogram_of(self.keys, checkpoint=CHECKPOINT, criterion=criterion, seed=seed)

    def mask(self, scope: str, sparsity: str) -> Path:
        path = self.folder / "mask.safetensors"
        write_cut(path, self.keys, self.histogram, scope, sparsity)
        return path

    def mask_bytes(self, scope: str, sparsity: str) -> bytes:
        return self.mask(scope, sparsity).read_bytes()

    def kept(self, scope: str, sparsity: str) -> dict[str, np.ndarray]:
        return {name: tensor.numpy() for name, tensor in load_mask(self.mask(scope, sparsity)).items()}


def assert_same(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert actual[name].shape == array.shape
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def count_kept(kept: Mapping[str, np.ndarray]) -> int:
    return sum(int(array.sum()) for array in kept.values())


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Starting a second thread for a few numbers costs more than the work, most of all on a busy machine."""
    kernels.use_threads(1)
    yield
    kernels.use_threads(2)


@pytest.fixture
def any_threads() -> Iterator[None]:
    """For tests that set the number of threads: afterwards one again."""
    yield
    kernels.use_threads(1)


# --- strategies ---

# Byte order differs from natural order ("a.10" < "a.2"), from case-blind order ("Z" < "a") and, for the last
# two, from UTF-16 order (U+10000 sorts after U+FF5E in UTF-8 only).
NAMES = ["a.2", "a.10", "a.9", "Z.weight", "a", "a.b", "é.weight", "z", "ß", "層.1", "～", "\U00010000"]

SCOPES = st.sampled_from(["global", "layer"])


@st.composite
def sparsities(draw: st.DrawFn) -> str:
    digits = draw(st.integers(1, 4))
    number = draw(st.integers(0, 10**digits))
    decimal = f"{number // 10**digits}.{number % 10**digits:0{digits}d}"
    return draw(st.sampled_from([decimal, decimal, "0.5", "0", "1"]))


@functools.cache
def finite(dtype: str) -> st.SearchStrategy[int]:
    """Bit patterns of finite non-negative values, the borders of the format overrepresented."""
    largest, normal = LARGEST[dtype], SMALLEST_NORMAL[dtype]
    borders = st.sampled_from([0, 1, 2, normal - 1, normal, normal + 1, largest - 1, largest])
    return st.one_of(borders, st.integers(0, largest), st.integers(0, normal))


def near(value: np.float32, dtype: str) -> int:
    """The bit pattern of a finite value of `dtype` that is or is close to a non-negative float32."""
    bits = int(value.view(np.uint32))
    if dtype == "F32":
        return bits
    if dtype == "BF16":
        return bits >> 16
    return int(min(value, np.float32(65504)).astype(np.float16).view(np.uint16))


@st.composite
def weight_sets(draw: st.DrawFn, dtypes: Sequence[str] = ("BF16", "F16", "F32"), most: int = 70) -> Weights:
    """One to five tensors. Their values come from few anchors, so that ties cross tensors and dtypes."""
    # Short anchors within float16's range tie exactly across dtypes; one float32 ulp breaks ties narrowly.
    short = st.sampled_from([1.0, 1.5, 2.0**-14, 2.0**-24, 65504.0])
    shared = short | st.floats(0, 70000, width=32)
    anchors = [np.float32(anchor) for anchor in draw(st.lists(shared, min_size=1, max_size=3))]
    if draw(st.booleans()):
        anchors += [np.nextafter(anchor, np.float32(1e30)) for anchor in anchors]
    weights = {}
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True)):
        dtype = draw(st.sampled_from(dtypes))
        pool = [near(anchor, dtype) for anchor in anchors] + draw(st.lists(finite(dtype), max_size=4))
        signed = st.sampled_from([pattern | sign for pattern in pool for sign in (0, SIGN[dtype])])
        shape = draw(st.sampled_from([(), (1,), (1, 1)]) | hnp.array_shapes(max_dims=3, max_side=most))
        if prod(shape) > 2 * most:
            shape = (most,)
        # One in four is all-equal up to sign; one in four has few ties.
        kind = draw(st.integers(0, 3))
        if kind == 0:
            bits = np.full(shape, draw(signed), BITS[dtype])
        elif kind == 1:
            bits = draw(hnp.arrays(BITS[dtype], shape, elements=finite(dtype)))
        else:
            bits = draw(hnp.arrays(BITS[dtype], shape, elements=signed))
        weights[name] = Weight(dtype, bits)
    return weights


# --- magnitude: small cases against the oracle ---


@pytest.mark.parametrize("dtypes", [("BF16",), ("F16",), ("F32",), ("BF16", "F16", "F32")], ids="+".join)
def test_mask_equals_the_oracle(dtypes: tuple[str, ...]) -> None:
    @PROPERTY
    @given(weight_sets(dtypes), SCOPES, st.lists(sparsities(), min_size=1, max_size=3))
    def check(weights: Weights, scope: str, schedule: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            bench = Workbench(Path(folder), weights)
            for sparsity in schedule:
                assert_same(bench.kept(scope, sparsity), oracle(weights, scope, sparsity))

    check()


@PROPERTY
@given(weight_sets(), st.lists(st.tuples(SCOPES, sparsities()), min_size=1, max_size=8))
def test_schedule_of_cuts_equals_the_oracle(weights: Weights, schedule: list[tuple[str, str]]) -> None:
    """Any mixture of scopes and sparsities at once, in any order, repetitions included."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Workbench(Path(folder), weights)
        keys = bench.keys
        cuts = exact_cuts(
            keys, bench.histogram, [groups(scope, Sparsity.of(sparsity), keys.sizes) for scope, sparsity in schedule]
        )
        assert len(cuts) == len(schedule)
        for (scope, sparsity), per_tensor in zip(schedule, cuts, strict=True):
            kept = oracle(weights, scope, sparsity)
            pruned = [int((~kept[name]).sum()) for name in canonical(list(weights))]
            assert [cut.pruned for cut in per_tensor] == pruned


@PROPERTY
@given(weight_sets(), SCOPES, sparsities())
def test_read_mask_tells_bits_counts_and_origin(weights: Weights, scope: str, sparsity: str) -> None:
    kept = oracle(weights, scope, sparsity)
    with tempfile.TemporaryDirectory() as folder:
        mask = read_mask(Workbench(Path(folder), weights).mask(scope, sparsity))
        assert set(mask.bits) == set(weights)
        for name, array in kept.items():
            assert mask.bits[name].dtype == np.uint8
            np.testing.assert_array_equal(mask.bits[name], np.packbits(array.reshape(-1), bitorder="little"))
            assert tuple(mask.shapes[name]) == array.shape
            assert mask.kept[name] == array.sum()
        assert mask.total == sum(array.size for array in kept.values())
        assert mask.total_kept == count_kept(kept)
        assert (mask.criterion, mask.scope, mask.seed) == ("magnitude", scope, None)
        assert mask.checkpoint == CHECKPOINT
        assert mask.sparsity.fraction == Fraction(sparsity)


def test_load_mask_gives_bool_tensors_true_where_kept(tmp_path: Path) -> None:
    bits = np.array([[3.0, -1.0, 0.0], [2.0, -4.0, 5.0]], np.float32).view(np.uint32)
    masks = load_mask(Workbench(tmp_path, {"w": Weight("F32", bits)}).mask("global", "0.5"))
    assert list(masks) == ["w"]
    assert masks["w"].dtype == torch.bool
    assert masks["w"].device.type == "cpu"
    assert masks["w"].tolist() == [[True, False, False], [False, True, True]]


# --- magnitude: single rules, spelt out ---


@pytest.mark.parametrize("dtype", list(BITS))
def test_signs_of_zero_do_not_matter(tmp_path: Path, dtype: str) -> None:
    """-0 and +0 tie: the earlier goes first, whichever it is, and both go before the smallest denormal."""
    sign = SIGN[dtype]
    bits = np.array([sign, 0, 1, 0, sign | 1, sign, 0], BITS[dtype])
    bench = Workbench(tmp_path, {"w": Weight(dtype, bits)})
    order = [0, 1, 3, 5, 6, 2, 4]
    for count in range(8):
        kept = bench.kept("layer", f"{(count * 100 + 3) // 7 / 100}")["w"]
        assert np.flatnonzero(~kept).tolist() == sorted(order[:count])


@pytest.mark.parametrize("dtype", list(BITS))
def test_every_value_has_its_own_rank(tmp_path: Path, dtype: str) -> None:
    """Zero, all-denormal neighbours, the step to normals and the largest values, shuffled, in exact order."""
    normal, largest = SMALLEST_NORMAL[dtype], LARGEST[dtype]
    ladder = [0, 1, 2, 3, normal - 2, normal - 1, normal, normal + 1, largest - 2, largest - 1, largest]
    shuffled = np.random.default_rng(1).permutation(ladder)
    signs = np.where(np.arange(len(ladder)) % 2, SIGN[dtype], 0)
    weight = Weight(dtype, (shuffled | signs).astype(BITS[dtype]))
    assert len(set(weight.magnitudes())) == len(ladder)  # the oracle flushes no denormals
    bench = Workbench(tmp_path, {"w": weight})
    for count in range(len(ladder) + 1):
        kept = bench.kept("layer", f"{count / len(ladder):.4f}")["w"]
        assert sorted(shuffled[kept].tolist()) == ladder[count:]


@pytest.mark.parametrize("dtype", list(BITS))
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_all_equal_tensors_lose_their_first_weights(tmp_path: Path, dtype: str, scope: str) -> None:
    """Names in byte order: 'B' < 'a.10' < 'a.2' < 'é'."""
    weights = {name: Weight(dtype, np.full(4, 77, BITS[dtype])) for name in ("é", "a.2", "B", "a.10")}
    kept = Workbench(tmp_path, weights).kept(scope, "0.375")
    # 6 of all 16, or in each tensor 1.5 of 4, to even.
    counts = {"B": 4, "a.10": 2, "a.2": 0, "é": 0} if scope == "global" else dict.fromkeys(weights, 2)
    assert_same(kept, {name: np.arange(4) >= counts[name] for name in weights})


def test_mixed_dtypes_tie_where_their_values_are_equal(tmp_path: Path) -> None:
    """2^-24 is float16's smallest denormal and normal elsewhere; 1 + 2^-23 is float32's next after 1."""
    weights = {
        "a": Weight("F32", np.array([0x33800000, 0x3F800001, 0x3F800000], np.uint32)),
        "b": Weight("F16", np.array([0x3C00, 0x8001, 0xBC01], np.uint16)),
        "c": Weight("BF16", np.array([0xBF80, 0x3380, 0x3F81], np.uint16)),
    }
    ranking = [("a", 0), ("b", 1), ("c", 1), ("a", 2), ("b", 0), ("c", 0), ("a", 1), ("b", 2), ("c", 2)]
    bench = Workbench(tmp_path, weights)
    for count in range(10):
        kept = bench.kept("global", f"{count / 9:.4f}")
        pruned = {(name, int(index)) for name, array in kept.items() for index in np.flatnonzero(~array)}
        assert pruned == set(ranking[:count])


def test_layer_scope_ignores_the_other_tensors(tmp_path: Path) -> None:
    small, large = np.arange(10, dtype=np.float32), np.arange(100, 120, dtype=np.float32)
    weights = {"small": Weight("F32", small.view(np.uint32)), "large": Weight("F32", large.view(np.uint32))}
    bench = Workbench(tmp_path, weights)
    layer, globally = bench.kept("layer", "0.5"), bench.kept("global", "0.5")
    assert (layer["small"].sum(), layer["large"].sum()) == (5, 10)
    assert (globally["small"].sum(), globally["large"].sum()) == (0, 15)


def test_tensors_not_named_are_left_alone(tmp_path: Path) -> None:
    """Embeddings and norms lie in the same file; they neither count nor get a mask, whatever they hold."""
    path = tmp_path / "weights.safetensors"
    counted = Weight("F32", np.arange(1, 11, dtype=np.float32).view(np.uint32))
    norm = TensorData.of("norm", np.array([0, np.nan, np.inf], np.float32))
    write_tensors(path, [norm, counted.data("w")])
    keys = weight_keys("magnitude", TensorFile(path), ["w"], seed=None)
    histogram = histogram_of(keys, checkpoint=CHECKPOINT, criterion="magnitude", seed=None)
    write_cut(tmp_path / "mask", keys, histogram, "global", "0.3")
    assert_same({n: t.numpy() for n, t in load_mask(tmp_path / "mask").items()}, {"w": np.arange(10) >= 3})


@pytest.mark.parametrize("dtype", list(BITS))
@pytest.mark.parametrize("odd", [1, 2, 3, 6])
def test_weights_need_not_be_aligned(tmp_path: Path, dtype: str, odd: int) -> None:
    """A few bytes of another tensor first, and the weights start at any address."""
    path = tmp_path / "weights.safetensors"
    bits = np.random.default_rng(odd).integers(0, LARGEST[dtype], 1003).astype(BITS[dtype])
    weight = Weight(dtype, bits)
    write_tensors(path, [TensorData.of("buffer", np.ones(odd, np.uint8)), weight.data("w")])
    keys = weight_keys("magnitude", TensorFile(path), ["w"], seed=None)
    histogram = histogram_of(keys, checkpoint=CHECKPOINT, criterion="magnitude", seed=None)
    write_cut(tmp_path / "mask", keys, histogram, "global", "0.37")
    kept = {name: tensor.numpy() for name, tensor in load_mask(tmp_path / "mask").items()}
    assert_same(kept, oracle({"w": weight}, "global", "0.37"))


def test_random_without_a_seed_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seed"):
        Workbench(tmp_path, ones(w=(3,)), "random", None)


@pytest.mark.parametrize("sparsity", ["1.5", "-0.1", "half"])
def test_unusable_sparsity_writes_no_mask(tmp_path: Path, sparsity: str) -> None:
    bench = Workbench(tmp_path, {"w": Weight("F32", np.arange(9, dtype=np.uint32))})
    with pytest.raises(UserError):
        bench.mask("global", sparsity)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.safetensors"]


# --- large cases: several threads, several blocks ---


def large_weights() -> Weights:
    """Some 200 000 weights a tensor, odd sizes, half of them from three values shared by all dtypes."""
    generator = np.random.default_rng(20)
    weights = {}
    shapes = {"a.2": (449, 451), "a.10": (200_003,), "b": (65_537, 3), "c": (65_536,), "é": (7, 3, 9533)}
    for (name, shape), dtype in zip(shapes.items(), ["F32", "BF16", "F16", "BF16", "F32"], strict=True):
        values = generator.choice(np.array([0.0, 0.5, 1.0], np.float32), shape)
        spread = np.abs(generator.standard_normal(shape, np.float32))
        values = np.where(generator.random(shape) < 0.5, values, spread)
        values = np.copysign(values, generator.standard_normal(shape)).astype(np.float32)
        if dtype == "BF16":
            bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        else:
            bits = values.astype(f"f{np.dtype(BITS[dtype]).itemsize}").view(BITS[dtype])
        weights[name] = Weight(dtype, bits)
    return weights


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, Workbench]:
    weights = large_weights()
    return weights, Workbench(tmp_path_factory.mktemp("large"), weights)


# The oracle says at which sparsities the cut falls inside a run of equal values, in which tensor.
LARGE_SCHEDULE = ["0", "0.0001", "0.05", "0.16", "0.31", "0.4477", "0.52", "0.63", "0.81", "0.999", "1"]


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_large_masks_equal_the_oracle(large: tuple[Weights, Workbench], scope: str, threads: int) -> None:
    weights, bench = large
    kernels.use_threads(threads)
    for sparsity in LARGE_SCHEDULE[::2] if threads == 1 else LARGE_SCHEDULE:
        assert_same(bench.kept(scope, sparsity), oracle(weights, scope, sparsity))


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", list(BITS))
def test_one_run_of_ties_is_cut_at_any_place(tmp_path: Path, dtype: str, threads: int) -> None:
    """All equal but for a smaller or larger value here and there: ties are counted over all threads."""
    kernels.use_threads(threads)
    size = 200_003
    bits = np.full(size, 0x3C00, BITS[dtype])
    bits[5::1001] = 0x3B00
    bits[9::997] = 0x3D00
    bench = Workbench(tmp_path, {"w": Weight(dtype, bits), "x": Weight(dtype, bits[: size // 2])})
    weights = {"w": Weight(dtype, bits), "x": Weight(dtype, bits[: size // 2])}
    # The middle and borders of eighths are where 2, 4 or 8 threads would meet.
    for sparsity in ["0.001", "0.0833", "0.1667", "0.25", "0.3333", "0.33334", "0.5", "0.6667", "0.9"]:
        assert_same(bench.kept("global", sparsity), oracle(weights, "global", sparsity))


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize(
    ("dtype", "size", "others"),
    [
        ("BF16", 16_900_009, {}),
        ("F16", 16_900_009, {}),
        ("F32", 16_900_009, {}),
        ("F16", 4_300_009, {"z": Weight("F32", np.array([0x7F7FFFFF], np.uint32))}),
    ],
    ids=["BF16", "F16", "F32", "F16 beside F32"],
)
def test_ties_cross_chunks(tmp_path: Path, dtype: str, size: int, others: Weights) -> None:
    """Large enough to be read in several chunks: at the time of writing 2^24, of mixed dtypes 2^22."""
    kernels.use_threads(2)
    bits = np.full(size, 0x3C00, BITS[dtype])
    small = np.arange(3, size, 1009)
    bits[small] = 0x0001
    bench = Workbench(tmp_path, {"w": Weight(dtype, bits), **others})
    assert len(list(bench.keys.chunks("w"))) > 1
    for sparsity in ["0.25", "0.998"]:
        # Sorting this many would take long: all small ones go, then the first of the equal ones.
        equal = round(Fraction(sparsity) * (size + len(others))) - small.size
        expected = np.ones(size, bool)
        expected[small] = False
        expected[np.flatnonzero(bits == 0x3C00)[:equal]] = False
        np.testing.assert_array_equal(bench.kept("global", sparsity)["w"], expected)


# --- nesting ---


@pytest.mark.parametrize(("criterion", "seed"), [("magnitude", None), ("random", 5)])
def test_masks_are_nested(criterion: str, seed: int | None) -> None:
    @PROPERTY
    @given(weight_sets(), SCOPES, st.lists(sparsities(), min_size=2, max_size=4))
    def check(weights: Weights, scope: str, schedule: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            bench = Workbench(Path(folder), weights, criterion, seed)
            masks = [bench.kept(scope, sparsity) for sparsity in sorted(schedule, key=Fraction)]
            for denser, sparser in itertools.pairwise(masks):
                assert all(np.all(denser[name] | ~sparser[name]) for name in weights)

    check()


# --- random ---


def ones(**shapes: tuple[int, ...]) -> Weights:
    return {name: Weight("BF16", np.full(shape, 0x3F80, np.uint16)) for name, shape in shapes.items()}


@PROPERTY
@given(weight_sets(), SCOPES, sparsities(), st.integers(0, 2**32))
def test_random_prunes_the_exact_number(weights: Weights, scope: str, sparsity: str, seed: int) -> None:
    expected = oracle(weights, scope, sparsity)
    with tempfile.TemporaryDirectory() as folder:
        kept = Workbench(Path(folder), weights, "random", seed).kept(scope, sparsity)
    assert {name: array.shape for name, array in kept.items()} == {n: a.shape for n, a in expected.items()}
    assert count_kept(kept) == count_kept(expected)
    if scope == "layer":
        assert all(kept[name].sum() == expected[name].sum() for name in weights)


def test_random_depends_on_seed_name_and_shapes_alone(tmp_path: Path) -> None:
    """Neither values nor dtypes matter."""
    generator = np.random.default_rng(3)
    shapes = {"a": (129, 33), "b.10": (1001,)}
    sets = [
        {n: Weight("BF16", generator.integers(0, 0x7F80, s).astype(np.uint16)) for n, s in shapes.items()},
        {n: Weight("F32", generator.integers(0, 0x7F800000, s).astype(np.uint32)) for n, s in shapes.items()},
    ]
    files = []
    for index, weights in enumerate(sets):
        (tmp_path / str(index)).mkdir()
        files.append(Workbench(tmp_path / str(index), weights, "random", 11).mask_bytes("global", "0.4"))
    assert files[0] == files[1]


def test_random_masks_are_independent_and_uniform(tmp_path: Path) -> None:
    """Over seeds, tensors of equal shape, halves of a tensor and bit positions within a byte."""
    weights = ones(a=(200, 300), b=(200, 300), c=(4099,))
    kept = [Workbench(tmp_path, weights, "random", seed).kept("global", "0.3") for seed in (0, 1, 2**31)]
    for masks in kept:
        assert count_kept(masks) == round(Fraction("0.7") * (2 * 60_000 + 4099))
        for array in masks.values():
            assert_share(array, 0.7)
            half = array.size // 2
            assert_share(array.reshape(-1)[:half], 0.7)
            for offset in range(8):
                assert_share(array.reshape(-1)[offset::8], 0.7)
    for first, second in [(0, 1), (0, 2), (1, 2)]:
        for name in weights:
            assert_share(kept[first][name] & kept[second][name], 0.49)
    assert_share(kept[0]["a"] & kept[0]["b"], 0.49)
    # Neither a shifted copy of itself nor of the other tensor.
    assert_share(kept[0]["a"].reshape(-1)[1:] & kept[0]["a"].reshape(-1)[:-1], 0.49)


def assert_share(kept: np.ndarray, share: float) -> None:
    """The share of True lies within five standard deviations; seeds are fixed, so luck plays no part."""
    deviation = (share * (1 - share) / kept.size) ** 0.5
    assert abs(kept.mean() - share) < 5 * deviation


@pytest.mark.usefixtures("any_threads")
def test_large_random_mask_is_exact_and_the_same_for_any_threads(tmp_path: Path) -> None:
    """Several blocks (2^22 weights at the time of writing); none repeats another."""
    size = 2 * 2**22 + 11
    bench = Workbench(tmp_path, ones(w=(size,)), "random", 4)
    files = []
    for threads in (1, 2):
        kernels.use_threads(threads)
        files.append(bench.mask_bytes("global", "0.35"))
    assert files[0] == files[1]
    kept = bench.kept("global", "0.35")["w"]
    assert kept.sum() == size - round(Fraction("0.35") * size)
    assert_share(kept[: 2**22], 0.65)
    assert_share(kept[: 2**22] & kept[2**22 : 2**23], 0.65**2)


def test_random_read_mask_tells_the_seed(tmp_path: Path) -> None:
    mask = read_mask(Workbench(tmp_path, ones(a=(10,)), "random", 123).mask("layer", "0.5"))
    assert (mask.criterion, mask.scope, mask.seed) == ("random", "layer", 123)
    assert mask.total_kept == 5


def test_random_tensor_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    """Layer scope: a tensor's random mask is its own, whichever tensors are pruned beside it."""
    alone = Workbench(tmp_path, ones(b=(500,)), "random", 7).kept("layer", "0.5")["b"]
    beside = Workbench(tmp_path, ones(a=(77,), b=(500,), c=(3,)), "random", 7).kept("layer", "0.5")["b"]
    np.testing.assert_array_equal(alone, beside)


# --- the same bytes everywhere ---

RECIPES = [(*recipe, scope) for recipe in (("magnitude", None), ("random", 9)) for scope in ("global", "layer")]

# Makes the histogram and the masks of a weight file from scratch and prints their hashes.
SCRIPT = """
import hashlib, sys
from pathlib import Path
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.pruning import kernels
from ltpipe.pruning.build import write_mask
from ltpipe.pruning.by_scope import cutter_for
from ltpipe.pruning.histogram import histogram_of
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.scores import weight_keys
from ltpipe.pruning.sparsity import Sparsity

folder, checkpoint, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
kernels.use_threads(threads)
weights = TensorFile(folder / "weights.safetensors")
names = sorted(set(weights.specs), key=str.encode)
for criterion, seed, scope in RECIPES:
    keys = weight_keys(criterion, weights, names, seed=seed)
    histogram = histogram_of(keys, checkpoint=checkpoint, criterion=criterion, seed=seed)
    histogram.write(folder / "again.histogram")
    half = Sparsity.of("0.52")
    write_mask(folder / "again.mask", histogram, scope, half, cutter_for(scope, half, keys, histogram, Layout()))
    for name in ("again.histogram", "again.mask"):
        print(hashlib.sha256((folder / name).read_bytes()).hexdigest())
""".replace("RECIPES", repr(RECIPES))


def hashes(folder: Path, weights: Weights, order: Sequence[str] | None = None) -> list[str]:
    """SHA-256 of histogram and mask for each recipe, made in this process."""
    found = []
    for criterion, seed, scope in RECIPES:
        bench = Workbench(folder, weights, criterion, seed, order)
        bench.histogram.write(folder / "histogram")
        for path in (folder / "histogram", bench.mask(scope, "0.52")):
            found.append(hashlib.sha256(path.read_bytes()).hexdigest())
    return found


@pytest.mark.usefixtures("any_threads")
def test_bytes_are_the_same_for_any_threads_process_and_hash_seed(tmp_path: Path) -> None:
    weights = large_weights()
    expected = hashes(tmp_path, weights)
    assert len(set(expected)) == len(RECIPES) + 2  # masks all differ, histograms only by criterion
    kernels.use_threads(2)
    assert hashes(tmp_path, weights) == expected
    for threads, hash_seed in [("1", "0"), ("2", "4711")]:
        printed = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path), CHECKPOINT, threads],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert printed.stdout.split() == expected


@settings(max_examples=25, deadline=None)
@given(weight_sets(most=20), st.data())
def test_bytes_do_not_depend_on_the_order_in_the_weight_file(weights: Weights, data: st.DataObject) -> None:
    order = data.draw(st.permutations(list(weights)))
    with tempfile.TemporaryDirectory() as folder:
        assert hashes(Path(folder), weights, order) == hashes(Path(folder), weights, canonical(order))


# --- passes over the data ---


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("length", [1, 41])
@pytest.mark.parametrize(
    ("dtypes", "most"),
    [(["BF16"], 0), (["F16"], 0), (["F32"], 1), (["BF16", "F16", "F32"], 1)],
    ids=["BF16", "F16", "F32", "mixed"],
)
def test_passes_do_not_grow_with_the_schedule(
    tmp_path: Path, dtypes: list[str], most: int, scope: str, length: int
) -> None:
    """The histogram alone decides weights of one 16-bit format; others take one look for all sparsities."""
    generator = np.random.default_rng(8)
    weights = {
        f"{dtype}.{index}": Weight(dtype, generator.integers(0, LARGEST[dtype], 5000).astype(BITS[dtype]))
        for dtype in dtypes
        for index in range(2)
    }
    bench = Workbench(tmp_path, weights)
    calls: Counter[str] = Counter()

    def counting(name: str) -> Iterator[np.ndarray]:
        calls[name] += 1
        return bench.keys.chunks(name)

    keys = dataclasses.replace(bench.keys, chunks=counting)
    schedule = [f"{0.3 + 0.01 * step:.2f}" for step in range(length)]
    cuts = exact_cuts(
        keys, bench.histogram, [groups(scope, Sparsity.of(sparsity), keys.sizes) for sparsity in schedule]
    )

    totals = [sum(cut.pruned for cut in per_tensor) for per_tensor in cuts]
    if scope == "global":
        assert totals == [round(Fraction(sparsity) * 5000 * len(weights)) for sparsity in schedule]
    else:
        assert totals == [len(weights) * round(Fraction(sparsity) * 5000) for sparsity in schedule]
    assert all(calls[name] <= most for name in weights)


def test_histogram_read_from_disk_gives_the_same_mask(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    weights = {
        name: Weight(dtype, generator.integers(0, LARGEST[dtype], 1003).astype(BITS[dtype]))
        for name, dtype in zip("abc", BITS, strict=True)
    }
    bench = Workbench(tmp_path, weights)
    fresh = bench.mask_bytes("global", "0.37")
    bench.histogram.write(tmp_path / "histogram")
    write_cut(tmp_path / "again", bench.keys, KeyHistogram.read(tmp_path / "histogram"), "global", "0.37")
    assert (tmp_path / "again").read_bytes() == fresh


# --- damaged masks ---


def refuse(path: Path) -> None:
    for read in (read_mask, load_mask):
        with pytest.raises(DamagedFileError) as caught:
            read(path)
        assert len(str(caught.value).splitlines()) == 1
        assert path.name in str(caught.value)


def small_mask(folder: Path) -> Path:
    single, brain = np.arange(13, dtype=np.uint32), np.arange(16, dtype=np.uint16)
    weights = {"a": Weight("F32", single), "b": Weight("BF16", brain)}
    return Workbench(folder, weights).mask("global", "0.5")


def test_any_flipped_bit_is_refused(tmp_path: Path) -> None:
    """Padding bits of a tensor's last byte too: no weight, but no mask that ltpipe wrote either."""
    path = small_mask(tmp_path)
    sound = path.read_bytes()
    start = 8 + struct.unpack("<Q", sound[:8])[0]
    assert len(sound) - start == 4
    for position in range(start * 8, len(sound) * 8):
        damaged = bytearray(sound)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        refuse(path)


def test_flipped_bit_in_the_header_is_no_traceback(tmp_path: Path) -> None:
    """It may change a fingerprint unnoticed, but whatever is noticed is reported as damage."""
    path = small_mask(tmp_path)
    sound = path.read_bytes()
    start = 8 + struct.unpack("<Q", sound[:8])[0]
    for position in range(start * 8):
        damaged = bytearray(sound)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        with contextlib.suppress(DamagedFileError):
            read_mask(path)


def test_truncated_mask_is_refused(tmp_path: Path) -> None:
    path = small_mask(tmp_path)
    sound = path.read_bytes()
    for length in [0, 1, 8, 20, len(sound) // 2, len(sound) - 2, len(sound) - 1]:
        path.write_bytes(sound[:length])
        refuse(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_other_safetensors_file_is_no_mask(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "other.safetensors"
    write_tensors(path, [TensorData.of("a", np.full(4, 255, np.uint8))], metadata)
    refuse(path)


def test_missing_mask_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        read_mask(tmp_path / "nowhere.safetensors")
