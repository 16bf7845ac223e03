"""The solve stage: a mask and the values of its kept weights, found block by block in the model pruned so far."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
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
from ltpipe.evaluation.plan import BatchSizes
from ltpipe.pruning.apply import as_torch, fetch_from
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.masking_kernels import scattered
from ltpipe.pruning.masks import Mask, header, pack, read_mask
from ltpipe.pruning.solution import solution_writer
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import Given, as_given, beyond_defaults, options_of
from ltpipe.scoring.products import check_linear
from ltpipe.solving.algebra import energy
from ltpipe.solving.pattern import Pattern
from ltpipe.solving.plan import SolvePlanner
from ltpipe.solving.resume import Resume, Solved, code_of
from ltpipe.solving.solver import Solver, TrainingSolver, solver_named
from ltpipe.solving.walk import ObserveBlock, TrainBlock, Values, solve_blocks
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton, other_dtypes


@dataclass(frozen=True)
class Summary:
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
    allocation: Path | None = None,
) -> Summary:
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
        allocation: mask of the same scope and sparsity by a criterion, for scopes that are allocations: each tensor
            loses as many weights as in it.

    Raises:
        UserError: the solver is unknown or cannot do the scope, the allocation is missing or another mask, a weight is
            not a matrix of a block, no calibration token reaches one, its inputs do not determine it, the model does
            not run block by block, or memory is too small.
    """
    rule, wanted = solver_named(solver), Sparsity.of(sparsity)
    chosen: Any = options_of(rule.options, options, f"solver {solver}")
    pattern = Pattern.of(scope, wanted, scope_options)
    data, digest = read_sequences(sequences, checkpoint)
    manifest, layout = checkpoint.manifest, Layout.of(checkpoint.manifest)
    names = selection.names(manifest)
    allocated = _allocated(allocation, pattern, manifest, names)
    promised = _promised(manifest, layout, names, solver, pattern, chosen, scope_options, allocated)

    here = Computing.of(settings, checkpoint)
    skeleton = build_skeleton(checkpoint, here.dtype)
    planner = SolvePlanner(rule, chosen, names, skeleton, manifest, here.dtype, here.accelerator, here.streamed)
    input_ids = torch.from_numpy(data.input_ids.astype(np.int64))
    count, length = input_ids.shape
    generous = BatchSizes.generous(count, length, settings.micro_batch)
    sizes, planned = planner.fit(generous, length, here.limit)
    if planner.division is None or manifest.walks.forward or here.shards:
        reason = manifest.walks.forward or "execution or device keep it in memory"
        raise UserError(f"solver '{solver}' prunes block by block, and the model does not run so: {reason}")
    trains = issubclass(rule, TrainingSolver)
    if trains and (reason := manifest.walks.gradients or manifest.walks.backward):
        raise UserError(f"solver '{solver}' trains blocks, and {manifest.architecture} cannot be trained: {reason}")
    weights, others = checkpoint.weights, other_dtypes(skeleton, here.dtype)
    fetch = fetch_from(weights, None, here.device, here.dtype, others)
    model = CausalModel(skeleton, manifest, fetch, here.device, True, planner.division)
    dtypes = {name: manifest.tensors[name].dtype for name in names} if rule.updates else {}
    errors: dict[str, tuple[float, float]] = {}

    def dtype_of(name: str) -> torch.dtype:
        return others.get(name, here.dtype)

    task = _Task(rule, chosen, pattern, allocated, layout, dtype_of, here.device)
    resume = Resume(mask, _identity(task, promised, digest, names, here.dtype, sizes))
    bits = {name: ("U8", ((manifest.tensors[name].size + 7) // 8,)) for name in names}
    with (
        tensor_writer(mask, bits, header(promised)) as write_mask,
        solution_writer(solution, promised, dtypes, digest, as_given(chosen)) as write,
    ):

        def solve(block: str, inside: Collection[str], observe: ObserveBlock, train: TrainBlock) -> Values:
            stored = {name: as_torch(weights.array(name), manifest.tensors[name].dtype) for name in inside}
            found = resume.read(block)
            if found is None:
                found = task.solve(stored, observe, train)
                resume.write(block, found)
            for name, one in found.items():
                errors[name] = one.errors
                write_mask(name, [one.bits])
                write(name, one.bits, one.values, one.errors)
            return {
                name: _as_computed(one, stored[name]).to(here.device, dtype_of(name)) for name, one in found.items()
            }

        solve_blocks(model, planner.division, input_ids, sizes.micro_batch, names, solve, trains)
        if unused := sorted({*names} - errors.keys()):
            raise UserError(f"the model does not run the block of '{unused[0]}'; exclude it (prunable.exclude)")
    resume.done()
    before, after = np.mean(list(errors.values()), axis=0).tolist()
    return Summary(promised.total_kept, promised.total, (before, after), planned.total)


@dataclass(frozen=True)
class _Task:
    """How blocks are pruned.

    Attributes:
        rule: the solver.
        options: its options.
        pattern: how many weights a matrix loses, and where.
        allocated: how many each tensor loses, if an allocation says it.
        layout: the model's layout.
        dtypes: dtype of each tensor while the model runs.
        device: device that it runs on.
    """

    rule: type[Solver]
    options: Any
    pattern: Pattern
    allocated: Mapping[str, int]
    layout: Layout
    dtypes: Callable[[str], torch.dtype]
    device: torch.device

    def solve(self, stored: Mapping[str, torch.Tensor], observe: ObserveBlock, train: TrainBlock) -> dict[str, Solved]:
        """Prune the tensors of a block, given as stored."""
        observed = observe({}, list(stored))
        grams = dict(observed.grams)
        stages = observed.stages if self.options.true_sequential else [list(stored)]
        if unused := stored.keys() - {name for stage in stages for name in stage}:
            raise UserError(_unreached(min(unused)))
        kept: dict[str, np.ndarray] = {}
        values: dict[str, torch.Tensor] = {}
        for stage in stages:
            if values:
                grams |= observe(values, stage).grams
            for name in stage:
                kept[name], found = self._pruned(name, stored[name], grams[name].numpy())
                values[name] = found.to(stored[name].dtype).to(self.device, self.dtypes(name))
        if issubclass(self.rule, TrainingSolver):
            masks = {name: torch.from_numpy(mask).to(self.device) for name, mask in kept.items()}
            values |= train(values, masks, partial(self.rule.reconstruct, options=self.options))
        solved = {}
        for name, weight in stored.items():
            rounded = values[name].to("cpu", weight.dtype)
            errors = self._errors(name, weight, kept[name], rounded, grams[name].numpy())
            solved[name] = Solved(pack(kept[name]), _bits(rounded)[kept[name].reshape(-1)], errors)
        return solved

    def _pruned(self, name: str, stored: torch.Tensor, grams: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
        """Return the kept weights of a tensor, and its values, of which those of pruned weights are 0."""
        if not np.isfinite(grams).all():
            raise UserError(
                f"the inputs of '{name}' are infinite or not a number; use another precision, or exclude it "
                "(prunable.exclude)"
            )
        shape = tuple(stored.shape)
        dense = stored.double().numpy().reshape(-1)
        kept, values = np.empty(dense.size, np.bool_), np.zeros(dense.size)
        stacks = [self.layout.matrices(name, shape, array) for array in (dense, kept, values)]
        for index, (weight, stay, new, gram) in enumerate(zip(*stacks, grams, strict=True)):
            if not gram.any():
                raise UserError(_unreached(name))
            try:
                for part, pattern in self._patterns(name, index, len(weight), len(stacks[0])):
                    kept_part, found = self.rule.solve(weight[part].copy(), gram.copy(), pattern, self.options)
                    stay[part] = kept_part
                    new[part] = np.where(kept_part, found if self.rule.updates else weight[part], 0)
            except UserError as error:
                raise UserError(f"'{name}': {error}") from None
        return kept.reshape(shape), torch.from_numpy(values).reshape(shape)

    def _patterns(self, name: str, index: int, rows: int, matrices: int) -> list[tuple[slice, Pattern]]:
        """Return the parts of a tensor's matrix that have different patterns."""
        if name not in self.allocated:
            return [(slice(None), self.pattern)]
        first = index * rows
        return self.pattern.of_tensor(self.allocated[name], rows * matrices, first, first + rows)

    def _errors(
        self, name: str, stored: torch.Tensor, kept: np.ndarray, values: torch.Tensor, grams: np.ndarray
    ) -> tuple[float, float]:
        """Return the relative squared errors of a tensor's outputs: with the mask alone, and with its values."""
        shape = tuple(stored.shape)
        dense, new = (each.double().numpy().reshape(-1) for each in (stored, values))
        if not np.isfinite(new).all():
            raise UserError(f"'{name}': the solver gave values that are infinite or not a number; use another solver")
        errors = np.zeros(3)
        stacks = [self.layout.matrices(name, shape, array) for array in (dense, kept.reshape(-1), new)]
        for weight, stay, found, gram in zip(*stacks, grams, strict=True):
            alone = energy(weight * ~stay, gram)
            errors += [energy(weight, gram), alone, energy(found - weight, gram) if self.rule.updates else alone]
        whole = errors[0] or 1.0
        return float(errors[1] / whole), float(errors[2] / whole)


def _unreached(name: str) -> str:
    return (
        f"no calibration token reaches '{name}', so a solver cannot prune it; use more calibration sequences, or "
        "exclude it (prunable.exclude)"
    )


def _as_computed(solved: Solved, stored: torch.Tensor) -> torch.Tensor:
    """Return the values of a solved tensor as the ticket has them, in the shape and dtype in which it is stored."""
    flat = scattered(solved.values, solved.bits, stored.numel())
    return torch.from_numpy(flat).view(stored.dtype).reshape(stored.shape)


def _identity(
    task: _Task, promised: Mask, sequences: str, names: Sequence[str], dtype: torch.dtype, sizes: BatchSizes
) -> str:
    """Return the digest of what a solution depends on, the solver's code included."""
    said = {
        "mask": header(promised),
        "allocated": dict(task.allocated),
        "sequences": sequences,
        "options": as_given(task.options),
        "names": list(names),
        "computing": [str(dtype), str(task.device), sizes.micro_batch, torch.get_num_threads()],
        "code": code_of(task.rule),
    }
    return sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _bits(values: torch.Tensor) -> np.ndarray:
    return np.concatenate(list(chunks_of(values))) if values.numel() else values.numpy()


def _allocated(allocation: Path | None, pattern: Pattern, manifest: Manifest, names: Sequence[str]) -> dict[str, int]:
    """Return how many weights each tensor loses; empty if no allocation says it."""
    if not pattern.allocated:
        return {}
    if allocation is None:
        raise UserError(
            f"scope '{pattern.scope}': a solver takes the numbers of weights from a mask; give --allocation, the mask "
            "of a criterion with this scope and sparsity"
        )
    mask = read_mask(allocation)
    if (mask.checkpoint, mask.scope, mask.sparsity.text, set(mask.shapes)) != (
        manifest.fingerprint, pattern.scope, pattern.sparsity.text, set(names),
    ):  # fmt: skip
        raise UserError(
            f"{allocation}: a mask of another checkpoint, scope, sparsity or selection of weights; give that of scope "
            f"{pattern.scope}, sparsity {pattern.sparsity.text} of this checkpoint"
        )
    return {name: manifest.tensors[name].size - mask.kept[name] for name in names}


def _promised(
    manifest: Manifest,
    layout: Layout,
    names: Sequence[str],
    solver: str,
    pattern: Pattern,
    options: Any,
    scope_options: Given,
    allocated: Mapping[str, int],
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
        pruned = allocated.get(name, count * pattern.pruned(size // count // width, width))
        kept[name] = size - pruned
    given = {"criterion": beyond_defaults(options), "scope": dict(scope_options)}
    given |= {"solution": {"changes": True}} if solver_named(solver).updates else {}
    return Mask(
        {}, shapes, kept, solver, pattern.scope, pattern.sparsity, None, manifest.fingerprint,
        {what: each for what, each in given.items() if each},
    )  # fmt: skip
