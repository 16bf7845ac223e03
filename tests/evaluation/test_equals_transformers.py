"""Streamed and in-memory evaluation against the plain transformers loop, dense and masked by hand."""

import math

import pytest
import torch
from byhand import masked_by_hand
from tiny import ARCHITECTURES, stands_in

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.evaluation.loss import token_losses
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import load_mask, read_mask
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton

CPU = torch.device("cpu")


def ours(folder, token_ids, mask=None, *, streamed=True, micro_batch=3, chunk=10):
    manifest = Manifest.read(folder / MANIFEST)
    fetch = fetch_from(TensorFile(folder / WEIGHTS), mask, CPU, torch.float32)
    model = CausalModel(build_skeleton(Checkpoint.open(folder), torch.float32), manifest, fetch, CPU, streamed)
    losses = token_losses(model, token_ids, micro_batch, chunk)
    assert model.streamed == streamed, model.not_streamed_because
    return losses


def plain(source, token_ids, mask=None):
    """The reference: one forward with labels for each sequence, on a model whose weights were masked by hand."""
    model = masked_by_hand(source, mask)
    with torch.no_grad():
        results = [model(input_ids=ids[None], labels=ids[None]) for ids in token_ids]
    losses = torch.tensor([float(result.loss) for result in results], dtype=torch.float64)
    hits = torch.stack([result.logits[0, :-1].argmax(-1) for result in results]) == token_ids[:, 1:]
    return losses, hits


def the_mask(folder, tmp_path, preset, sparsity="0.6"):
    path = tmp_path / f"{preset}.safetensors"
    make_histogram(Checkpoint.open(folder), "magnitude", None, Selection(preset)).write(
        tmp_path / "histogram.safetensors"
    )
    make_mask(Checkpoint.open(folder), tmp_path / "histogram.safetensors", "global", sparsity, path)
    return path


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "in-memory"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dense_loss_equals_transformers(architecture, streamed, source_folder, canonical_folder, token_ids):
    expected, hits = plain(source_folder(architecture), token_ids)
    got = ours(canonical_folder(architecture), token_ids, streamed=streamed)
    torch.testing.assert_close(got.loss_sums() / 23, expected, rtol=1e-5, atol=0)
    assert torch.equal(got.correct, hits)
    assert got.loss() == pytest.approx(float(expected.mean()), rel=1e-6)


@pytest.mark.parametrize("preset", ["linear", "all-weights"])
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "in-memory"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_masked_loss_equals_transformers(
    architecture, streamed, preset, source_folder, canonical_folder, token_ids, tmp_path
):
    path = the_mask(canonical_folder(architecture), tmp_path, preset)
    expected, hits = plain(source_folder(architecture), token_ids, load_mask(path))
    dense, _ = plain(source_folder(architecture), token_ids)
    got = ours(canonical_folder(architecture), token_ids, read_mask(path), streamed=streamed)
    torch.testing.assert_close(got.loss_sums() / 23, expected, rtol=1e-5, atol=0)
    assert torch.equal(got.correct, hits)
    assert not torch.allclose(expected, dense, rtol=1e-3), "the mask has to matter for this test to mean anything"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_micro_batch_and_chunk_do_not_change_the_result(architecture, canonical_folder, token_ids):
    folder = canonical_folder(architecture)
    whole = ours(folder, token_ids, micro_batch=len(token_ids), chunk=10_000).losses
    for micro_batch, chunk in [(1, 1), (2, 23), (5, 7)]:
        parts = ours(folder, token_ids, micro_batch=micro_batch, chunk=chunk).losses
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "bloom"])
@pytest.mark.parametrize("length", [4, 8])
def test_batch_as_long_as_other_dimensions(architecture, length, source_folder, canonical_folder):
    """Sequences, tokens, heads and head width all equal: shapes alone could not tell which one is the batch."""
    ids = torch.randint(3, 90, (length, length), generator=torch.Generator().manual_seed(1))
    expected, _ = plain(source_folder(architecture), ids)
    got = ours(canonical_folder(architecture), ids, micro_batch=3)
    torch.testing.assert_close(got.loss_sums() / (length - 1), expected, rtol=1e-5, atol=0)


