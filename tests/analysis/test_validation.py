"""Validation of masks: structure against bool arrays, and every reason once."""

from dataclasses import replace

import numpy as np
import pytest
from handmade import exact, mask_of, save_mask

from ltpipe.analysis import structure as structure_module
from ltpipe.analysis.structure import live_heads, live_rows
from ltpipe.analysis.validation import head_size, structure, validate, validate_files
from ltpipe.analysis.validation_table import LAYERS, layers_table, validation_table
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import CONFIG, MANIFEST
from ltpipe.checkpoints.manifest import Manifest, TensorEntry
from ltpipe.checkpoints.prunable import Selection
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.frames import dtypes

SHAPES = {
    "h.0.attn.k_proj.weight": (6, 10),
    "h.0.attn.q_proj.weight": (12, 10),
    "h.0.mlp.weight": (7, 9),
    "h.1.conv.weight": (9, 7),
    "h.1.experts": (2, 3, 5),
}
MODEL = Manifest(
    architecture="Hand",
    source="made",
    blocks="h",
    tensors={
        name: TensorEntry("F32", shape, "", "Linear", inputs_first=name == "h.1.conv.weight")
        for name, shape in SHAPES.items()
    },
)
HEAD = 3
TOTAL = sum(int(np.prod(shape)) for shape in SHAPES.values())


def arrays(sparsity=0.5, seed=0):
    """Random arrays that keep half of each tensor, and something in every row and column."""
    generator = np.random.default_rng(seed)
    return {
        name: exact(shape, int(np.prod(shape)) - round(sparsity * int(np.prod(shape))), generator)
        for name, shape in SHAPES.items()
    }


def full():
    return {name: np.ones(shape, np.bool_) for name, shape in SHAPES.items()}


def made(content, scope="elsewhere", sparsity="0.5", **changes):
    return mask_of(content, scope=scope, sparsity=sparsity, checkpoint=MODEL.fingerprint, **changes)


def judged(content, denser=None, **changes):
    return validate(made(content, **changes), MODEL, {"head_dim": HEAD}, denser)


# Structure


@pytest.mark.parametrize("stack", [(1, 5, 8), (1, 37, 13), (1, 100, 3), (1, 1, 1), (3, 4, 5), (1, 64, 1), (5, 3, 7)])
@pytest.mark.parametrize("piece", [1, 1 << 24])
def test_live_rows_equal_bool_arrays(stack, piece, monkeypatch):
    monkeypatch.setattr(structure_module, "_PIECE", piece)
    array = np.random.default_rng(sum(stack)).random(stack) < 1.5 / stack[-1]
    bits = np.packbits(array.reshape(-1), bitorder="little")
    np.testing.assert_array_equal(live_rows(bits, stack), array.any(axis=-1).reshape(-1))
    np.testing.assert_array_equal(live_rows(bits, stack, inputs_first=True), array.any(axis=1).reshape(-1))


def test_a_head_lives_if_one_of_its_rows_does():
    rows = np.array([0, 0, 1, 0, 0, 0, 1, 1, 1], np.bool_)
    np.testing.assert_array_equal(live_heads(rows, 3), [True, False, True])
    assert live_heads(rows, 4) is None


def test_what_a_mask_has_emptied_is_counted():
    content = full()
    content["h.0.attn.q_proj.weight"][3:6] = False  # one head
    content["h.0.attn.k_proj.weight"][[0, 1, 4]] = False  # two rows of one head, one of another
    content["h.1.conv.weight"][:, 2] = False  # an output: transposed
    content["h.1.conv.weight"][5] = False  # an input
    content["h.1.experts"][1, 0] = False
    found = structure(made(content), MODEL, HEAD)
    assert (found.rows, found.dead_rows) == (6 + 12 + 7 + 7 + 6, 3 + 3 + 1 + 1)
    assert (found.heads, found.dead_heads) == (6, 1)
    assert (found.dead_tensors, found.dead_blocks) == ((), ())
    assert structure(made(content), MODEL).heads is None


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"head_dim": 8, "hidden_size": 32, "num_attention_heads": 2}, 8),
        ({"hidden_size": 32, "num_attention_heads": 4}, 8),
        ({"head_dim": None, "hidden_size": 32, "num_attention_heads": 4}, 8),
        ({"text_config": {"head_dim": 5}, "head_dim": 7}, 5),
        ({"n_embd": 32}, None),
    ],
)
def test_head_size(config, size):
    assert head_size(config) == size


