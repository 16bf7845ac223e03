"""Which weights compete: exact lists for every architecture, patterns, and the order of names."""

import pytest
from tiny import ARCHITECTURES

from ltpipe.checkpoints.filenames import MANIFEST
from ltpipe.checkpoints.manifest import Manifest, TensorEntry
from ltpipe.checkpoints.prunable import Selection
from ltpipe.runtime.errors import UserError

_LLAMA = ("self_attn.{q,k,v,o}_proj.weight", "mlp.{gate,up,down}_proj.weight")
_FUSED = ("dense.weight", "query_key_value.weight")

# Blocks, the weight matrices in each, and what `all-weights` adds outside of them. Written by hand, not derived.
EXPECTED = {
    "llama": ("model.layers", _LLAMA, ("model.embed_tokens.weight", "lm_head.weight")),
    "qwen2": ("model.layers", _LLAMA, ("model.embed_tokens.weight",)),
    "gemma": ("model.layers", _LLAMA, ("model.embed_tokens.weight",)),
    "gemma2": ("model.layers", _LLAMA, ("model.embed_tokens.weight",)),
    # Conv1D: linear layers stored as [in, out]
    "gpt2": (
        "transformer.h",
        ("attn.{c_attn,c_proj}.weight", "mlp.{c_fc,c_proj}.weight"),
        ("transformer.wte.weight", "transformer.wpe.weight"),
    ),
    # project_in and project_out are linear layers, but in no block
    "opt": (
        "model.decoder.layers",
        ("self_attn.{q_proj,k_proj,v_proj,out_proj}.weight", "{fc1,fc2}.weight"),
        tuple(
            f"model.decoder.{name}.weight" for name in ("embed_tokens", "embed_positions", "project_in", "project_out")
        ),
    ),
    "gpt-neox": (
        "gpt_neox.layers",
        (*(f"attention.{name}" for name in _FUSED), "mlp.{dense_h_to_4h,dense_4h_to_h}.weight"),
        ("gpt_neox.embed_in.weight", "lm_head.weight"),
    ),
    "bloom": (
        "transformer.h",
        (*(f"self_attention.{name}" for name in _FUSED), "mlp.{dense_h_to_4h,dense_4h_to_h}.weight"),
        ("transformer.word_embeddings.weight",),
    ),
    # all experts of a block in one three-dimensional parameter without `weight` in its name; the router counts
    "mixtral": (
        "model.layers",
        (_LLAMA[0], "mlp.gate.weight", "mlp.experts.{gate_up_proj,down_proj}"),
        ("model.embed_tokens.weight", "lm_head.weight"),
    ),
}


def expanded(pattern: str) -> list[str]:
    """`a.{b,c}.d` as `a.b.d` and `a.c.d`."""
    if "{" not in pattern:
        return [pattern]
    head, _, rest = pattern.partition("{")
    choices, _, tail = rest.partition("}")
    return [head + choice + tail for choice in choices.split(",")]


def expected(architecture: str) -> tuple[set[str], set[str]]:
    blocks, matrices, outside = EXPECTED[architecture]
    linear = {f"{blocks}.{block}.{name}" for block in range(3) for pattern in matrices for name in expanded(pattern)}
    return linear, linear | set(outside)


@pytest.fixture
def llama(canonical_folder) -> Manifest:
    return Manifest.read(canonical_folder("llama") / MANIFEST)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_presets(architecture, canonical_folder):
    manifest = Manifest.read(canonical_folder(architecture) / MANIFEST)
    linear, everything = expected(architecture)
    assert set(Selection("linear").names(manifest)) == linear
    assert set(Selection("all-weights").names(manifest)) == everything
    assert Selection() == Selection("linear")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("preset", ["linear", "all-weights"])
def test_order_is_that_of_bytes(architecture, preset, canonical_folder):
    names = Selection(preset).names(Manifest.read(canonical_folder(architecture) / MANIFEST))
    assert names == tuple(sorted(names, key=str.encode))


def manifest_of(*tensors: tuple[str, tuple[int, ...], str, bool], blocks: str = "layers") -> Manifest:
    """A manifest of tensors that are matrices of linear maps where their module is called Linear."""
    entries = {}
    for name, shape, module, buffer in tensors:
        matrices = (1, *shape) if linear(shape, module, buffer) else None
        entries[name] = TensorEntry("F32", shape, "0" * 64, module, buffer, matrices)
    return Manifest("Zork", "here", blocks, entries, further=("heads",))


def linear(shape: tuple[int, ...], module: str, buffer: bool) -> bool:
    return module == "Linear" and len(shape) == 2 and not buffer


