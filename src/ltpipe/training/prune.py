"""The mask of a level, from the model that the level before trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any, Literal

import torch

from ltpipe.pruning.masks import Mask
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import as_given
from ltpipe.scoring.criterion import criterion_options
from ltpipe.training.computing import Computing
from ltpipe.training.levels import Kind, Tensors, dense_mask, layer_fractions, prune_globally, prune_layers
from ltpipe.training.live import load_values
from ltpipe.training.packing import packed
from ltpipe.training.randomness import digest
from ltpipe.training.scores import level_scores
from ltpipe.training.state import TrainingState
from ltpipe.training.task import Task


@dataclass(frozen=True)
class PruningRule:
    """What a level prunes.

    Attributes:
        criterion: magnitude, random, or one with a score stage; the lowest scores go.
        scope: where weights compete: each tensor's (layer) or all (global).
        fraction: of the remaining weights that goes.
        fractions: of kinds of layers in place of `fraction`; under scope global the layers of such a kind compete with
            each other only.
        exclude: shell-style patterns of tensors that are never pruned.
        at: what the criterion ranks: the weights that the level before trained to the `end`, or those of the rewinding
            step, dense, at the `start` of training.
        examples: training examples that a criterion with data scores on.
        options: of the criterion; those that are not given have their defaults.
    """

    criterion: str = "magnitude"
    scope: Literal["layer", "global"] = "layer"
    fraction: str = "0.2"
    fractions: Mapping[Kind, str] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    at: Literal["end", "start"] = "end"
    examples: int = 256
    options: Mapping[str, str] = field(default_factory=dict)


def prune_level(
    task: Task,
    ranked: TrainingState,
    rule: PruningRule,
    replicate: int,
    computing: Computing = Computing(),  # noqa: B008
    before: Tensors = MappingProxyType({}),
) -> Mask:
    """Prune a model once more.

    At the start of training scores are those of the dense model, whatever the level: so all levels cut one ranking, as
    SNIP, GraSP and SynFlow do, which prune at initialisation once.

    Args:
        task: of the study.
        ranked: final state of the ticket of the level before, where this mask begins; or the state at the rewinding
            step, which has no mask.
        rule: what goes.
        replicate: seed of what is drawn at random.
        computing: its threads score.
        before: mask of the level before, for a state without mask; none is the dense model's.

    Returns:
        A mask inside the one before.

    Raises:
        UserError: the state is of another model, a fraction is out of range, or scores are not finite.
    """
    model = task.build(0)
    load_values(model, {**ranked.weights, **ranked.buffers})
    kinds = without(task.kinds(model), rule.exclude)
    seen = ranked.mask or dense_mask(ranked.weights, kinds)
    with computing.alone():
        scores = level_scores(
            task,
            ranked.weights,
            ranked.buffers,
            rule.criterion,
            seen,
            examples=rule.examples,
            seed=replicate,
            options=rule.options,
        )
    pruned = prune(scores, before or seen, rule, kinds)
    rates = {"fraction": rule.fraction, "fractions": dict(rule.fractions), "exclude": list(rule.exclude), "at": rule.at}
    chosen: dict[str, Mapping[str, Any]] = {
        "level": rates,
        "criterion": as_given(criterion_options(rule.criterion, rule.options, rule.criterion)),
    }
    return packed(pruned, rule.criterion, rule.scope, replicate, digest(ranked.weights), options=chosen)


def without(kinds: Mapping[str, Kind], exclude: Sequence[str]) -> dict[str, Kind]:
    """Prunable tensors and their kinds, without those that a pattern fits.

    Raises:
        UserError: a pattern fits none, or nothing is left.
    """
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in kinds):
            raise UserError(f"exclude: '{pattern}' fits none of the prunable tensors {', '.join(kinds)}")
    left = {name: kind for name, kind in kinds.items() if not any(fnmatchcase(name, each) for each in exclude)}
    if not left:
        raise UserError(f"exclude: {', '.join(exclude)} leaves nothing to prune of {', '.join(kinds)}")
    return left


def prune(scores: Tensors, mask: Tensors, rule: PruningRule, kinds: Mapping[str, Kind]) -> dict[str, torch.Tensor]:
    """Prune what a rule says of the weights that a mask has left, the lowest scores first."""
    if rule.scope == "layer":
        of_kind = dict.fromkeys(kinds.values(), rule.fraction) | dict(rule.fractions)
        return prune_layers(scores, mask, layer_fractions(kinds, of_kind))
    own = {name: kind if kind in rule.fractions else None for name, kind in kinds.items()}
    pruned: dict[str, torch.Tensor] = {}
    for kind in [None, *rule.fractions]:
        among = {name: kept for name, kept in mask.items() if own[name] == kind}
        fraction = rule.fraction if kind is None else rule.fractions[kind]
        pruned |= prune_globally(scores, among, fraction) if among else {}
    return {name: pruned[name] for name in mask}
