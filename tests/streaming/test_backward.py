"""Gradients of the streamed backward walk against a plain backward pass of transformers."""

import weakref
from collections import Counter

import pytest
import torch
from byhand import masked_by_hand
from tiny import ARCHITECTURES, some_quick, stands_in

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import load_mask, read_mask
from ltpipe.runtime.fake_device import ByteCounter
from ltpipe.streaming.backward import walk_gradients
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton

CPU = torch.device("cpu")
QUICK = ("llama", "gpt2", "mixtral")


class Sum:
    """Sums gradients up and notes what came when."""

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}
        self.weights: dict[str, torch.Tensor] = {}
        self.count: Counter[str] = Counter()
        self.finished: list[str] = []

    def add(self, name, weight, gradient):
        assert not any(name.startswith(f"{block}.") for block in self.finished), "a finished block is finished"
        assert gradient.shape == weight.shape
        self.count[name] += 1
        self.weights[name] = weight.clone()
        self.sums[name] = self.sums.get(name, 0) + gradient.double()

    def finish(self, block):
        self.finished.append(block)


class Forget:
    def add(self, *_):
        pass

    def finish(self, *_):
        pass


def opened(folder, mask=None, streamed=True):
    manifest = Manifest.read(folder / MANIFEST)
    fetch = fetch_from(TensorFile(folder / WEIGHTS), mask, CPU, torch.float32)
    return CausalModel(build_skeleton(Checkpoint.open(folder), torch.float32), manifest, fetch, CPU, streamed)


def in_blocks(model):
    entries = model.manifest.tensors.items()
    return [name for name, entry in entries if model.manifest.in_blocks(name) and not entry.buffer]


