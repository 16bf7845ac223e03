"""Which weights of a checkpoint compete for survival."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.runtime.errors import UserError

Preset = Literal["linear", "all-weights"]

_NOT_LINEAR = (
    "Embedding",
    "Conv1d",
    "Conv2d",
    "Conv3d",
)  # Conv1D, with a capital D, is GPT-2's transposed linear layer


@dataclass(frozen=True)
class Selection:
    """The prunable weights: those of a preset, plus `include` patterns, minus `exclude` patterns.

    Presets:
        linear: weight matrices inside the blocks (fused 3-D expert weights count; embeddings and convolutions do
            not), the convention of SparseGPT and Wanda.
        all-weights: every parameter of two or more dimensions whose name contains `weight`, and fused 3-D experts.

    Patterns are shell-style (`*.mlp.*`) and match whole tensor names, case-sensitively.
    """

    preset: Preset = "linear"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def names(self, manifest: Manifest) -> tuple[str, ...]:
        """Names of the selected tensors in canonical (byte) order.

        Raises:
            UserError: a pattern matches no parameter, or nothing is selected.
        """
        parameters = [name for name, entry in manifest.tensors.items() if not entry.buffer]
        included = self._matching("include", self.include, parameters)
        excluded = self._matching("exclude", self.exclude, parameters)
        chosen = ({name for name in parameters if self._in_preset(name, manifest)} | included) - excluded
        if not chosen:
            raise UserError(f"prunable: no weight of {manifest.architecture} is left; loosen preset or exclude")
        return tuple(sorted(chosen, key=str.encode))

    def _in_preset(self, name: str, manifest: Manifest) -> bool:
        entry = manifest.tensors[name]
        if len(entry.shape) < 2 or not ("weight" in name or len(entry.shape) == 3):
            return False
        if self.preset == "all-weights":
            return True
        return manifest.in_blocks(name) and not any(kind in entry.module for kind in _NOT_LINEAR)

    @staticmethod
    def _matching(key: str, patterns: Sequence[str], names: Sequence[str]) -> set[str]:
        matching: set[str] = set()
        for pattern in patterns:
            hits = {name for name in names if fnmatchcase(name, pattern)}
            if not hits:
                raise UserError(f"prunable.{key}: '{pattern}' matches no parameter; names look like '{names[0]}'")
            matching |= hits
        return matching