def test_ten_comes_before_two():
    """Canonical order is that of bytes, in any order of the manifest, and that of UTF-8 above ASCII."""
    numbers = [2, 10, 1, 0]
    manifest = manifest_of(*((f"layers.{number}.weight", (2, 2), "Linear", False) for number in numbers))
    assert Selection().names(manifest) == tuple(f"layers.{number}.weight" for number in (0, 1, 10, 2))
    # UTF-16 would put U+FF5E after U+1F600
    other = manifest_of(*((f"layers.{letter}.weight", (2, 2), "Linear", False) for letter in "\U0001f600\uff5eé~"))
    assert Selection().names(other) == tuple(f"layers.{letter}.weight" for letter in "~é\uff5e\U0001f600")


@pytest.mark.parametrize(
    ("tensor", "linear", "everything"),
    [
        (("layers.0.fc.weight", (4, 2), "Linear", False), True, True),
        (("layers.0.fc.bias", (4,), "Linear", False), False, False),
        (("layers.0.fc.weight", (4,), "RMSNorm", False), False, False),
        (("layers.0.experts.up", (4, 2), "Linear", False), True, True),  # whatever its name
        (("layers.0.conv.weight", (4, 1, 2), "Conv1d", False), False, True),
        (("layers.0.position.weight", (4, 2), "Embedding", False), False, True),
        (("layers.0.mix", (1, 1, 2), "Attention", False), False, False),
        (("layers.0.table", (4, 2), "Attention", False), False, False),
        (("layers.0.rotary.weight", (4, 2), "Linear", True), False, False),
        (("heads.0.fc.weight", (4, 2), "Linear", False), True, True),  # in the other list of blocks
        (("layers_of_others.0.fc.weight", (4, 2), "Linear", False), False, True),
        (("head.weight", (4, 2), "Linear", False), False, True),
        (("head.experts", (4, 2), "Linear", False), False, True),
    ],
)
def test_kinds_of_tensors(tensor, linear, everything):
    manifest = manifest_of(tensor, ("layers.9.weight", (2, 2), "Linear", False))
    assert (tensor[0] in Selection("linear").names(manifest)) == linear
    assert (tensor[0] in Selection("all-weights").names(manifest)) == everything


UP = {f"model.layers.{block}.mlp.up_proj.weight" for block in range(3)}
QUERIES = {f"model.layers.{block}.self_attn.q_proj.weight" for block in range(3)}


@pytest.mark.parametrize(
    ("include", "exclude", "change"),
    [
        (("lm_head.weight",), (), lambda names: names | {"lm_head.weight"}),
        (("model.embed_*", "lm_head*"), (), lambda names: names | {"model.embed_tokens.weight", "lm_head.weight"}),
        (("model.norm.weight",), (), lambda names: names | {"model.norm.weight"}),
        (("*.up_proj.weight",), (), lambda names: names),
        ((), ("*.up_proj.weight",), lambda names: names - UP),
        ((), ("*up_proj*", "*.q_proj.*"), lambda names: names - UP - QUERIES),
        ((), ("model.layers.[01].mlp.up_proj.weight",), lambda names: names - (UP - {max(UP)})),
        # a pattern names parameters, whether or not they would have been chosen
        ((), ("lm_head.weight",), lambda names: names),
        # exclude has the last word
        (("lm_head.weight",), ("lm_head.*",), lambda names: names),
        (("lm_head.weight",), ("*.mlp.*", "*.self_attn.*"), lambda _: {"lm_head.weight"}),
    ],
)
def test_patterns(include, exclude, change, llama):
    names = Selection("linear", include, exclude).names(llama)
    assert set(names) == change(expected("llama")[0])
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (Selection(include=("*.c_attn.*",)), ("prunable.include: '*.c_attn.*' matches no parameter", "model.")),
        (Selection(exclude=("lm_head",)), ("prunable.exclude: 'lm_head' matches no parameter",)),  # whole names only
        (Selection(exclude=("*.UP_PROJ.*",)), ("prunable.exclude: '*.UP_PROJ.*' matches no parameter",)),
        (Selection(include=("",)), ("prunable.include: ''",)),
        # one that matches does not hide one that does not
        (Selection(include=("lm_head.weight", "nope")), ("prunable.include: 'nope'",)),
        (Selection(exclude=("*",)), ("no weights of LlamaForCausalLM are selected", "exclude")),
        (Selection("all-weights", (), ("*weight",)), ("no weights of LlamaForCausalLM are selected",)),
    ],
)
def test_unusable_selections(selection, words, llama):
    with pytest.raises(UserError) as caught:
        selection.names(llama)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


def test_patterns_do_not_reach_buffers():
    manifest = manifest_of(("layers.0.weight", (2, 2), "Linear", False), ("layers.0.mask", (2, 2), "Linear", True))
    assert Selection(include=("layers.*",)).names(manifest) == ("layers.0.weight",)
    with pytest.raises(UserError, match="matches no parameter"):
        Selection(include=("*.mask",)).names(manifest)