def ours(folder, token_ids, micro_batch=3, mask=None, streamed=True):
    model, sink = opened(folder, mask, streamed), Sum()
    names = in_blocks(model)
    sink.losses = walk_gradients(model, token_ids, micro_batch, 10, names, sink)
    assert model.streamed == streamed, model.not_streamed_because
    assert sink.finished == list(model.blocks)[::-1]
    assert sink.count == dict.fromkeys(names, -(-len(token_ids) // micro_batch))
    return sink


def plain(source, token_ids, mask=None):
    """The reference: one backward pass of the summed loss of the whole batch, on weights masked by hand."""
    model = masked_by_hand(source, mask)
    loss = model(input_ids=token_ids, labels=token_ids).loss * token_ids[:, 1:].numel()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}, loss.item()


def assert_close(sink, expected):
    """Relative to the tensor's gradient, where that is not zero but for rounding (OPT's bias of the keys)."""
    floor = 1e-3 * max(float(gradient.norm()) for gradient in expected.values() if gradient is not None)
    for name, got in sink.sums.items():
        wanted = torch.zeros_like(got) if expected[name] is None else expected[name].double()
        assert float((got - wanted).norm()) <= 1e-5 * max(float(wanted.norm()), floor), name


@pytest.mark.parametrize(
    ("architecture", "streamed"),
    [
        *(pytest.param(name, True, id=f"{name}-streamed") for name in ARCHITECTURES),
        *(
            pytest.param(name, False, id=f"{name}-in-memory", marks=() if name in QUICK else pytest.mark.slow)
            for name in ARCHITECTURES
        ),
    ],
)
def test_gradients_equal_a_plain_backward(architecture, streamed, source_folder, canonical_folder, token_ids):
    expected, loss = plain(source_folder(architecture), token_ids)
    for micro_batch in (3, 1, len(token_ids)):
        sink = ours(canonical_folder(architecture), token_ids, micro_batch, streamed=streamed)
        assert_close(sink, expected)
        assert float(sink.losses.double().sum()) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("architecture", some_quick(QUICK))
def test_gradients_are_taken_at_masked_weights(architecture, source_folder, canonical_folder, token_ids, tmp_path):
    folder, path = canonical_folder(architecture), tmp_path / "mask.safetensors"
    make_histogram(Checkpoint.open(folder), "magnitude", None, Selection("all-weights")).write(
        tmp_path / "histogram.safetensors"
    )
    make_mask(Checkpoint.open(folder), tmp_path / "histogram.safetensors", "global", "0.6", path)
    sink, mask = ours(folder, token_ids, mask=read_mask(path)), load_mask(path)
    assert_close(sink, plain(source_folder(architecture), token_ids, mask)[0])
    for name in sink.weights.keys() & mask.keys():
        assert not bool(sink.weights[name][~mask[name]].any()), "weights come masked"


@pytest.mark.parametrize("micro_batch", [2, 7])
def test_nothing_is_left_behind_and_the_file_is_untouched(micro_batch, canonical_folder, token_ids):
    folder = canonical_folder("llama")
    before = (folder / WEIGHTS).read_bytes()
    model = opened(folder)
    names = in_blocks(model)
    with ByteCounter(CPU) as counter:
        losses = walk_gradients(model, token_ids, micro_batch, 10, names, Forget())
    assert sum(counter.held.values()) == losses.untyped_storage().nbytes()
    assert all(stands_in(parameter) and parameter.grad is None for parameter in model.split.model.parameters())
    assert (folder / WEIGHTS).read_bytes() == before


def test_one_gradient_and_at_most_one_block_at_a_time(canonical_folder, token_ids):
    """Weights are read twice, once each way; a gradient is gone when the next one comes."""
    folder = canonical_folder("llama")
    manifest = Manifest.read(folder / MANIFEST)
    inner = fetch_from(TensorFile(folder / WEIGHTS), None, CPU, torch.float32)
    fetched: list[tuple[str, weakref.ref]] = []
    alive = []

    def fetch(name):
        values = inner(name).clone()
        inside = {n.split(".")[2] for n, r in fetched if manifest.in_blocks(n) and r() is not None}
        alive.append(inside | {name.split(".")[2]} if manifest.in_blocks(name) else inside)
        fetched.append((name, weakref.ref(values.untyped_storage())))
        return values

    class Watch(Forget):
        last = None

        def add(self, _name, _weight, gradient):
            assert Watch.last is None or Watch.last() is None, "the gradient before is still there"
            Watch.last = weakref.ref(gradient.untyped_storage())

    model = CausalModel(build_skeleton(Checkpoint.open(folder), torch.float32), manifest, fetch, CPU, True)
    walk_gradients(model, token_ids, 2, 10, in_blocks(model), Watch())
    assert max(map(len, alive)) == 1
    counts = Counter(name for name, _ in fetched)
    assert all(counts[name] == (2 if manifest.in_blocks(name) else 1) for name in manifest.tensors)


def test_only_the_gradients_that_were_asked_for(source_folder, canonical_folder, token_ids):
    model, sink, name = opened(canonical_folder("llama")), Sum(), "model.layers.1.mlp.up_proj.weight"
    walk_gradients(model, token_ids, 3, 10, [name], sink)
    assert list(sink.sums) == [name]
    assert_close(sink, plain(source_folder("llama"), token_ids)[0])


def test_a_weight_outside_the_blocks_is_refused(canonical_folder, token_ids):
    with pytest.raises(ValueError, match="not a parameter in the blocks"):
        walk_gradients(opened(canonical_folder("llama")), token_ids, 3, 10, ["model.embed_tokens.weight"], Forget())


def test_an_error_of_the_sink_leaves_a_model_that_still_works(source_folder, canonical_folder, token_ids):
    class Failing(Forget):
        def add(self, *_):
            raise KeyError("full")

    model, sink = opened(canonical_folder("llama")), Sum()
    with pytest.raises(KeyError, match="full"):
        walk_gradients(model, token_ids, 3, 10, in_blocks(model), Failing())
    assert all(stands_in(parameter) for parameter in model.split.model.parameters())
    walk_gradients(model, token_ids, 3, 10, in_blocks(model), sink)
    assert_close(sink, plain(source_folder("llama"), token_ids)[0])
