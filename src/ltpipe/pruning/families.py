"""Where the units that structured scopes prune are, by architecture.

A unit is pruned whole or not at all: an attention *head* is a key/value head with all the query heads of its group
(Ainslie et al. 2023, 2305.13245), a *channel* is one intermediate feature of the MLP, and a *block* is all prunable
weights of a block. A unit's part of a tensor is neighbouring rows or columns.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.pruning.scopes import STRUCTURED
from ltpipe.runtime.errors import UserError


@dataclass(frozen=True)
class StructuredModel:
    """Names inside a block, and what the Hugging Face configuration of an architecture can express.

    Attributes:
        query, key, value, output: projections of the attention.
        expand: projections from the hidden state to the MLP's channels.
        contract: the projection back.
        channels_key: configuration key of the number of channels.
        scopes: structured scopes that masks can have.
        exported: scopes whose masks can be exported as a smaller checkpoint.
        heads_divide: whether the configuration requires the number of heads to divide the hidden size, even if the head
            size is given.
    """

    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    output: str = "self_attn.o_proj"
    expand: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    contract: str = "mlp.down_proj"
    channels_key: str = "intermediate_size"
    scopes: tuple[str, ...] = tuple(STRUCTURED)
    exported: tuple[str, ...] = tuple(STRUCTURED)
    heads_divide: bool = False

    @property
    def needed(self) -> tuple[str, ...]:
        """All projections of a block."""
        return (self.query, self.key, self.value, self.output, *self.expand, self.contract)


_OPT = StructuredModel(
    output="self_attn.out_proj",
    expand=("fc1",),
    contract="fc2",
    channels_key="ffn_dim",
    scopes=("heads", "channels"),  # biases of out_proj and fc2 stay, so no pruned block is the identity
    exported=("channels",),  # the size of a head is hidden_size / num_attention_heads, nothing else
)

STRUCTURED_MODELS: Mapping[str, StructuredModel] = {
    "LlamaForCausalLM": StructuredModel(heads_divide=True),
    "MistralForCausalLM": StructuredModel(),
    "Qwen2ForCausalLM": StructuredModel(),
    "Qwen3ForCausalLM": StructuredModel(),
    "GemmaForCausalLM": StructuredModel(),
    "Gemma2ForCausalLM": StructuredModel(heads_divide=True),
    "Gemma3ForCausalLM": StructuredModel(heads_divide=True),
    "OPTForCausalLM": _OPT,
}
"""Models with structured scopes, by class name."""


@dataclass(frozen=True)
class UnitPart:
    """Every unit's part of one tensor: `width` neighbouring rows (`axis` 0) or columns (1)."""

    name: str
    axis: int
    width: int


@dataclass(frozen=True)
class Family:
    """The units of one kind in one block, in the order of their rows and columns."""

    units: int
    parts: tuple[UnitPart, ...]


def structured_model(architecture: str, scope: str) -> StructuredModel:
    """Return what is known of an architecture with units of `scope`.

    Raises:
        UserError: the architecture has none.
    """
    model = STRUCTURED_MODELS.get(architecture)
    if model is None or scope not in model.scopes:
        allowed = [name for name, known in STRUCTURED_MODELS.items() if scope in known.scopes]
        raise UserError(
            f"scope '{scope}' does not know the units of {architecture}; it works with {', '.join(allowed)}; "
            f"ltpipe knows {', '.join(model.scopes) if model else 'no'} units of {architecture}"
        )
    return model


