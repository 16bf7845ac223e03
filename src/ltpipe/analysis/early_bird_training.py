"""Watching masks while a dense model trains, and stopping when they have stopped changing (1909.11957)."""

from dataclasses import dataclass
from typing import Literal

from ltpipe.analysis.early_bird import Detector, EarlyBird, Watch
from ltpipe.pruning.masks import Mask
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.progress import counting
from ltpipe.training.levels import dense_mask, magnitudes
from ltpipe.training.live import LiveTraining
from ltpipe.training.loop import train
from ltpipe.training.packing import packed
from ltpipe.training.prune import PruningRule, prune
from ltpipe.training.randomness import digest
from ltpipe.training.run import Named, Training


@dataclass(frozen=True)
class Drawing:
    """Which masks are drawn from the model of the moment, by magnitude.

    Attributes:
        sparsity: fraction to prune.
        scope: where weights compete: each tensor's (layer) or all (global).
        every: iterations between two masks, those of an epoch for example.
    """

    sparsity: str
    scope: Literal["layer", "global"] = "layer"
    every: int = 100


def watch_training(training: Training, drawing: Drawing, detector: Detector, named: Named) -> tuple[EarlyBird, Mask]:
    """Train until the masks have converged, or to the end.

    Args:
        training: of the dense model.
        drawing: of masks.
        detector: when they count as converged.
        named: study and replicate.

    Returns:
        What the detector saw, and the last mask drawn: the early-bird ticket, if it converged.

    Raises:
        UserError: no mask is ever drawn.
    """
    if not 1 <= drawing.every <= training.settings.iterations:
        raise UserError(
            f"early_bird.every: {drawing.every} iterations; allowed are 1 to {training.settings.iterations}"
        )
    model = training.task.build(0)
    kinds = training.task.kinds(model)
    everything = dense_mask(training.start.weights, kinds)
    rule = PruningRule(scope=drawing.scope, fraction=drawing.sparsity)
    watch, masks, iterations, distances = Watch(detector), [], [], []
    converged: list[int] = []

    def draw(live: LiveTraining) -> None:
        if live.iteration == 0 or live.iteration % drawing.every:
            return
        weights = live.weights()
        mask = prune(magnitudes(weights), everything, rule, kinds)
        masks[:] = [packed(mask, rule.criterion, rule.scope, named.replicate, digest(weights), drawing.sparsity)]
        step = watch.look(masks[0])
        iterations.append(live.iteration)
        distances.append(detector.worst(step.values))
        if step.converged:
            converged.append(live.iteration)
            live.stopped = True

    with counting(training.settings.iterations, training.start.iteration, "training", "step") as took:
        train(
            model,
            training.task.train,
            training.task.loss,
            training.settings,
            training.start,
            [draw, lambda live: took(live.iteration)],
            computing=training.computing,
        )
    found = EarlyBird(
        study=named.study,
        replicate=named.replicate,
        sparsity=drawing.sparsity,
        rule=detector.rule,
        threshold=detector.limit,
        window=detector.masks,
        patience=detector.patience,
        chance_corrected=detector.chance_corrected,
        iterations=tuple(iterations),
        distances=tuple(distances),
        converged=converged[0] if converged else None,
    )
    return found, masks[0]
