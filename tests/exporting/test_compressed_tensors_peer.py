"""Tickets in the sparse-bitmask format, read back by compressed-tensors itself."""

import json

import pytest
import safetensors.torch
import torch
from structured import make

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.exporting.formats import export_ticket
from ltpipe.pruning.masks import load_mask
from ltpipe.runtime.sources import Source

sparse = pytest.importorskip(
    "compressed_tensors.compressors.sparse_compressors.sparse_bitmask",
    reason="no compressed-tensors with sparse-bitmask is installed; make test-peers runs this",
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_library_reads_the_ticket(dtype, tmp_path):
    from byhand import masked_by_hand
    from compressed_tensors import BitmaskConfig
    from tiny import save_tiny

    save_tiny("qwen2", tmp_path / "source", dtype=dtype)
    load_checkpoint(Source(str(tmp_path / "source")), None, "auto", tmp_path / "model")
    mask = make(tmp_path / "model", "layer", "0.7", tmp_path / "mask")
    said = export_ticket("compressed-tensors", mask, Checkpoint.open(tmp_path / "model"), tmp_path / "ticket")
    expected = masked_by_hand(tmp_path / "source", load_mask(mask)).state_dict()
    config = json.loads((tmp_path / "ticket/config.json").read_text())["quantization_config"]["sparsity_config"]
    compressor = sparse.BitmaskCompressor(config=BitmaskConfig(**config))
    found = dict(compressor.decompress(str(tmp_path / "ticket")))
    assert found.keys() == expected.keys() - {"lm_head.weight"}, "tied, and stored once"
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert said.nbytes[1] < said.nbytes[0]
    stored = safetensors.torch.load_file(tmp_path / "ticket/model.safetensors")
    assert said.nbytes[1] == sum(tensor.nbytes for tensor in stored.values())
    specs = TensorFile(tmp_path / "ticket/model.safetensors").specs
    assert all(spec.begin % stored[name].element_size() == 0 for name, spec in specs.items()), "aligned"
    assert config["ignore"][0] == "model.embed_tokens"
