"""How many weights of a matrix a solver prunes, and where."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ltpipe.pruning import matrix_kernels
from ltpipe.pruning.scopes import Allocated, AllocatedRows, NOfM, Rows, Unstructured, scope_named
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import Given, options_of

SCOPES = "row, layer, NofM (2of4), allocations (erk, owl) and these by rows (owl-row)"
"""The scopes that solvers can do."""


@dataclass(frozen=True)
class Pattern:
    """The weights to prune in every matrix of a mask.

    Attributes:
        scope: name of the scope, for messages.
        sparsity: fraction to prune.
        each: where exactly that fraction is pruned: in each matrix, row or run of `group` weights.
        group: length of a run.
        truncated: whether rows lose the integer part of the product, as in Wanda's code.
        allocated: whether an allocation says how many weights each tensor loses; see `of_tensor`.
        count: number to prune in each matrix or row, if not that of the sparsity.
    """

    scope: str
    sparsity: Sparsity
    each: Literal["matrix", "row", "run"]
    group: int = 1
    truncated: bool = False
    allocated: bool = False
    count: int | None = None

    @classmethod
    def of(cls, scope: str, sparsity: Sparsity, given: Given) -> "Pattern":
        """Return the pattern of a scope with its options.

        Raises:
            UserError: solvers cannot do this scope, or it prunes another fraction.
        """
        found = scope_named(scope)
        options: Any = options_of(found.options, given, f"scope {scope}")
        match found:
            case Unstructured("layer"):
                return cls(scope, sparsity, "matrix")
            case AllocatedRows():
                return cls(scope, sparsity, "row", allocated=True)
            case Allocated():
                return cls(scope, sparsity, "matrix", allocated=True)
            case Rows():
                return cls(scope, sparsity, "row", truncated=options.counts == "truncated")
            case NOfM(keep, group):
                if float(sparsity) != (group - keep) / group:
                    raise UserError(f"scope '{scope}' prunes exactly {found.own_sparsity}, not {sparsity}; use that")
                return cls(scope, sparsity, "run", group)
        raise UserError(f"scope '{scope}': solvers cannot do it; use {SCOPES}")

    def check(self, name: str, inputs: int) -> None:
        """Raise UserError if a weight's rows, of this many inputs, do not divide into runs."""
        if inputs % self.group:
            raise UserError(
                f"scope '{self.scope}': '{name}' has {inputs} input columns, not a multiple of {self.group}; "
                "exclude it (prunable.exclude) or choose another scope"
            )

    def of_tensor(self, prune: int, rows: int, first: int, stop: int) -> list[tuple[slice, "Pattern"]]:
        """Return the patterns of parts of a matrix that is rows `first` to `stop` of a tensor with an allocated number.

        Earlier rows of the tensor lose one more if the number does not divide evenly, as in the mask stage.

        Args:
            prune: number that the tensor loses.
            rows: rows of the tensor.
            first: first row of the matrix.
            stop: end of its rows.
        """
        if self.each == "matrix":
            return [(slice(None), replace(self, count=prune))]
        each, extra = divmod(prune, rows)
        cut = min(max(extra - first, 0), stop - first)
        parts = [(slice(0, cut), replace(self, count=each + 1)), (slice(cut, stop - first), replace(self, count=each))]
        return [(part, pattern) for part, pattern in parts if part.start < part.stop]

    def pruned(self, rows: int, columns: int, of_columns: int | None = None) -> int:
        """Return how many weights a matrix loses in its first `columns` columns of `of_columns`; by default in all.

        The whole has its exact number, and any part its share, rounded down.
        """
        whole = columns if of_columns is None else of_columns
        match self.each:
            case "run":
                return rows * (columns // self.group) * self.sparsity.count(self.group)
            case "row":
                each = int(whole * float(self.sparsity)) if self.truncated else self.sparsity.count(whole)
                each = each if self.count is None else self.count
                return rows * (each * columns // whole)
            case "matrix":
                all_rows = self.sparsity.count(rows * whole) if self.count is None else self.count
                return all_rows * columns // whole

    def keep(self, scores: np.ndarray, prune: int) -> np.ndarray:
        """Keep the largest scores of a matrix, or of some of its columns; among equals the earlier is pruned first.

        Args:
            scores: [rows, columns], not negative; compared as float32.
            prune: number to prune, evenly in all rows or runs.

        Returns:
            bool [rows, columns].
        """
        length = {"run": self.group, "row": scores.shape[1], "matrix": scores.size}[self.each]
        keys = np.ascontiguousarray(scores, np.float32).view(np.uint32).reshape(-1, length)
        return matrix_kernels.keep_largest(keys, prune).reshape(scores.shape)

    def keep_gradually(self, scores: np.ndarray, share: float) -> np.ndarray:
        """Keep the largest scores of a matrix, as `keep`, but prune only a share of the whole number.

        Of runs, those are pruned that are smallest in the matrix among all that `keep` prunes.

        Args:
            scores: [rows, columns], not negative; compared as float32.
            share: from 0 to 1.

        Returns:
            bool [rows, columns].
        """
        whole = self.pruned(*scores.shape)
        if share == 1:
            return self.keep(scores, whole)
        if self.each != "run":
            alike = len(scores) if self.each == "row" else 1
            return self.keep(scores, int(share * (whole // alike)) * alike)
        pruned = np.where(self.keep(scores, whole), np.inf, scores).astype(np.float32)
        return matrix_kernels.keep_largest(pruned.view(np.uint32).reshape(1, -1), int(share * whole)).reshape(
            scores.shape
        )
