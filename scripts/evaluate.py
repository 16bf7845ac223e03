"""Evaluate a model on token sequences: dense or masked, with or without perturbed weights."""

from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.evaluation.inputs import PerturbationSettings
from ltpipe.runtime import stage


def main(
    *,
    checkpoint: Path,
    sequences: Path,
    output: Path,
    model: str = "model",
    data: str = "text",
    mask: Path | None = None,
    baseline: Path | None = None,
    top_tokens: Path | None = None,
    top_k: int = 32,
    perturbation: str | None = None,
    perturbation_seed: int | None = None,
    selection: Selection = Selection(),  # noqa: B008
    settings: ComputeSettings = ComputeSettings(),  # noqa: B008
) -> int | None:
    """Evaluate a model on token sequences: dense or masked, with or without perturbed weights.

    Args:
        checkpoint: canonical checkpoint folder.
        sequences: token sequences made with its tokenizer.
        output: JSON file to write.
        model: name of the model in the metrics.
        data: name of the text in the metrics.
        mask: mask made from the checkpoint; without one, the dense model is evaluated.
        baseline: metrics of the dense model on the same sequences; required with a mask or a perturbation.
        top_tokens: file of the dense model's top-k tokens; read if a baseline is given, otherwise written.
        top_k: number of top tokens to keep per prediction; 0 for none.
        perturbation: perturbation of the prunable weights, noise-X or intB.
        perturbation_seed: seed of the noise.
        selection: which tensors to perturb if there is no mask.
        settings: how to evaluate.
    """
    perturbed = None if perturbation is None else PerturbationSettings(perturbation, perturbation_seed, selection)
    metrics = evaluate_checkpoint(
        Checkpoint.open(checkpoint),
        sequences,
        settings,
        {"model": model, "data": data},
        mask,
        baseline,
        top_tokens=top_tokens,
        top_k=top_k,
        perturbation=perturbed,
    )
    metrics.write(output)
    stage.say(str(metrics))
    return metrics.planned_bytes if metrics.peak_device_bytes is None else None


if __name__ == "__main__":
    stage.run(main)
