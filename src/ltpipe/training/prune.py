"""The mask of a level, from the model that the level before trained."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from ltpipe.pruning.masks import Mask
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
        fractions: of kinds of layers, under scope layer, in place of `fraction`.
        examples: training examples that a criterion with data scores on.
        score_iterations: of a criterion that prunes as it scores.
    """

    criterion: str = "magnitude"
    scope: Literal["layer", "global"] = "layer"
    fraction: str = "0.2"
    fractions: Mapping[Kind, str] = field(default_factory=dict)
    examples: int = 256
    score_iterations: int = 100


def prune_level(
    task: Task,
    trained: TrainingState,
    rule: PruningRule,
    replicate: int,
    computing: Computing = Computing(),  # noqa: B008
) -> Mask:
    """Prune a trained model once more.

    Args:
        task: of the study.
        trained: final state of the ticket of the level before; its mask is where this one begins.
        rule: what goes.
        replicate: seed of what is drawn at random.
        computing: its threads score.

    Returns:
        A mask inside the one before.

    Raises:
        UserError: the state is of another model, a fraction is out of range, or scores are not finite.
    """
    model = task.build(0)
    load_values(model, {**trained.weights, **trained.buffers})
    kinds = task.kinds(model)
    mask = trained.mask or dense_mask(trained.weights, kinds)
    with computing.alone():
        scores = level_scores(
            task,
            trained.weights,
            trained.buffers,
            rule.criterion,
            mask,
            examples=rule.examples,
            seed=replicate,
            iterations=rule.score_iterations,
        )
    pruned = prune(scores, mask, rule, kinds)
    return packed(pruned, rule.criterion, rule.scope, replicate, digest(trained.weights))


def prune(scores: Tensors, mask: Tensors, rule: PruningRule, kinds: Mapping[str, Kind]) -> dict[str, torch.Tensor]:
    """Prune what a rule says of the weights that a mask has left, the lowest scores first."""
    if rule.scope == "global":
        return prune_globally(scores, mask, rule.fraction)
    of_kind = dict.fromkeys(kinds.values(), rule.fraction) | dict(rule.fractions)
    return prune_layers(scores, mask, layer_fractions(kinds, of_kind))