def test_blocks_are_freed_and_the_file_is_untouched(canonical_folder, token_ids):
    folder = canonical_folder("llama")
    before = (folder / WEIGHTS).read_bytes()
    manifest = Manifest.read(folder / MANIFEST)
    fetched: list[str] = []
    inner = fetch_from(TensorFile(folder / WEIGHTS), None, CPU, torch.float32)

    def fetch(name):
        fetched.append(name)
        return inner(name)

    skeleton = build_skeleton(Checkpoint.open(folder), torch.float32)
    model = CausalModel(skeleton, manifest, fetch, CPU, streamed=True)
    token_losses(model, token_ids, 2, 16)
    assert all(stands_in(parameter) for parameter in skeleton.parameters())
    assert sorted(fetched) == sorted(manifest.tensors), "each stored tensor is read exactly once"
    assert (folder / WEIGHTS).read_bytes() == before


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "in-memory"])
def test_tied_weights_are_fetched_when_they_are_needed(streamed, canonical_folder, token_ids):
    """Streamed, embedding and head have the tied weight one after the other; in memory, they share one parameter."""
    folder = canonical_folder("qwen2")
    manifest = Manifest.read(folder / MANIFEST)
    assert manifest.tied == {"lm_head.weight": "model.embed_tokens.weight"}
    inner = fetch_from(TensorFile(folder / WEIGHTS), None, CPU, torch.float32)
    fetched: list[str] = []

    def fetch(name):
        fetched.append(name)
        return inner(name)

    skeleton = build_skeleton(Checkpoint.open(folder), torch.float32)
    model = CausalModel(skeleton, manifest, fetch, CPU, streamed)
    token_losses(model, token_ids, 2, 16)
    assert fetched.count("model.embed_tokens.weight") == (2 if streamed else 1)
    if streamed:
        assert all(stands_in(parameter) for parameter in skeleton.parameters())
    else:
        assert skeleton.lm_head.weight is skeleton.model.embed_tokens.weight


def test_super_batches_do_not_change_the_result(canonical_folder, token_ids):
    folder = canonical_folder("llama")
    manifest = Manifest.read(folder / MANIFEST)
    fetch = fetch_from(TensorFile(folder / WEIGHTS), None, CPU, torch.float32)
    whole = ours(folder, token_ids)
    for super_batch in (1, 2, len(token_ids) - 1):
        model = CausalModel(build_skeleton(Checkpoint.open(folder), torch.float32), manifest, fetch, CPU, True)
        parts = token_losses(model, token_ids, 3, 10, super_batch)
        torch.testing.assert_close(parts.losses, whole.losses, rtol=1e-5, atol=1e-6)
        assert torch.equal(parts.correct, whole.correct)


def test_one_sequence_and_uneven_token_weighting(canonical_folder, source_folder, token_ids):
    expected, _ = plain(source_folder("llama"), token_ids[:1])
    assert ours(canonical_folder("llama"), token_ids[:1]).loss() == pytest.approx(float(expected[0]), rel=1e-5)


def test_a_model_whose_blocks_do_not_stream_is_loaded_whole(canonical_folder, token_ids, monkeypatch, source_folder):
    """A block list that changes the width of its hidden states cannot be probed; the result is the same."""
    from ltpipe.streaming import model as module
    from ltpipe.streaming.blocks import NotStreamableError

    def refuse(*_):
        raise NotStreamableError("because of a test")

    monkeypatch.setattr(module, "probe_blocks", refuse)
    folder = canonical_folder("llama")
    fetch = fetch_from(TensorFile(folder / WEIGHTS), None, CPU, torch.float32)
    model = CausalModel(
        build_skeleton(Checkpoint.open(folder), torch.float32), Manifest.read(folder / MANIFEST), fetch, CPU, True
    )
    expected, _ = plain(source_folder("llama"), token_ids)
    assert token_losses(model, token_ids, 3, 10).loss() == pytest.approx(float(expected.mean()), rel=1e-5)
    assert not model.streamed
    assert model.not_streamed_because == "because of a test"


def test_infinite_loss_is_refused(canonical_folder, token_ids):
    from ltpipe.runtime.errors import UserError

    folder = canonical_folder("llama")
    inner = fetch_from(TensorFile(folder / WEIGHTS), None, CPU, torch.float32)

    def fetch(name):
        return inner(name) * math.inf if name == "lm_head.weight" else inner(name)

    model = CausalModel(
        build_skeleton(Checkpoint.open(folder), torch.float32), Manifest.read(folder / MANIFEST), fetch, CPU, True
    )
    with pytest.raises(UserError, match="token losses are infinite or not a number"):
        token_losses(model, token_ids, 3, 10)
