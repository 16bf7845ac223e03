"""Watches masks while a dense model trains, and stops the training when they stop changing (1909.11957)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ltpipe.analysis.early_bird import Detector, EarlyBird, Watch
from ltpipe.pruning.masks import Mask
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.progress import counting
from ltpipe.training.levels import Kind, dense_mask, magnitudes
from ltpipe.training.live import LiveTraining
from ltpipe.training.loop import train
from ltpipe.training.packing import packed
from ltpipe.training.prune import PruningRule, SparsityArgument, prune, without
from ltpipe.training.randomness import digest
from ltpipe.training.run import Training, TrainingName


@dataclass(frozen=True)
class Drawing:
    """Which masks to draw from the current model, by magnitude.

    Attributes:
        sparsity: fraction to prune.
        scope: where weights compete: in each tensor (layer) or all together (global).
        every: iterations between two masks, for example one epoch.
        of: what to prune: weights, or channels. Channels are ranked over all layers by their scales of batch
            normalisation, as in the paper (network slimming, Liu et al. 2017, 1708.06519).
        slimming: λ of a penalty λ Σ|scale| added to the loss, which separates used from unused channels; 0.0001 in
            the code of both papers.
        exclude: shell-style patterns of weights that are never pruned; channels have none.
    """

    sparsity: SparsityArgument
    scope: Literal["layer", "global"] = "layer"
    every: int = 100
    of: Literal["weights", "channels"] = "weights"
    slimming: float = 0.0
    exclude: tuple[str, ...] = ()


def watch_training(
    training: Training, drawing: Drawing, detector: Detector, named: TrainingName
) -> tuple[EarlyBird, Mask]:
    """Train until the masks have converged, or to the end.

    Args:
        training: training of the dense model.
        drawing: which masks to draw.
        detector: when masks count as converged.
        named: training and replicate.

    Returns:
        What the detector saw, and the last mask drawn: the early-bird ticket, if it converged.

    Raises:
        UserError: no mask would ever be drawn, or the model has no batch normalisation to rank channels by.
    """
    if not 1 <= drawing.every <= training.settings.iterations:
        raise UserError(f"early_bird.every: {drawing.every} is not allowed; use 1 to {training.settings.iterations}")
    model = training.task.build(0)
    scales = _scales(model)
    if not scales and (drawing.of == "channels" or drawing.slimming):
        raise UserError("early_bird: the model has no batch normalisation, whose scales rank channels; use weights")
    channels = drawing.of == "channels"
    kinds: dict[str, Kind] = dict.fromkeys(scales, "hidden")
    if not channels:
        kinds = without(training.task.kinds(model), drawing.exclude)
    everything = dense_mask(training.start.weights, kinds)
    rule = PruningRule(scope="global" if channels else drawing.scope, fraction=drawing.sparsity)
    watch = Watch(detector)
    masks: list[Mask] = []
    iterations: list[int] = []
    distances: list[float | None] = []
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

    def loss(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        plain = training.task.loss(model, inputs, labels)
        if not drawing.slimming:
            return plain
        return plain + drawing.slimming * sum(model.get_parameter(name).abs().sum() for name in scales)

    with counting(training.settings.iterations, training.start.iteration, "training", "step") as took:
        train(
            model,
            training.task.train,
            loss,
            training.settings,
            training.start,
            [draw, lambda live: took(live.iteration)],
            computing=training.computing,
        )
    found = EarlyBird(
        training=named.training,
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


def _scales(model: nn.Module) -> list[str]:
    """Return the names of batch normalisation scales, in canonical order; layers without scales have none."""
    kinds = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds) and layer.affine}
    return sorted((f"{name}.weight" for name in layers), key=str.encode)