# Reasons


def test_a_sound_mask_has_none():
    found = judged(full(), scope="global", sparsity="0")
    assert (found.verdict, found.broken, found.warnings) == ("sound", (), ())


def test_layer_masks_must_be_exact_in_every_tensor_and_global_ones_only_in_total():
    content = arrays()
    assert judged(content, scope="layer").broken == ()
    # of 63 weights 32 are pruned (halves to even), so that all tensors together keep one weight less than half
    assert judged(content, scope="global").broken == ("keeps 167 weights instead of 168",)
    name = "h.0.mlp.weight"
    content[name].flat[np.flatnonzero(~content[name])[0]] = True
    assert judged(content, scope="global").broken == ()
    assert judged(content, scope="layer").broken == (f"'{name}' keeps 32 weights instead of 31",)


def test_bits_behind_the_last_weight():
    mask = made(full(), scope="global", sparsity="0")
    bits = {**mask.bits, "h.0.mlp.weight": mask.bits["h.0.mlp.weight"] | np.uint8(128)}
    assert "after its last weight" in validate(replace(mask, bits=bits), MODEL).broken[0]


@pytest.mark.parametrize("dead", [["h.0.mlp.weight"], [name for name in SHAPES if name.startswith("h.1.")]])
def test_layer_collapse_of_a_tensor_and_of_a_block(dead):
    content = full() | {name: np.zeros(SHAPES[name], np.bool_) for name in dead}
    found = judged(content)
    assert (found.verdict, found.structure.dead_tensors) == ("warnings", tuple(dead))
    assert found.structure.dead_blocks == (("h.1",) if len(dead) > 1 else ())
    where = "'h.1'" if len(dead) > 1 else "'h.0.mlp.weight'"
    assert [reason for reason in found.warnings if "collapse" in reason] == [f"layer collapse: nothing kept in {where}"]


def test_a_mask_of_nothing_is_told_from_a_collapse():
    found = judged({name: np.zeros(shape, np.bool_) for name, shape in SHAPES.items()}, scope="global", sparsity="1")
    assert (found.broken, found.warnings) == ((), ("keeps nothing",))


def test_dead_rows_and_heads_are_warnings_but_not_where_they_are_wanted():
    content = full()
    content["h.0.attn.q_proj.weight"][3:6] = False
    assert judged(content).warnings[1:] == (
        "1 of 6 heads of query, key and value projections keep nothing", "3 of 38 output rows keep nothing",
    )  # fmt: skip
    for scope in ("heads", "channels", "blocks", "block3x10"):
        assert validate(made(content, scope=scope), MODEL).warnings == ()


def test_masks_that_are_not_nested():
    denser = made(arrays(0.3), scope="layer", sparsity="0.3")
    nested = {name: array & arrays(0.3)[name] for name, array in arrays(0.5, seed=1).items()}
    assert not any("nested" in reason for reason in judged(nested, denser, scope="layer").broken)
    stray = arrays(0.5, seed=1)
    alone = sum(int((stray[name] & ~arrays(0.3)[name]).sum()) for name in stray)
    found = judged(stray, denser, scope="layer")
    assert found.broken == (f"not nested: keeps {alone:,} weights that sparsity 0.3 does not",)
    assert judged(stray, denser, scope="erk").warnings[0] == found.broken[0]
    (narrow,) = [replace(denser, shapes={}, kept={}, bits={})]
    assert "prunes other tensors than sparsity 0.3" in judged(nested, narrow, scope="layer").warnings


