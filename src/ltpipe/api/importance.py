"""Scores and masks of a live model by any criterion, in any scope: the pipeline's computations, in memory."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from ltpipe.api.batches import Batch, first_batches
from ltpipe.api.calibration import ModuleData, sequences
from ltpipe.api.evaluator import Evaluator, evaluating
from ltpipe.api.magnitude import cut
from ltpipe.api.parameters import HostWeights, check_preset, config_of, live_manifest
from ltpipe.api.walking import walking
from ltpipe.checkpoints.contents import stored_tensors
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Preset, Selection
from ltpipe.pruning.by_scope import cutter_for
from ltpipe.pruning.histogram import histogram_of
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.scopes import Units, scope_named
from ltpipe.pruning.scorefile import check_scores, score_keys
from ltpipe.pruning.scores import RankKeys, random_keys, weight_keys
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.pruning.units import cut_units
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import options_of
from ltpipe.scoring.criterion import (
    Criterion,
    criterion_options,
    every_criterion,
    ranks_weights,
    scored_criterion,
)
from ltpipe.scoring.hybrid import Scored, combine, magnitudes
from ltpipe.scoring.subject import Deliver
from ltpipe.training.scores import LiveSubject

AnyCriterion = str | Mapping[str, float]
"""A criterion's name, or the names of several and their weights in a hybrid."""

_NONE: Mapping[str, Any] = MappingProxyType({})


def create_mask(
    model: nn.Module,
    sparsity: float | str,
    criterion: AnyCriterion = "magnitude",
    scope: str = "global",
    dataloader: Iterable[Any] | None = None,
    *,
    preset: Preset | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    seed: int | None = None,
    options: Mapping[str, Any] = _NONE,
    scope_options: Mapping[str, Any] = _NONE,
) -> dict[str, torch.Tensor]:
    """Create a mask by any criterion and scope of the pipeline, bit-identical to its stages for the same weights.

    It calls the stages' functions. Unpadded texts of equal length go through a causal language model as the score stage
    walks a checkpoint: only one block's gradients are on the device at a time. Any other module, and any other batches,
    are scored by a plain forward and backward pass of a copy of the model, on its device. During the call the scores,
    4 bytes per weight, are on the host.

    Args:
        model: on any device; it is not changed. Weights are bfloat16, float16 or float32.
        sparsity: fraction to prune; a decimal string is taken as written.
        criterion: a criterion in docs/criteria.md, or a dict of several to their weights: each one's scores are scaled
            to a mean magnitude of 1, then summed.
        scope: a scope in docs/scopes.md; heads, channels and blocks need a transformers model that has them.
        dataloader: calibration batches, as for `compute_lottery_ticket_quality`, for a criterion that needs data.
        preset: which weights compete: `linear`, the weight matrices inside the blocks, or `all-weights`. None selects
            `linear` for a transformers model, as the pipeline does, and `all-weights` for any other.
        include: patterns of additional parameters.
        exclude: patterns of parameters to leave alone.
        seed: seed of the criterion `random`.
        options: the criterion's options (docs/criteria.md), for example `{"iterations": 20}`; for a hybrid, a dict of
            criteria to their options.
        scope_options: the scope's options (docs/scopes.md).

    Returns:
        For every competing weight tensor, a bool tensor of its shape on the CPU, True where the weight is kept.

    Raises:
        UserError: an argument is unknown, out of range or missing, or the model does not support criterion or scope.
    """
    wanted = Sparsity.of(sparsity)
    subject = _Model.of(model, preset, include, exclude)
    competition = scope_named(scope)
    chosen: Any = options_of(competition.options, scope_options, f"scope {scope}")
    name, keys = _keys(subject, criterion, dataloader, seed, options)
    counted = histogram_of(keys, "", name, seed)
    if isinstance(competition, Units):
        cutter = cut_units(subject.manifest, config_of(model), keys, competition, wanted)
    else:
        cutter = cutter_for(scope, wanted, keys, counted, Layout.of(subject.manifest), chosen)
    return cut(keys, cutter)


def compute_importance(
    model: nn.Module,
    criterion: AnyCriterion,
    dataloader: Iterable[Any] | None = None,
    *,
    preset: Preset | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    seed: int | None = None,
    options: Mapping[str, Any] = _NONE,
) -> dict[str, torch.Tensor]:
    """Score every weight by a criterion; the lowest scores are pruned first. Arguments are those of `create_mask`.

    Returns:
        For every competing weight tensor, its scores, float32 of its shape on the CPU, bit-identical to those that the
        score stage writes for the same model. `magnitude` is |w|, `random` is uniform in [0, 1).

    Raises:
        UserError: as for `create_mask`.
    """
    subject = _Model.of(model, preset, include, exclude)
    if criterion == "random":
        keys = random_keys(subject.weights, subject.names, seed)
        values = {name: np.concatenate([keys.values(chunk) for chunk in keys.chunks(name)]) for name in keys.names}
        return {name: torch.from_numpy(flat).view(subject.shape(name)) for name, flat in values.items()}
    _, scores = _scores(subject, criterion, dataloader, options)
    return {name: scores.tensors.tensor(name) for name in subject.names}


