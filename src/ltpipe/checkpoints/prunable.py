"""Which weights of a checkpoint compete for survival."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.runtime.errors import UserError

Preset = Literal["linear", "all-weights"]


@dataclass(frozen=True)
class Selection:
    """The prunable weights: those of a preset, plus `include` patterns, minus `exclude` patterns.

    Presets:
        linear: the matrices that blocks multiply their activations with (including fused experts, but not embeddings,
            convolutions and vectors), the convention of SparseGPT and Wanda. The load stage has identified them.
        all-weights: such matrices everywhere, and every parameter of two or more dimensions with `weight` in its name.

    Patterns are shell-style (`*.mlp.*`) and match whole tensor names, case-sensitively.

    Attributes:
        preset: linear or all-weights.
        include: patterns of tensors to add.
        exclude: patterns of tensors to leave out.
    """

    preset: Preset = "linear"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def names(self, manifest: Manifest) -> tuple[str, ...]:
        """Return the names of the selected tensors in canonical (byte) order.

        Raises:
            UserError: a pattern matches no parameter, or nothing is selected.
        """
        parameters = [name for name, entry in manifest.tensors.items() if not entry.buffer]
        included = self._matching("include", self.include, parameters)
        excluded = self._matching("exclude", self.exclude, parameters)
        chosen = ({name for name in parameters if self._in_preset(name, manifest)} | included) - excluded
        if not chosen:
            raise UserError(f"prunable: no weights of {manifest.architecture} are selected; loosen preset or exclude")
        return tuple(sorted(chosen, key=str.encode))

    def _in_preset(self, name: str, manifest: Manifest) -> bool:
        entry = manifest.tensors[name]
        if self.preset == "all-weights":
            return entry.matrices is not None or (len(entry.shape) > 1 and "weight" in name)
        return entry.matrices is not None and manifest.block_of(name) is not None

    @staticmethod
    def _matching(key: str, patterns: Sequence[str], names: Sequence[str]) -> set[str]:
        matching: set[str] = set()
        for pattern in patterns:
            hits = {name for name in names if fnmatchcase(name, pattern)}
            if not hits:
                raise UserError(f"prunable.{key}: '{pattern}' matches no parameter; names look like '{names[0]}'")
            matching |= hits
        return matching