def test_masks_of_another_model():
    foreign = replace(made(full()), checkpoint="f" * 64)
    found = validate(foreign, MODEL)
    assert (found.verdict, found.structure) == ("broken", None)
    assert found.broken == (f"wrong model: made from checkpoint ffffffffffff, not {MODEL.fingerprint[:12]}",)
    odd = made({"h.0.mlp.weight": np.ones((9, 7), np.bool_), "other": np.ones(3, np.bool_)})
    assert validate(odd, MODEL).broken == (
        "wrong model: 'h.0.mlp.weight' has shape [7, 9], but [9, 7] in the mask",
        "wrong model: 'other' is not one of its parameters",
    )


# Files


def test_masks_of_the_mask_stage_are_sound(canonical_folder, tmp_path):
    folder = canonical_folder("llama")
    paths = []
    for criterion, seed in (("magnitude", None), ("random", 3)):
        counts = tmp_path / criterion
        make_histogram(Checkpoint.open(folder), criterion, seed, Selection()).write(counts)
        for scope in ("global", "layer"):
            for sparsity in ("0.1", "0.35", "0.5"):
                paths.append(tmp_path / f"{criterion}-{scope}-{sparsity}")
                make_mask(Checkpoint.open(folder), counts, scope, sparsity, paths[-1])
    verdicts = validate_files(paths[::-1], Checkpoint.open(folder))
    table = validation_table("m", verdicts)
    assert list(table["verdict"]) == ["sound"] * 12
    assert list(table["sparsity"]) == [0.1, 0.35, 0.5] * 4
    assert set(table["heads"]) == {3 * (4 + 2 + 2)}
    assert set(table["rows"]) == {3 * (32 + 16 + 16 + 32 + 48 + 48 + 32)}


def test_nesting_is_checked_among_masks_of_one_kind_and_between_neighbours(tmp_path):
    (tmp_path / CONFIG).write_text("{}")
    replace(MODEL, files={CONFIG: sha256_of(tmp_path / CONFIG)}).write(tmp_path / MANIFEST)
    checkpoint = Checkpoint.open(tmp_path)
    half, other = arrays(0.5, seed=1), arrays(0.5, seed=2)
    sparse = {name: exact(shape, int(np.prod(shape)) - round(0.75 * int(np.prod(shape))), np.random.default_rng(5))
              for name, shape in SHAPES.items()}  # fmt: skip
    paths = [
        save_mask(made(half, scope="layer"), tmp_path / "a"),
        save_mask(made(sparse, scope="layer", sparsity="0.75"), tmp_path / "b"),
        save_mask(made(other, scope="layer", criterion="fisher"), tmp_path / "c"),
    ]
    found = validate_files(paths, checkpoint)
    assert [(v.mask.criterion, v.mask.sparsity.text, v.verdict == "broken") for v in found] == [
        ("fisher", "0.5", False), ("magnitude", "0.5", False), ("magnitude", "0.75", True),
    ]  # fmt: skip
    assert "not nested" in validation_table("m", found)["reasons"][2]
    with pytest.raises(UserError, match="no such file"):
        validate_files([tmp_path / "absent"], checkpoint)


def test_the_layers_table_has_what_every_tensor_of_every_mask_keeps():
    masks = [made(arrays(0.5)), made(arrays(0.25, seed=1), scope="heads", sparsity="0.25", seed=1)]
    table = layers_table("m", [validate(mask, MODEL, {"head_dim": HEAD}) for mask in masks])
    assert table.dtypes.astype(str).to_dict() == dtypes(LAYERS)
    assert len(table) == 2 * len(SHAPES)
    assert table["tensor"].tolist() == [*SHAPES] * 2
    assert table["weights"].tolist() == [int(np.prod(shape)) for shape in SHAPES.values()] * 2
    assert table["kept"].tolist() == [mask.kept[name] for mask in masks for name in SHAPES]
    assert table["sparsity"].tolist() == [0.5] * len(SHAPES) + [0.25] * len(SHAPES)
    assert table["seed"].isna().sum() == len(SHAPES)
    assert layers_table("m", []).empty