@dataclass(frozen=True)
class Attention:
    """Numbers of query heads and of key/value heads, and the size of each head."""

    queries: int
    groups: int
    size: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Attention":
        """Read the numbers from a configuration.

        Raises:
            UserError: they are missing or inconsistent.
        """
        queries = whole_number(config, "num_attention_heads")
        groups = whole_number(config, "num_key_value_heads") if config.get("num_key_value_heads") else queries
        if queries % groups:
            raise UserError(f"config.json: {queries} attention heads cannot share {groups} key/value heads evenly")
        size = whole_number(config, "head_dim") if config.get("head_dim") else None
        return cls(queries, groups, size or whole_number(config, "hidden_size") // queries)


def whole_number(config: Mapping[str, Any], key: str) -> int:
    """Return a count from a configuration.

    Raises:
        UserError: it is missing, or not an integer above 0.
    """
    value = config.get(key)
    if type(value) is not int or value < 1:
        raise UserError(f"config.json: {key} is {value!r}, expected an integer above 0; load the model again")
    return value


def families(scope: str, manifest: Manifest, config: Mapping[str, Any], prunable: Collection[str]) -> list[Family]:
    """Return the units of every block, block by block.

    Args:
        scope: heads, channels or blocks.
        manifest: the checkpoint's manifest.
        config: content of its config.json.
        prunable: names of the prunable tensors.

    Raises:
        UserError: the architecture has no such units, they do not fit configuration and prunable tensors, or a pruned
            block would not become the identity.
    """
    model = structured_model(manifest.architecture, scope)
    found = []
    blocks = whole_number(config, "num_hidden_layers")
    if any(name.startswith(f"{manifest.blocks}.{blocks}.") for name in manifest.tensors):
        raise UserError(f"config.json: num_hidden_layers is {blocks}, but the model has more; load the model again")
    for block in range(blocks):
        prefix = f"{manifest.blocks}.{block}."
        if scope == "blocks":
            family = _block(model, prefix, manifest, prunable)
        else:
            family = _heads(model, prefix, config) if scope == "heads" else _channels(model, prefix, config)
        _check(scope, family, manifest, prunable)
        found.append(family)
    return found


def _heads(model: StructuredModel, prefix: str, config: Mapping[str, Any]) -> Family:
    attention = Attention.of(config)
    group = attention.queries // attention.groups * attention.size
    rows = ((model.query, group), (model.key, attention.size), (model.value, attention.size))
    parts = tuple(UnitPart(f"{prefix}{name}.weight", 0, width) for name, width in rows)
    return Family(attention.groups, (*parts, UnitPart(f"{prefix}{model.output}.weight", 1, group)))


def _channels(model: StructuredModel, prefix: str, config: Mapping[str, Any]) -> Family:
    parts = tuple(UnitPart(f"{prefix}{name}.weight", 0, 1) for name in model.expand)
    return Family(
        whole_number(config, model.channels_key), (*parts, UnitPart(f"{prefix}{model.contract}.weight", 1, 1))
    )


def _block(model: StructuredModel, prefix: str, manifest: Manifest, prunable: Collection[str]) -> Family:
    for name in (model.output, model.contract):
        if f"{prefix}{name}.bias" in manifest.tensors:
            raise UserError(
                f"scope 'blocks': '{prefix}{name}.bias' stays when its block is pruned, so the block would not become "
                "the identity; use heads or channels for this model"
            )
    needed = [f"{prefix}{name}.weight" for name in model.needed]
    names = sorted({*needed, *(name for name in prunable if name.startswith(prefix))}, key=str.encode)
    rows = {name: manifest.tensors[name].shape[0] for name in names if name in manifest.tensors}
    return Family(1, tuple(UnitPart(name, 0, rows.get(name, 0)) for name in names))


def _check(scope: str, family: Family, manifest: Manifest, prunable: Collection[str]) -> None:
    """Check that units are prunable as a whole, and as large as the configuration says."""
    for part in family.parts:
        if part.name not in manifest.tensors:
            raise UserError(
                f"scope '{scope}': the model has no tensor '{part.name}'; its config.json is another model's"
            )
        if part.name not in prunable:
            raise UserError(
                f"scope '{scope}' prunes whole units, but '{part.name}' is not among the prunable weights; "
                "select it with prunable, or use another scope"
            )
        shape = manifest.tensors[part.name].shape
        if shape[part.axis] != family.units * part.width:
            raise UserError(
                f"scope '{scope}': '{part.name}' has shape {list(shape)}, but config.json gives {family.units} units "
                f"of {part.width} along axis {part.axis}; load the model again"
            )