@dataclass(frozen=True)
class _Model:
    """A live model as the stages see a checkpoint.

    Attributes:
        module: the model.
        manifest: its checkpoint's manifest.
        names: the competing weights, in canonical order.
    """

    module: nn.Module
    manifest: Manifest
    names: tuple[str, ...]

    @classmethod
    def of(cls, module: nn.Module, preset: Preset | None, include: Sequence[str], exclude: Sequence[str]) -> "_Model":
        if preset is not None:
            check_preset(preset)
        manifest = live_manifest(module)
        default: Preset = "linear" if manifest.blocks else "all-weights"
        return cls(module, manifest, Selection(preset or default, include, exclude).names(manifest))

    @property
    def weights(self) -> HostWeights:
        """The competing weights, for criteria that rank a weight's own value."""
        return HostWeights({name: self.module.get_parameter(name) for name in self.names})

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight."""
        return self.manifest.tensors[name].shape


@dataclass(frozen=True)
class _Scores:
    """Scores in memory, float32, and whether a criterion gives them a sign."""

    tensors: HostWeights
    signed: bool

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], signed: bool) -> "_Scores":
        return cls(HostWeights({name: torch.from_numpy(array) for name, array in arrays.items()}, "scores"), signed)


def _keys(
    subject: _Model,
    criterion: AnyCriterion,
    dataloader: Iterable[Any] | None,
    seed: int | None,
    options: Mapping[str, Any],
) -> tuple[str, RankKeys]:
    """Return a criterion's name and its rank keys."""
    if isinstance(criterion, str) and ranks_weights(criterion):
        criterion_options(criterion, options, criterion)  # rejects options, as it has none
        return criterion, weight_keys(criterion, subject.weights, subject.names, seed)
    name, scores = _scores(subject, criterion, dataloader, options)
    return name, score_keys(scores.tensors, subject.names, scores.signed)


def _scores(
    subject: _Model, criterion: AnyCriterion, dataloader: Iterable[Any] | None, options: Mapping[str, Any]
) -> tuple[str, _Scores]:
    """Return a criterion's name and scores; a hybrid's parts are scored in turn on the same batches."""
    parts = {criterion: 1.0} if isinstance(criterion, str) else dict(criterion)
    allowed = [name for name in every_criterion() if name != "random"]
    for part in parts:
        if part not in allowed:
            raise UserError(f"criterion '{part}' is unknown here; use {', '.join(allowed)}")
    if not parts:
        raise UserError("criterion: the hybrid is empty; give at least one criterion and its weight")
    each = {criterion: options} if isinstance(criterion, str) else dict(options)
    if not each.keys() <= parts.keys():
        raise UserError(f"options: a hybrid needs a dict of options by criterion; use the keys {', '.join(parts)}")
    chosen = {part: criterion_options(part, each.get(part, {}), part) for part in parts}
    batches = [] if dataloader is None else list(first_batches(dataloader, None))
    found = {part: _one(subject, part, batches, chosen[part]) for part in parts}
    if isinstance(criterion, str):
        return criterion, found[criterion]
    name = " + ".join(parts)
    scored = [
        Scored(part, found[part].tensors.array, found[part].signed, float(weight)) for part, weight in parts.items()
    ]
    combined = combine(name, scored, subject.names)
    signed = any(part.signed for part in scored)
    return name, _Scores.of({each: combined(each) for each in subject.names}, signed)


def _one(subject: _Model, criterion: str, batches: Sequence[Batch], options: Any) -> _Scores:
    if criterion == "magnitude":
        weights = subject.weights
        return _Scores.of({name: magnitudes(weights, name) for name in subject.names}, signed=False)
    rule = scored_criterion(criterion)
    if rule.needs_data and not batches:
        raise UserError(f"criterion '{criterion}' needs calibration data; pass a dataloader with at least one batch")
    arrays: dict[str, np.ndarray] = {}

    def deliver(name: str, scores: torch.Tensor) -> None:
        check_scores(criterion, name, scores.numpy(), rule.signed)
        arrays[name] = scores.float().numpy()

    with evaluating(subject.module):
        _score(subject, criterion, rule, batches, options, deliver)
    return _Scores.of(arrays, rule.signed)


def _score(
    subject: _Model, criterion: str, rule: type[Criterion], batches: Sequence[Batch], options: Any, deliver: Deliver
) -> None:
    ids = torch.zeros((1, 2), dtype=torch.long) if not rule.needs_data else sequences(batches)
    inside = all(map(subject.manifest.in_blocks, subject.names))
    if ids is not None and inside and Evaluator(subject.module, "high").in_pieces(_few_tokens(ids)):
        with walking(subject.module, subject.manifest, subject.names, rule, ids, options) as streamed:
            rule.score(streamed, deliver)
        return
    if not batches:
        raise UserError(
            f"criterion '{criterion}' needs an example input of {type(subject.module).__name__}; pass a dataloader"
        )
    stored = stored_tensors(subject.module)
    if rule.precision and any(str(stored[name].dtype) != f"torch.{rule.precision}" for name in subject.names):
        raise UserError(f"criterion '{criterion}' computes in {rule.precision}; cast the model with model.float()")
    data = ModuleData(batches, rule.batch, next(subject.module.parameters()).device)
    values = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _live(subject.module).items()}
    everything = {name: torch.ones((), dtype=torch.bool).expand(subject.shape(name)) for name in subject.names}
    rule.score(LiveSubject(copy.deepcopy(subject.module), values, everything, data, options), deliver)


def _few_tokens(ids: torch.Tensor) -> Batch:
    return Batch((), {"input_ids": ids[:1, :8]}, None)


def _live(module: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
