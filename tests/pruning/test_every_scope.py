"""Every scope with every criterion in every dtype, through the functions of the scripts, on a real checkpoint."""

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from ltpipe.analysis.validation import validate_files
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.pruning.allocations import allocation_names
from ltpipe.pruning.masks import load_mask, pack, read_mask, unpack, write_whole_mask
from ltpipe.pruning.scopes import scope_named, scopes
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Source
from ltpipe.scoring.criterion import every_criterion, scored_criterion

SCRIPTS = str(Path(__file__).parents[2] / "scripts")
SCOPES = [*scopes(), "2of4", "block4x8"]
SPARSITIES = ("0.3", "0.5")
DTYPES = ("float32", "bfloat16", "float16")
HYBRID = "mix"
NESTED = {"global", "layer", "row", "lamp", "lamp-row", "block4x8"}
NEEDS_SIZES = {"importance", "lamp", "owl", "importance-row", "lamp-row", "owl-row", "block4x8",
               "heads", "channels", "blocks"}  # fmt: skip
QUICK = {("magnitude", dtype) for dtype in DTYPES} | {
    ("random", "bfloat16"),
    ("wanda", "float16"),
    ("grasp", "float32"),
}
KEY_VALUE_HEADS, CHANNELS, BLOCKS = 2, 48, 3


def main_of(script):
    sys.path.insert(0, SCRIPTS)
    try:
        return import_module(script).main
    finally:
        sys.path.remove(SCRIPTS)


@pytest.fixture(scope="module")
def checkpoint(source_folder, tmp_path_factory):
    """Function from a dtype to the canonical folder of a tiny Llama."""
    made = {}

    def folder(dtype):
        if dtype not in made:
            made[dtype] = tmp_path_factory.mktemp(dtype)
            load_checkpoint(Source(str(source_folder("llama"))), None, dtype, made[dtype])
        return made[dtype]

    return folder


def scored(folder, criterion, sequences, out):
    """The score file of a criterion that has one."""
    from ltpipe.evaluation.computing import ComputeSettings

    def score(name):
        given = sequences if scored_criterion(name).needs_data else None
        main_of("score")(
            checkpoint=folder,
            criterion=name,
            output=out / name,
            sequences=given,
            settings=ComputeSettings(device="cpu"),
        )
        return out / name

    if criterion == HYBRID:
        parts = ("magnitude", str(score("taylor")))
        main_of("hybrid")(checkpoint=folder, name=HYBRID, scores=parts, weights=(1.0, 0.5), output=out / HYBRID)
        return out / HYBRID
    return None if criterion in ("magnitude", "random") else score(criterion)


@pytest.mark.parametrize("scope", SCOPES)
def test_validation_knows_what_every_scope_promises(scope, checkpoint, tmp_path):
    folder, histogram = checkpoint("float32"), tmp_path / "histogram"
    main_of("histogram")(checkpoint=folder, criterion="magnitude", output=histogram, threads=1)
    path = tmp_path / "mask"
    main_of("mask")(checkpoint=folder, histogram=histogram, scope=scope, sparsity="0.5", output=path, threads=1)
    mask = read_mask(path)

    def broken(change):
        arrays = {name: change(unpack(bits, mask.shapes[name]).copy()) for name, bits in mask.bits.items()}
        bits = {name: pack(array) for name, array in arrays.items()}
        kept = {name: int(array.sum()) for name, array in arrays.items()}
        write_whole_mask(tmp_path / "changed", replace(mask, bits=bits, kept=kept))
        (found,) = validate_files([tmp_path / "changed"], Checkpoint.open(folder))
        return found.broken

    def one_more(array):
        array.flat[np.flatnonzero(~array)[:1]] = True
        return array

    def elsewhere(array):
        """The same number in the tensor, three of them in other rows."""
        kept, pruned = np.flatnonzero(array), np.flatnonzero(~array)
        moved = min(3, kept.size, pruned.size)
        array.flat[pruned[:moved]], array.flat[kept[kept.size - moved :]] = True, False
        return array

    assert broken(lambda array: array) == ()
    assert broken(lambda array: array | True) != ()  # twice as many
    assert broken(one_more) != ()
    if scope != "blocks":  # whose tensors are whole or gone
        assert (broken(elsewhere) == ()) == (scope in ("global", "layer", *allocation_names()))


