"""Small copies of an architecture: configurations with every kind of layer but little of the size.

A model's walk is judged on such a copy (`ltpipe.streaming.guard`), so a copy must have what the model has: the same
module classes with the same parameters and the same switches. This is verified, not assumed: a first guess comes from
the names of a configuration's numbers, and a guess that does not fit is dropped.
"""

import re
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ltpipe.streaming.skeleton import skeleton_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_PARAMETERS = 8_000_000
"""Most parameters of a copy: 32 MB, and a second or two for all its walks."""
_AS_IT_IS = 2_000_000
"""A model with at most this many parameters is its own copy."""
_FACTORS = (16, 8, 32, 4, 2, 64)
"""Divisors of widths. Heads keep their number or their width, so that hidden states are still whole heads."""
_DEPTHS = (4, 6, 8, 12, 16, 24, 32, 48)
_ODD = 256
"""From here on, widths that are not a multiple are divided too."""
_VOCABULARY, _POSITIONS, _WINDOW, _EXPERTS = 256, 64, 8, 16

_WIDTH_OF_EXPERT = re.compile(r"size|dim|hidden|inner|ffn|rank|width")
_HEADS, _HEAD_WIDTH = re.compile(r"heads$|n_head$"), re.compile(r"head_?dim|d_head|head_size|section")
_POSITION = re.compile(r"position|n_ctx|max_seq|context_length|max_length|max_target|max_source")
_NO_WIDTH = re.compile(
    r"heads|n_head$|layer|group|expert|token|seq|length|ctx|kernel|_ids?$|ids_|index|seed|top_?k|num_|(?:^|_)n_(?!embd|inner)|"
    r"patch|image|channels|stride|step|period|freq|theta|base|max_|eps|beta|bucket|version|every|floor|scale|cap|hash"
)


def small_configs(config: "PretrainedConfig", most: int = _PARAMETERS) -> Iterator["PretrainedConfig"]:
    """Yield configurations of small copies, the most faithful first; nothing if no small copy can be found.

    Each has all the kinds of modules in the model.

    Args:
        config: the model's configuration; it is not changed.
        most: most parameters of a copy; four times as many are allowed if there is no copy that small.
    """
    full = skeleton_of(config, torch.float32)
    wanted = _kinds(full)
    if _size(full) <= _AS_IT_IS:
        yield config
        return
    del full
    layers = _depth(config)
    found = False
    for limit, fewer_heads, factor in product((most, 4 * most), (False, True), _FACTORS):
        if limit > most and found:
            return
        for depth in [*(depth for depth in _DEPTHS if depth < layers), layers]:
            try:
                copy = type(config).from_dict(_Shrinking(factor, depth, layers, fewer_heads).of(config.to_dict()))
                skeleton = skeleton_of(copy, torch.float32)
            except Exception:  # a guess that is not a valid configuration raises anything
                continue
            if _size(skeleton) > limit:
                break
            if wanted <= _kinds(skeleton):
                found = True
                yield copy
                break


def _depth(config: "PretrainedConfig") -> int:
    """Return the number of layers, whatever its name."""
    text = config.get_text_config()
    named = getattr(text, "num_hidden_layers", None)
    counts = [v for k, v in text.to_dict().items() if type(v) is int and re.search(r"layers?$|depth$", k)]
    return named if isinstance(named, int) else max(counts, default=1)


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _kinds(model: nn.Module) -> frozenset[tuple]:
    """Return the kinds of modules: class, own parameters, and the values of boolean and string attributes."""
    return frozenset(
        (
            type(module),
            tuple(sorted(name for name, parameter in module.named_parameters(recurse=False) if parameter is not None)),
            tuple(sorted((k, v) for k, v in vars(module).items() if isinstance(v, bool | str) and k != "training")),
        )
        for module in model.modules()
    )


class _Shrinking:
    """One guess at a smaller configuration.

    Args:
        factor: divisor of widths.
        depth: number of layers wanted.
        layers: number of layers of the model.
        fewer_heads: whether to use fewer heads instead of narrower ones.
    """

    def __init__(self, factor: int, depth: int, layers: int, fewer_heads: bool) -> None:
        self._factor, self._depth, self._layers, self._fewer_heads = factor, depth, layers, fewer_heads
        self._kept = list(range(depth))

    def of(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return the content of the smaller configuration."""
        self._kept = self._layers_kept(content)
        return {name: self._value(name, value) for name, value in content.items() if value is not None}

    def _layers_kept(self, content: dict[str, Any]) -> list[int]:
        """Return the layers to keep: the first of each kind, the last layer, then the first ones up to the depth."""
        lists = [value for value in _values(content) if isinstance(value, list) and len(value) == self._layers]
        kinds = [str([value[layer] for value in lists]) for layer in range(self._layers)]
        first = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
        order = dict.fromkeys([*first, self._layers - 1, *range(self._layers)])
        return sorted(list(order)[: self._depth])

    def _value(self, name: str, value: Any) -> Any:
        if isinstance(value, dict) and value and all(str(key).isdigit() for key in value) and "label" not in name:
            layers = {int(layer): content for layer, content in value.items()}
            return {new: self._value(name, layers[old]) for new, old in enumerate(self._kept) if old in layers}
        if isinstance(value, dict):
            return {inner: self._value(str(inner), content) for inner, content in value.items()}
        if isinstance(value, list):
            return self._list(name, value)
        return self._number(name, value) if type(value) is int else value

    def _list(self, name: str, values: list[Any]) -> list[Any]:
        if len(values) == self._layers:
            return [self._value(name, values[layer]) for layer in self._kept]
        if "layer" in name and all(type(value) is int for value in values):
            return [value for value in values if value <= self._depth]
        if len(values) > _WINDOW and all(type(value) is float for value in values):
            return values if self._fewer_heads else values[: len(values) // self._factor]
        return [self._value(name, value) for value in values]

    def _number(self, name: str, value: int) -> int:
        if "vocab" in name:
            return min(value, _VOCABULARY)
        if name.endswith(("token_id", "token_ids", "token_index")):
            return value % _VOCABULARY if value > 0 else value
        if _POSITION.search(name):
            return min(value, _POSITIONS // 2 if name.startswith("original") else _POSITIONS)
        if "window" in name or "chunk" in name:
            return min(value, _WINDOW)
        if "expert" in name and not _WIDTH_OF_EXPERT.search(name):
            return min(value, _EXPERTS)
        if re.search(r"layers?$|depth$", name) and value == self._layers:
            return self._depth
        if re.search(r"layers$|depth$", name) and value > 1:
            return max(1, value * self._depth // self._layers) if value < self._layers else min(value, self._depth)
        if self._fewer_heads and _HEADS.search(name):
            return max(1, value // self._factor)
        if _NO_WIDTH.search(name.replace("expert", "")) or (self._fewer_heads and _HEAD_WIDTH.search(name)):
            return value
        if value < 2 * self._factor or (value % self._factor and value < _ODD):
            return value
        return value // self._factor if value % self._factor == 0 else value // self._factor // 8 * 8


def _values(content: dict[str, Any]) -> Iterator[Any]:
    for value in content.values():
        yield value
        if isinstance(value, dict):
            yield from _values(value)
