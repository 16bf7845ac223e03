"""The mask of a level, from the model trained at the previous level."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch

from ltpipe.pruning.masks import Mask
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import as_given
from ltpipe.runtime.stage import one_word
from ltpipe.scoring.criterion import criterion_options
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.levels import Kind, Tensors, dense_mask, prune_globally, prune_layers
from ltpipe.training.live import load_values
from ltpipe.training.packing import packed
from ltpipe.training.randomness import digest
from ltpipe.training.scores import level_scores
from ltpipe.training.state import TrainingState
from ltpipe.training.task import Task

SparsityArgument = Annotated[Sparsity, one_word(Sparsity, Sparsity.of)]
"""A fraction to prune; one word on a command line."""

_FRACTION = Sparsity.of("0.2")


@dataclass(frozen=True)
class PruningRule:
    """What a level prunes.

    Attributes:
        criterion: magnitude, random, or one with a score stage; the lowest scores are pruned.
        scope: where weights compete: inside each tensor (layer) or everywhere (global).
        fraction: fraction of the remaining weights to prune.
        fractions: kinds of layers to the fraction that replaces `fraction`; under scope global, the layers of such a
            kind compete only with each other.
        exclude: shell-style patterns of tensors that are never pruned.
        at: the weights that the criterion ranks: `end` for those of the previous level after training, `start` for the
            dense weights of the rewinding step.
        examples: number of training examples for a criterion that needs data.
        options: the criterion's options; missing ones take their defaults.
    """

    criterion: str = "magnitude"
    scope: Literal["layer", "global"] = "layer"
    fraction: SparsityArgument = _FRACTION
    fractions: Mapping[Kind, SparsityArgument] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    at: Literal["end", "start"] = "end"
    examples: int = 256
    options: Mapping[str, str] = field(default_factory=dict)


def prune_level(
    task: Task,
    ranked: TrainingState,
    rule: PruningRule,
    replicate: int,
    computing: TrainingCompute = TrainingCompute(),  # noqa: B008
    before: Tensors = MappingProxyType({}),
) -> Mask:
    """Prune a model by one more level.

    At the start of training, the dense model is scored at every level. So all levels cut one ranking, like SNIP, GraSP
    and SynFlow, which prune once at initialisation.

    Args:
        task: the training's task.
        ranked: final state of the previous level's ticket, whose mask is pruned further; or the state at the rewinding
            step, which has no mask.
        rule: what to prune.
        replicate: seed of random draws.
        computing: gives the threads for scoring.
        before: the previous level's mask, for a state without a mask; empty for the dense model.

    Returns:
        A mask nested in the previous one.

    Raises:
        UserError: the state belongs to another model, a fraction is out of range, or scores are not finite.
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
    rates = {
        "fraction": rule.fraction.text,
        "fractions": {kind: fraction.text for kind, fraction in rule.fractions.items()},
        "exclude": list(rule.exclude),
        "at": rule.at,
    }
    chosen: dict[str, Mapping[str, Any]] = {
        "level": rates,
        "criterion": as_given(criterion_options(rule.criterion, rule.options, rule.criterion)),
    }
    return packed(pruned, rule.criterion, rule.scope, replicate, digest(ranked.weights), options=chosen)


def without(kinds: Mapping[str, Kind], exclude: Sequence[str]) -> dict[str, Kind]:
    """Return the prunable tensors and their kinds, without those that match a pattern.

    Raises:
        UserError: a pattern matches no tensor, or nothing is left.
    """
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in kinds):
            raise UserError(f"exclude: '{pattern}' matches no prunable tensor; the tensors are {', '.join(kinds)}")
    left = {name: kind for name, kind in kinds.items() if not any(fnmatchcase(name, each) for each in exclude)}
    if not left:
        raise UserError(f"exclude: {', '.join(exclude)} leaves nothing to prune; leave some of {', '.join(kinds)}")
    return left


def prune(scores: Tensors, mask: Tensors, rule: PruningRule, kinds: Mapping[str, Kind]) -> dict[str, torch.Tensor]:
    """Apply a rule to the weights that a mask keeps, pruning the lowest scores first."""
    if rule.scope == "layer":
        return prune_layers(
            scores, mask, {name: rule.fractions.get(kind, rule.fraction) for name, kind in kinds.items()}
        )
    own = {name: kind if kind in rule.fractions else None for name, kind in kinds.items()}
    pruned: dict[str, torch.Tensor] = {}
    for kind in [None, *rule.fractions]:
        among = {name: kept for name, kept in mask.items() if own[name] == kind}
        fraction = rule.fraction if kind is None else rule.fractions[kind]
        pruned |= prune_globally(scores, among, fraction) if among else {}
    return {name: pruned[name] for name in mask}