def promised(scope, sparsity, kept):
    """What docs/scopes.md says of counts, looked at weight by weight."""
    total = sum(array.size for array in kept.values())
    pruned = total - sum(int(array.sum()) for array in kept.values())
    by_name = {name: array.size - int(array.sum()) for name, array in kept.items()}
    if scope == "global" or scope.removesuffix("-row") in allocation_names():
        assert pruned == Sparsity.of(sparsity).count(total)
    if scope.endswith("-row"):
        assert all(np.ptp(array.sum(1)) <= 1 for array in kept.values())
    if scope == "layer":
        assert all(by_name[name] == Sparsity.of(sparsity).count(array.size) for name, array in kept.items())
    if scope == "row":
        assert all(((~array).sum(1) == Sparsity.of(sparsity).count(array.shape[1])).all() for array in kept.values())
    if scope == "2of4":
        assert all((array.reshape(-1, 4).sum(1) == 2).all() for array in kept.values())
    if scope == "block4x8":
        tiles = np.concatenate(
            [array.reshape(len(array) // 4, 4, -1, 8).swapaxes(1, 2).reshape(-1, 32) for array in kept.values()]
        ).sum(1)
        assert set(tiles) <= {0, 32}
        assert int((tiles == 0).sum()) == Sparsity.of(sparsity).count(tiles.size)
    if scope == "blocks":
        dead = {
            block
            for block in range(BLOCKS)
            if not any(array.any() for name, array in kept.items() if f".{block}." in name)
        }
        assert len(dead) == Sparsity.of(sparsity).count(BLOCKS)
    if scope in ("heads", "channels"):
        units, leaf = (KEY_VALUE_HEADS, "k_proj") if scope == "heads" else (CHANNELS, "gate_proj")
        for name, array in kept.items():
            if leaf in name:
                whole = array.reshape(units, -1)
                assert int((~whole.any(1)).sum()) == Sparsity.of(sparsity).count(units)
                assert (whole.all(1) == whole.any(1)).all()


@pytest.mark.parametrize(
    ("criterion", "dtype"),
    [
        pytest.param(criterion, dtype, marks=() if (criterion, dtype) in QUICK else pytest.mark.slow)
        for criterion in [*every_criterion(), HYBRID]
        for dtype in DTYPES
    ],
)
def test_every_scope_makes_the_mask_that_it_promises(criterion, dtype, checkpoint, calibration, tmp_path):
    import pandas as pd

    folder, seed = checkpoint(dtype), 3 if criterion == "random" else None
    scores = scored(folder, criterion, calibration("llama"), tmp_path)
    main_of("histogram")(
        checkpoint=folder, criterion=criterion, seed=seed, scores=scores, output=tmp_path / "histogram", threads=1
    )
    signed = criterion == "grasp"
    made = []
    for scope in SCOPES:
        denser = None
        for sparsity in SPARSITIES if scope_named(scope).own_sparsity is None else ("0.5",):
            output = tmp_path / f"{scope}-{sparsity}"
            ask = {
                "checkpoint": folder,
                "histogram": tmp_path / "histogram",
                "scores": scores,
                "output": output,
                "threads": 1,
            }
            if signed and scope in NEEDS_SIZES:
                with pytest.raises(
                    UserError, match="this scope adds up scores, but this criterion's scores are signed"
                ):
                    main_of("mask")(**ask, scope=scope, sparsity=sparsity)
                continue
            main_of("mask")(**ask, scope=scope, sparsity=sparsity)
            kept = {name: tensor.numpy() for name, tensor in load_mask(output).items()}
            promised(scope, sparsity, kept)
            if denser is not None and scope in NESTED:
                assert not any((array & ~denser[name]).any() for name, array in kept.items()), scope
            denser = kept
            made.append(output)
    main_of("validation")(masks=tuple(made), checkpoint=folder, output=tmp_path / "csv")
    table = pd.read_csv(tmp_path / "csv")
    assert len(table) == len(made)
    assert not table["verdict"].eq("broken").any(), table[table["verdict"] == "broken"]["reasons"].tolist()


@pytest.mark.parametrize(
    ("scope", "options", "differs"),
    [
        ("row", {"counts": "truncated"}, True),
        ("row", {"counts": "exact"}, False),
        ("owl", {"multiple": "2", "window": "0.2"}, True),
        ("owl-row", {"clip": "false", "multiple": "2"}, True),
        ("owl", {"window": 0.08, "multiple": 5, "clip": True}, False),
    ],
)
def test_options_of_a_scope_are_in_its_masks_and_known_to_validation(scope, options, differs, checkpoint, tmp_path):
    folder, histogram = checkpoint("float32"), tmp_path / "histogram"
    main_of("histogram")(checkpoint=folder, criterion="magnitude", output=histogram, threads=1)
    masks = {}
    for name, given in {"plain": {}, "chosen": options}.items():
        ask = {"checkpoint": folder, "histogram": histogram, "output": tmp_path / name, "threads": 1}
        main_of("mask")(**ask, scope=scope, sparsity="0.55", options=given)
        masks[name] = read_mask(tmp_path / name)
    assert ({**masks["plain"].kept} != {**masks["chosen"].kept}) == differs
    assert masks["chosen"].options["scope"].keys() >= options.keys()
    paths = [tmp_path / name for name in masks]
    assert [found.broken for found in validate_files(paths, Checkpoint.open(folder))] == [(), ()]
    if scope == "row":
        pruned = {}
        for name, shape in masks["chosen"].shapes.items():
            rows = ~unpack(masks["chosen"].bits[name], shape)
            (pruned[shape[1]],) = set(rows.sum(1).tolist())
        truncated = {columns: int(columns * 0.55) for columns in (32, 48)}
        assert pruned == (
            truncated if differs else {columns: Sparsity.of("0.55").count(columns) for columns in (32, 48)}
        )
        if differs:  # the mask must not pass for one that was rounded
            write_whole_mask(tmp_path / "lies", replace(masks["chosen"], options={}))
            (found,) = validate_files([tmp_path / "lies"], Checkpoint.open(folder))
            assert found.broken != ()


def test_options_that_a_scope_does_not_have_are_one_line(checkpoint, tmp_path):
    folder, histogram = checkpoint("float32"), tmp_path / "histogram"
    main_of("histogram")(checkpoint=folder, criterion="magnitude", output=histogram, threads=1)
    for scope, options, message in (
        ("global", {"counts": "exact"}, r"^scope global: unknown option 'counts'; there are no options$"),
        ("row", {"counts": "up"}, r"^scope row\.counts: 'up' is not allowed; use exact or truncated$"),
        ("owl", {"window": "2"}, r"^scope owl\.window: 2 is not allowed; use a number from 0 to 1$"),
        ("owl-row", {"clip": "maybe"}, r"^scope owl-row\.clip: 'maybe' is not allowed; use true or false$"),
    ):
        ask = {"checkpoint": folder, "histogram": histogram, "output": tmp_path / "none", "threads": 1}
        with pytest.raises(UserError, match=message):
            main_of("mask")(**ask, scope=scope, sparsity="0.5", options=options)
        assert not (tmp_path / "none").exists()
