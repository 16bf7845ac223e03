"""Masks of whole heads, channels and blocks against an oracle that takes means of slices."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from handmade import save_weights
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sealed import rewritten
from structured import make, masks, units_by_hand

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.pruning import kernels
from ltpipe.pruning.families import Family, UnitPart
from ltpipe.pruning.masks import unpack
from ltpipe.pruning.scopes import STRUCTURED
from ltpipe.pruning.scores import RankKeys, weight_keys
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.pruning.units import choose, unit_cutter, unit_scores
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of


def oracle(folder: Path, scope: str, sparsity: str, name: str) -> dict[str, np.ndarray]:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    weights = {
        tensor: values.float().abs().double().numpy()
        for tensor, values in tensors.items()
        if ".layers." in tensor and tensor.endswith("weight") and values.dim() == 2
    }
    kept = {tensor: np.ones(values.shape, bool) for tensor, values in weights.items()}
    blocks = units_by_hand(weights, scope, name)
    competitions = [[units[0] for units in blocks]] if scope == "blocks" else blocks
    for units in competitions:
        scores = [np.concatenate([weights[t][index].ravel() for t, index in unit.items()]).mean() for unit in units]
        for loser in np.argsort(scores)[: round(Fraction(sparsity) * len(units))]:
            for tensor, index in units[loser].items():
                kept[tensor][index] = False
    return kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("name", "scope", "sparsity"),
    [
        ("llama", "heads", "0.3"),
        ("llama", "channels", "0.33"),
        ("llama", "blocks", "0.5"),
        ("gemma2", "heads", "0.66"),
        ("opt", "heads", "0.5"),
        ("opt", "channels", "0.9"),
    ],
)
def test_mask_equals_the_oracle(name, scope, sparsity, dtype, unit_folder, tmp_path):
    folder = unit_folder(name, dtype)
    expected = oracle(folder, scope, sparsity, name)
    got = masks(make(folder, scope, sparsity, tmp_path / "mask"))
    assert list(got) == sorted(expected, key=str.encode)
    for tensor, kept in expected.items():
        np.testing.assert_array_equal(got[tensor], kept, err_msg=tensor)
    assert not all(kept.all() for kept in expected.values())


@pytest.mark.parametrize(
    ("scope", "sparsity", "units"), [("heads", "0.3", 1), ("channels", "0.3", 12), ("blocks", "0.6", 2)]
)
def test_random_masks_prune_as_many_units(scope, sparsity, units, unit_folder, tmp_path):
    got = masks(make(unit_folder("llama"), scope, sparsity, tmp_path / "mask", "random"))
    for block, of_block in enumerate(units_by_hand(got, scope, "llama")):
        alive = [{bool(got[tensor][index].any()) for tensor, index in unit.items()} for unit in of_block]
        assert all(len(states) == 1 for states in alive), f"a torn unit in block {block}"
        assert scope == "blocks" or alive.count({False}) == units
    if scope == "blocks":
        assert sum(not got[f"model.layers.{block}.mlp.up_proj.weight"].any() for block in range(4)) == units
    magnitude = masks(make(unit_folder("llama"), scope, sparsity, tmp_path / "other"))
    assert any(not np.array_equal(got[tensor], magnitude[tensor]) for tensor in got)


def test_masks_are_nested(unit_folder, tmp_path):
    for scope in ("heads", "channels", "blocks"):
        paths = [make(unit_folder("llama"), scope, s, tmp_path / f"{scope}-{s}") for s in ("0", "0.3", "0.6", "1")]
        for denser, sparser in zip(map(masks, paths), map(masks, paths[1:]), strict=False):
            assert all((denser[name] >= sparser[name]).all() for name in denser)
        nothing, everything = masks(paths[0]), masks(paths[-1])
        assert all(kept.all() for kept in nothing.values())
        units = units_by_hand(everything, scope, "llama")
        assert not any(everything[t][i].any() for block in units for unit in block for t, i in unit.items())


def test_two_masks_have_the_same_bytes(unit_folder, tmp_path):
    for threads in (1, 2):
        kernels.use_threads(threads)
        make(unit_folder("qwen3"), "heads", "0.3", tmp_path / str(threads))
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


# --- scores


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "BF16+F32"])
def test_values_of_keys_are_the_magnitudes(dtype, tmp_path):
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    numbers[:4] = torch.tensor([0.0, -0.0, -1.5, 6e-8])
    kinds = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    tensors = {f"w{index}": numbers.to(kinds[kind]) for index, kind in enumerate(dtype.split("+"))}
    safetensors.torch.save_file(tensors, tmp_path / "file")
    keys = weight_keys("magnitude", TensorFile(tmp_path / "file"), list(tensors), None)
    for name, tensor in tensors.items():
        values = np.concatenate([keys.values(block) for block in keys.chunks(name)])
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, tensor.float().abs().numpy())


def test_values_of_random_keys_are_uniform(tmp_path):
    write_tensors(tmp_path / "file", [TensorData.of("w", np.zeros(20_000, np.float32))])
    keys = weight_keys("random", TensorFile(tmp_path / "file"), ["w"], 1)
    (block,) = keys.chunks("w")
    values = keys.values(block)
    np.testing.assert_allclose(values, (block & 0x7FFFFFFF) / 2**31, rtol=0, atol=2**-24)
    assert 0 <= values.min() < 0.01
    assert 0.99 < values.max() < 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 7), st.integers(0, 1), st.integers(1, 30))
def test_scores_do_not_depend_on_the_blocks(units, width, other, axis, block):
    """Means over rows or columns, however the tensor is cut."""
    shape = (units * width, other) if axis == 0 else (other, units * width)
    weights = np.random.default_rng(units).standard_normal(shape).astype(np.float32)
    flat = weights.view(np.uint32).reshape(-1)

    def keys(size: int) -> RankKeys:
        cuts = range(0, flat.size, size)
        return RankKeys(("w",), (shape,), 31, 0x7F800000, lambda _: iter([flat[cut : cut + size] for cut in cuts]))

    (scores,) = unit_scores(keys(block), [Family(units, (UnitPart("w", axis, width),))])
    lines = np.abs(weights.astype(np.float64)).mean(1 - axis)
    np.testing.assert_allclose(scores, lines.reshape(units, width).mean(1), rtol=1e-12)
    (whole,) = unit_scores(keys(flat.size), [Family(units, (UnitPart("w", axis, width),))])
    assert scores.tobytes() == whole.tobytes()


def test_score_is_the_mean_of_all_weights_not_of_means():
    """Units of several tensors: 2 x 3 weights of 1 and 2 weights of 5 have the mean 2."""
    values = {"a": np.ones((2, 6), np.float32), "b": np.full((2, 2), 5, np.float32)}
    keys = RankKeys(
        ("a", "b"), ((2, 6), (2, 2)), 31, 0x7F800000, lambda name: iter([values[name].view(np.uint32).reshape(-1)])
    )
    (scores,) = unit_scores(keys, [Family(2, (UnitPart("a", 1, 3), UnitPart("b", 0, 1)))])
    assert scores.tolist() == [2, 2]


# --- ranking


def test_ties_go_to_the_earlier():
    flat = np.array([2.0, 1.0, 1.0, 1.0])
    assert [kept.tolist() for kept in choose(STRUCTURED["channels"], Sparsity.of("0.5"), [flat, flat[::-1]])] == [
        [True, False, False, True],
        [False, False, True, True],
    ]
    blocks = choose(STRUCTURED["blocks"], Sparsity.of("0.5"), [np.array([score]) for score in flat])
    assert [kept.tolist() for kept in blocks] == [[True], [False], [False], [True]]


def test_blocks_ten_and_more_are_in_order_of_their_number():
    """Names sort model.layers.10 before model.layers.2; units do not."""
    kept = choose(STRUCTURED["blocks"], Sparsity.of("0.25"), [np.array([1.0])] * 12)
    assert [bool(block[0]) for block in kept] == [False] * 3 + [True] * 9


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.integers(0, 100))
def test_exactly_the_rounded_number_goes(units, percent):
    sparsity = f"{percent / 100:.2f}"
    count = round(Fraction(percent, 100) * units)
    scores = np.random.default_rng(units).random(units)
    if count == units and percent < 100:
        with pytest.raises(UserError, match="rounds to all of them; use less than"):
            choose(STRUCTURED["heads"], Sparsity.of(sparsity), [scores])
    else:
        (kept,) = choose(STRUCTURED["heads"], Sparsity.of(sparsity), [scores])
        assert (~kept).sum() == count
        assert set(np.flatnonzero(~kept)) == set(np.argsort(scores)[:count])


# --- bits


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(0, 1), st.integers(0, 2**32), st.sampled_from([1, 100, 1 << 20])
)
@example(rows=40, columns=9, axis=1, seed=1, expanded=100)  # 11 rows would fit, 8 fill whole bytes
def test_packed_bits_are_whole_rows_and_columns(rows, columns, axis, seed, expanded):
    keep = np.random.default_rng(seed).random((rows, columns)[axis]) < 0.5
    expected = np.broadcast_to(keep[:, None] if axis == 0 else keep, (rows, columns))
    cutter = unit_cutter({"w": (rows, columns), "free": (3, 5, 7)}, {"w": (axis, keep)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltpipe.pruning.units._EXPANDED", expanded)
        packed = {name: np.concatenate(list(cutter.packed(name))) for name in cutter.kept}
    np.testing.assert_array_equal(unpack(packed["w"], (rows, columns)), expected)
    assert unpack(packed["free"], (3, 5, 7)).all()
    assert cutter.kept == {"w": expected.sum(), "free": 105}
    assert len(packed["w"]) == (rows * columns + 7) // 8


# --- refusals


@pytest.mark.parametrize(
    ("architecture", "scope", "known"),
    [
        ("gpt2", "heads", "no"),
        ("gpt-neox", "channels", "no"),
        ("bloom", "heads", "no"),
        ("mixtral", "channels", "no"),
        ("opt", "blocks", "heads, channels"),
    ],
)
def test_unknown_units_are_refused(architecture, scope, known, canonical_folder, tmp_path):
    with pytest.raises(UserError, match=rf"scope '{scope}' .*LlamaForCausalLM.* {known} units"):
        make(canonical_folder(architecture), scope, "0.5", tmp_path / "mask")
    assert not (tmp_path / "mask").exists()


@pytest.mark.parametrize("scope", ["heads", "channels", "blocks"])
def test_units_must_be_prunable_as_a_whole(scope, unit_folder, tmp_path):
    left_out = "model.layers.1.self_attn.k_proj.weight" if scope == "heads" else "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(UserError, match=rf"'{left_out}' is not among the prunable weights"):
        make(unit_folder("llama"), scope, "0.3", tmp_path / "mask", exclude=(left_out,))


def test_blocks_with_output_biases_are_refused(unit_folder, tmp_path):
    with pytest.raises(UserError, match=r"'model.layers.0.self_attn.o_proj.bias' stays .* heads or channels"):
        make(unit_folder("llama-biases"), "blocks", "0.5", tmp_path / "mask")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_attention_heads": None}, "num_attention_heads is None"),
        ({"num_attention_heads": 7}, "7 attention heads cannot share 3"),
        ({"head_dim": 4}, r"has shape \[48, 48\], but config.json gives 3 units of 8"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, but the model has more"),
        ({"num_hidden_layers": 5}, "no tensor 'model.layers.4.self_attn.q_proj.weight'"),
    ],
)
def test_configuration_of_another_model_is_refused(change, words, unit_folder, tmp_path):
    shutil.copytree(unit_folder("llama"), tmp_path / "model")
    config = tmp_path / "model/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    rewritten(tmp_path / "model/manifest.json", files={"config.json": sha256_of(config)})
    with pytest.raises(UserError, match=words):
        make(tmp_path / "model", "heads", "0.3", tmp_path / "mask")


def test_weights_that_changed_to_nan_are_refused(unit_folder, tmp_path):
    shutil.copytree(unit_folder("llama"), tmp_path / "model")
    from ltpipe.checkpoints.prunable import Selection
    from ltpipe.pruning.build import make_mask
    from ltpipe.pruning.histogram import make_histogram

    make_histogram(Checkpoint.open(tmp_path / "model"), "magnitude", None, Selection()).write(tmp_path / "histogram")
    tensors = safetensors.numpy.load_file(tmp_path / "model/model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_weights(tmp_path / "model/model.safetensors", tensors)
    with pytest.raises(UserError, match=r"model.layers.1.mlp.up_proj.weight.* changed since it was counted"):
        make_mask(Checkpoint.open(tmp_path / "model"), tmp_path / "histogram", "channels", "0.3", tmp_path / "mask")
