"""Blocks spread over several devices, made up but computing: nothing changes, nothing is in the wrong place."""

import pytest
import torch
from logical import logical_devices
from tiny import ARCHITECTURES

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest, TensorEntry
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.evaluation.loss import token_losses
from ltpipe.pruning.apply import fetch_from
from ltpipe.runtime.errors import UserError
from ltpipe.streaming.backward import walk_gradients
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.shards import Spread
from ltpipe.streaming.skeleton import build_skeleton

FLOAT = torch.float32


def model_on(folder, device, devices=(), streamed=True, fetched=None):
    manifest, fetch = Manifest.read(folder / MANIFEST), fetch_from(TensorFile(folder / WEIGHTS), None, device, FLOAT)

    def noted(name):
        if fetched is not None:
            fetched.append(name)
        return fetch(name)

    return CausalModel(build_skeleton(Checkpoint.open(folder), FLOAT), manifest, noted, device, streamed, None, devices)


class Sum:
    """A sink that adds up gradients."""

    def __init__(self):
        self.found, self.devices = {}, set()

    def add(self, name, weight, gradient):
        assert weight.device == gradient.device
        self.devices.add(gradient.device)
        self.found[name] = self.found.get(name, 0) + gradient.cpu()

    def finish(self, block):
        pass


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=() if name in ("llama", "mixtral") else pytest.mark.slow) for name in ARCHITECTURES],
)
def test_losses_are_those_of_one_device(architecture, canonical_folder, token_ids):
    """To the bit, whether blocks run on all sequences one after the other or a model cannot be walked so."""
    folder = canonical_folder(architecture)
    on_cpu = token_losses(model_on(folder, torch.device("cpu")), token_ids, 3, 10)
    with logical_devices(3) as devices:
        one = token_losses(model_on(folder, devices[0]), token_ids, 3, 10)
        for count, streamed in ((2, True), (3, True), (2, False)):
            model = model_on(folder, devices[0], devices[:count], streamed)
            got = token_losses(model, token_ids, 3, 10)
            assert torch.equal(got.losses, one.losses)
            assert torch.equal(got.correct, one.correct)
            used = {parameter.device for block in model.blocks.values() for parameter in block.parameters()}
            assert streamed or used == set(devices[:count])
    torch.testing.assert_close(one.losses, on_cpu.losses)


def test_gradients_are_those_of_one_device(canonical_folder, token_ids):
    """And they are where the weights are, so that what is made of them is spread too."""
    folder = canonical_folder("llama")
    manifest = Manifest.read(folder / MANIFEST)
    names = [name for name in manifest.tensors if manifest.in_blocks(name)]
    with logical_devices(2) as devices:
        sinks = []
        for several in ((), devices):
            sinks.append(Sum())
            walk_gradients(model_on(folder, devices[0], several), token_ids, 3, 10, names, sinks[-1])
    alone, spread = sinks
    assert alone.found.keys() == spread.found.keys() == set(names)
    assert all(torch.equal(alone.found[name], spread.found[name]) for name in names)
    assert spread.devices == set(devices)


def test_weights_are_kept_until_they_change(canonical_folder, token_ids):
    fetched: list[str] = []
    folder = canonical_folder("llama")
    with logical_devices(2) as devices:
        model = model_on(folder, devices[0], devices, fetched=fetched)
        assert model.execution == "sharded"
        token_losses(model, token_ids, 3, 10, super_batch=2)
        once = sorted(fetched)
        assert once == sorted(set(once))
        token_losses(model, token_ids, 3, 10)
        assert sorted(fetched) == once
        model.reload()
        token_losses(model, token_ids, 3, 10)
        assert sorted(fetched) == sorted(2 * once)


def manifest_of(blocks, outside=0, dtype="F32", tied=None):
    entries = {f"layers.{index}.w": TensorEntry(dtype, (size,), "", "Linear") for index, size in enumerate(blocks)}
    return Manifest("M", "", "layers", {"head": TensorEntry(dtype, (outside,), "", "Linear"), **entries}, tied or {})


@pytest.mark.parametrize(
    ("blocks", "outside", "count", "shares"),
    [
        ([10] * 4, 0, 2, [0, 0, 1, 1]),
        ([10] * 12, 0, 3, [0] * 4 + [1] * 4 + [2] * 4),
        ([10] * 4, 20, 2, [0, 1, 1, 1]),
        ([10] * 2, 90, 2, [1, 1]),
        ([10], 0, 2, [1]),
        ([50, 10, 10, 10], 0, 2, [0, 1, 1, 1]),
        ([10] * 2, 0, 4, [1, 3]),
    ],
)
def test_shares_are_as_equal_as_whole_blocks_allow(blocks, outside, count, shares):
    spread = Spread.of(manifest_of(blocks, outside), torch.bfloat16, count)
    assert list(spread.share_of_block.values()) == shares
    expected = [2 * sum(size for size, share in zip(blocks, shares, strict=True) if share == i) for i in range(count)]
    assert list(spread.nbytes) == [expected[0] + 2 * outside, *expected[1:]]


def test_blocks_are_counted_in_their_own_order():
    spread = Spread.of(manifest_of([1] * 12), FLOAT, 2)
    assert [spread.share_of_block[f"layers.{index}"] for index in range(12)] == [0] * 6 + [1] * 6


def test_a_weight_cannot_be_on_two_devices():
    with pytest.raises(UserError, match=r"'layers.1.w' is tied to 'layers.0.w'; use auto$"):
        Spread.of(manifest_of([1, 1], tied={"layers.1.w": "layers.0.w"}), FLOAT, 2)
