"""The solve stage: a mask and the values of its kept weights, found block by block in the model pruned so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.contents import chunks_of
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorwriter import tensor_writer
from ltpipe.evaluation.computing import ComputeSettings, Computing
from ltpipe.evaluation.inputs import read_sequences
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner
from ltpipe.pruning.apply import as_torch, fetch_from
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.masks import Mask, header, pack
from ltpipe.pruning.solution import solution_writer
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import Given, as_given, beyond_defaults, options_of
from ltpipe.scoring.products import check_linear
from ltpipe.solving.pattern import Pattern
from ltpipe.solving.solver import Solver, solver_named
from ltpipe.solving.walk import solve_blocks
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton, other_dtypes


@dataclass(frozen=True)
class Solved:
    """Numbers of kept and prunable weights, the mean of the tensors' relative errors, and the planned peak bytes.

    `errors` are with the mask alone and with the new values.
    """

    kept: int
    total: int
    errors: tuple[float, float]
    planned_bytes: int


def solve_checkpoint(
    checkpoint: Checkpoint,
    solver: str,
    scope: str,
    sparsity: str,
    sequences: Path,
    mask: Path,
    solution: Path,
    selection: Selection,
    settings: ComputeSettings,
    options: Given = MappingProxyType({}),
    scope_options: Given = MappingProxyType({}),
) -> Solved:
    """Prune the selected weights of a canonical checkpoint by a solver, and write its mask and its solution.

    Args:
        checkpoint: the model's checkpoint.
        solver: name of the solver.
        scope: name of the scope.
        sparsity: fraction to prune, which the mask stores as written.
        sequences: calibration sequences made with the checkpoint's tokenizer.
        mask: mask file to write.
        solution: solution file to write.
        selection: weights to prune.
        settings: how to compute.
        options: the solver's options; missing ones take their defaults.
        scope_options: the scope's options.

    Raises:
        UserError: the solver is unknown or cannot do the scope, a weight is not a matrix of a block, no calibration
            token reaches one, its inputs do not determine it, the model does not run block by block, or memory is too
            small.
    """
    rule, wanted = solver_named(solver), Sparsity.of(sparsity)
    chosen: Any = options_of(rule.options, options, f"solver {solver}")
    pattern = Pattern.of(scope, wanted, scope_options)
    data, digest = read_sequences(sequences, checkpoint)
    manifest, layout = checkpoint.manifest, Layout.of(checkpoint.manifest)
    names = selection.names(manifest)
    promised = _promised(manifest, layout, names, solver, pattern, chosen, scope_options)

    here = Computing.of(settings, checkpoint)
    skeleton = build_skeleton(checkpoint, here.dtype)
    planner = EvaluationPlanner(skeleton, manifest, (), here.dtype, here.accelerator, here.streamed)
    input_ids = torch.from_numpy(data.input_ids.astype(np.int64))
    count, length = input_ids.shape
    own = solving_bytes(manifest, layout, names)
    sizes, planned = planner.fit(BatchSizes.generous(count, length, settings.micro_batch), length, here.limit - own)
    if planner.division is None or manifest.walks.forward or here.shards:
        reason = manifest.walks.forward or "execution or device keep it in memory"
        raise UserError(f"solver '{solver}' prunes block by block, and the model does not run so: {reason}")
    if sizes.super_batch < count:
        raise UserError(
            f"solver '{solver}' keeps the hidden states of all {count} calibration sequences, which do not fit in "
            "memory; use fewer or shorter sequences, or allow more device_memory"
        )
    weights, others = checkpoint.weights, other_dtypes(skeleton, here.dtype)
    fetch = fetch_from(weights, None, here.device, here.dtype, others)
    model = CausalModel(skeleton, manifest, fetch, here.device, True, planner.division)
    dtypes = {name: manifest.tensors[name].dtype for name in names} if rule.updates else {}
    errors: dict[str, tuple[float, float]] = {}
    bits = {name: ("U8", ((manifest.tensors[name].size + 7) // 8,)) for name in names}
    with (
        tensor_writer(mask, bits, header(promised)) as write_mask,
        solution_writer(solution, promised, dtypes, digest, as_given(chosen)) as write,
    ):

        def solve(grams: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            solved = {}
            for name in list(grams):
                entry = manifest.tensors[name]
                stored = as_torch(weights.array(name), entry.dtype)
                one = _solve(name, stored, grams[name].numpy(), layout, rule, pattern, chosen)
                errors[name] = one.errors
                write_mask(name, [pack(one.kept)])
                values = one.values.to(stored.dtype)
                write(name, one.kept, _bits(values) if rule.updates else None, one.errors)
                solved[name] = values.to(here.device, others.get(name, here.dtype))
            return solved

        solve_blocks(model, planner.division, input_ids, sizes.micro_batch, names, solve)
        if unused := sorted({*names} - errors.keys()):
            raise UserError(f"the model does not run the block of '{unused[0]}'; exclude it (prunable.exclude)")
    before, after = np.mean(list(errors.values()), axis=0).tolist()
    return Solved(promised.total_kept, promised.total, (before, after), planned.total + own)


def solving_bytes(manifest: Manifest, layout: Layout, names: Sequence[str]) -> int:
    """Return the peak bytes of main memory for Gram matrices and solving, beside those of a forward pass.

    These are the Gram matrices of a block, and for one weight, in float64, its matrix in five and the Gram matrix in
    four versions, and the tensor in two.
    """
    of_block: dict[str, int] = {}
    largest = 0
    for name in names:
        shape = manifest.tensors[name].shape
        count, width = layout.stack(name, shape)[0], layout.columns(name, shape)
        block = manifest.walked_block(name)
        of_block[block] = of_block.get(block, 0) + 8 * count * width * width
        size = manifest.tensors[name].size
        largest = max(largest, 8 * (5 * size // count + 4 * width * width) + 8 * size)
    return max(of_block.values()) + largest


@dataclass(frozen=True)
class _Solved:
    """A solved tensor: kept weights and values in its shape, values of pruned ones 0, and its errors."""

    kept: np.ndarray
    values: torch.Tensor
    errors: tuple[float, float]


def _solve(
    name: str,
    stored: torch.Tensor,
    grams: np.ndarray,
    layout: Layout,
    rule: type[Solver],
    pattern: Pattern,
    options: Any,
) -> _Solved:
    shape = tuple(stored.shape)
    dense = stored.double().numpy().reshape(-1)
    kept, values = np.empty(dense.size, np.bool_), np.zeros(dense.size)
    stacks = [layout.matrices(name, shape, array) for array in (dense, kept, values)]
    errors = np.zeros(3)
    for weight, stay, new, gram in zip(*stacks, grams, strict=True):
        if not gram.any():
            raise UserError(
                f"no calibration token reaches '{name}', so a solver cannot prune it; use more calibration sequences, "
                "or exclude it (prunable.exclude)"
            )
        try:
            stay[...], found = rule.solve(weight.copy(), gram.copy(), pattern, options)
        except UserError as error:
            raise UserError(f"'{name}': {error}") from None
        new[stay] = found[stay]
        errors += [_energy(each, gram) for each in (weight, weight * ~stay, new - weight)]
    if not np.isfinite(values).all():
        raise UserError(f"'{name}': the solver gave values that are infinite or not a number; use another solver")
    whole = errors[0] or 1.0
    pair = (float(errors[1] / whole), float(errors[2] / whole))
    result = torch.from_numpy(values).reshape(shape) if rule.updates else stored * torch.from_numpy(kept).reshape(shape)
    return _Solved(kept.reshape(shape), result, pair)


def _energy(matrix: np.ndarray, gram: np.ndarray) -> float:
    """Return the squared norm of a matrix's outputs, tr(M G M^T)."""
    return float(np.vdot(matrix @ gram, matrix))


