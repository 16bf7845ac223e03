"""Checkpoints of any size, written without holding them in memory: shapes of Qwen2.5-1.5B, normal weights."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest, TensorEntry
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.runtime.determinism import stable_seed

_HIDDEN = 1536
_INTERMEDIATE = 8960
_KEYS_VALUES = 256  # two heads of 128
_CHUNK = 1 << 22
_DEVIATION = 0.02


@dataclass(frozen=True)
class Architecture:
    """A Qwen2 of hidden size 1536 with the given layers and vocabulary size. Its embeddings are tied."""

    layers: int
    vocabulary: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return every stored tensor's shape, by name."""
        block = {
            "input_layernorm": (_HIDDEN,),
            "mlp.down_proj": (_HIDDEN, _INTERMEDIATE),
            "mlp.gate_proj": (_INTERMEDIATE, _HIDDEN),
            "mlp.up_proj": (_INTERMEDIATE, _HIDDEN),
            "post_attention_layernorm": (_HIDDEN,),
            "self_attn.k_proj": (_KEYS_VALUES, _HIDDEN),
            "self_attn.o_proj": (_HIDDEN, _HIDDEN),
            "self_attn.q_proj": (_HIDDEN, _HIDDEN),
            "self_attn.v_proj": (_KEYS_VALUES, _HIDDEN),
        }
        biases = {f"self_attn.{part}_proj": (rows,) for part, rows in (("k", 256), ("q", _HIDDEN), ("v", 256))}
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, _HIDDEN)}
        for layer in range(self.layers):
            shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
            shapes |= {f"model.layers.{layer}.{name}.bias": shape for name, shape in biases.items()}
        return shapes | {"model.norm.weight": (_HIDDEN,)}


QWEN_1_5B = Architecture(layers=28, vocabulary=151_936)


def write_random(folder: Path, architecture: Architecture, dtype: str) -> Manifest:
    """Write a canonical folder of random weights in BF16 or F32, one chunk in memory at a time."""
    return _write(folder, architecture, dtype, lambda name, shape: _random(name, int(np.prod(shape)), dtype))


def write_part(folder: Path, architecture: Architecture, whole: Path) -> Manifest:
    """Write a smaller architecture whose tensors are the first rows of those of `whole`."""
    source = TensorFile(whole / WEIGHTS)
    dtype = source.specs["model.norm.weight"].dtype

    def first(name: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        rows = source.array(name)[: shape[0]].reshape(-1)
        for start in range(0, rows.size, _CHUNK):
            yield rows[start : start + _CHUNK]

    return _write(folder, architecture, dtype, first)


def _write(
    folder: Path,
    architecture: Architecture,
    dtype: str,
    contents: Callable[[str, tuple[int, ...]], Iterator[np.ndarray]],
) -> Manifest:
    folder.mkdir(parents=True)
    shapes = dict(sorted(architecture.shapes().items()))
    digests = {name: hashlib.sha256() for name in shapes}

    def hashed(name: str) -> Iterator[np.ndarray]:
        for chunk in contents(name, shapes[name]):
            digests[name].update(memoryview(chunk).cast("B"))
            yield chunk

    write_tensors(
        folder / WEIGHTS,
        [TensorData(name, dtype, shape, hashed(name)) for name, shape in shapes.items()],
        {"format": "pt"},
    )
    manifest = Manifest(
        architecture="Qwen2ForCausalLM",
        source="benchmarks/synthetic.py",
        blocks="model.layers",
        tensors=_entries(shapes, dtype, {name: digest.hexdigest() for name, digest in digests.items()}),
        tied={"lm_head.weight": "model.embed_tokens.weight"},
    )
    manifest.write(folder / MANIFEST)
    return manifest


def _entries(shapes: Mapping[str, tuple[int, ...]], dtype: str, digests: Mapping[str, str]) -> dict[str, TensorEntry]:
    return {name: _entry(name, dtype, shape, digests[name]) for name, shape in shapes.items()}


def _entry(name: str, dtype: str, shape: tuple[int, ...], digest: str) -> TensorEntry:
    if "embed" in name or "norm" in name:
        return TensorEntry(dtype, shape, digest, "Embedding" if "embed" in name else "Qwen2RMSNorm")
    return TensorEntry(dtype, shape, digest, "Linear", matrices=(1, *shape) if len(shape) == 2 else None)


def _random(name: str, size: int, dtype: str) -> Iterator[np.ndarray]:
    generator = np.random.Generator(np.random.SFC64(stable_seed(0, name)))
    for start in range(0, size, _CHUNK):
        values = generator.standard_normal(min(_CHUNK, size - start), np.float32)
        values *= np.float32(_DEVIATION)
        yield _rounded_to_bf16(values) if dtype == "BF16" else values


def _rounded_to_bf16(values: np.ndarray) -> np.ndarray:
    """Return bit patterns of the nearest bfloat16, halves to even; overwrites `values`."""
    bits = values.view(np.uint32)
    bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (bits >> np.uint32(16)).astype(np.uint16)