def _bits(values: torch.Tensor) -> np.ndarray:
    return np.concatenate(list(chunks_of(values))) if values.numel() else values.numpy()


def _promised(
    manifest: Manifest,
    layout: Layout,
    names: Sequence[str],
    solver: str,
    pattern: Pattern,
    options: Any,
    scope_options: Given,
) -> Mask:
    """Return the mask without its bits, after checking that the solver can prune every weight."""
    shapes = {name: manifest.tensors[name].shape for name in names}
    check_linear(layout, shapes)
    kept = {}
    for name, shape in shapes.items():
        if not manifest.in_blocks(name):
            raise UserError(
                f"solver '{solver}' prunes the blocks of {manifest.blocks} only, and '{name}' is outside; use the "
                "preset linear or exclude it"
            )
        count, width = layout.stack(name, shape)[0], layout.columns(name, shape)
        size = manifest.tensors[name].size
        if count > 1 and pattern.each == "matrix":
            raise UserError(
                f"scope 'layer': '{name}' has {count} matrices, which solvers prune one by one; use scope row or NofM"
            )
        pattern.check(name, width)
        kept[name] = size - count * pattern.pruned(size // count // width, width)
    given = {"criterion": beyond_defaults(options), "scope": dict(scope_options)}
    given |= {"solution": {"changes": True}} if solver_named(solver).updates else {}
    return Mask(
        {}, shapes, kept, solver, pattern.scope, pattern.sparsity, None, manifest.fingerprint,
        {what: each for what, each in given.items() if each},
    )  # fmt: skip
