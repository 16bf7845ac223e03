"""Evaluate a model on token sequences: dense, or masked if a mask is given, and perturbed if asked for."""

from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Preset, Selection
from ltpipe.evaluation.computing import Settings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.evaluation.inputs import Disturbance
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
    preset: Preset = "linear",
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    settings: Settings = Settings(),  # noqa: B008
) -> int | None:
    """Evaluate a model on token sequences: dense, or masked if a mask is given, and perturbed if asked for.

    Args:
        checkpoint: canonical checkpoint folder.
        sequences: token sequences made with its tokenizer.
        output: JSON file to write.
        model: what the metrics call the model.
        data: what the metrics call the text.
        mask: mask made from the checkpoint.
        baseline: metrics of the dense model on the same sequences; needed with a mask or a perturbation.
        top_tokens: file of the dense model's likeliest tokens; read with a baseline, else written.
        top_k: how many of them to keep of each prediction, 0 for none.
        perturbation: change of the prunable weights, noise-X or intB.
        perturbation_seed: of noise.
        preset: linear or all-weights; what is perturbed without a mask.
        include: patterns of further tensors.
        exclude: patterns of tensors to leave alone.
        settings: how to evaluate.
    """
    selection = Selection(preset, include, exclude)
    disturbance = None if perturbation is None else Disturbance(perturbation, perturbation_seed, selection)
    metrics = evaluate_checkpoint(
        Checkpoint.open(checkpoint),
        sequences,
        settings,
        {"model": model, "data": data},
        mask,
        baseline,
        top_tokens=top_tokens,
        top_k=top_k,
        disturbance=disturbance,
    )
    metrics.write(output)
    stage.say(str(metrics))
    return metrics.planned_bytes if metrics.peak_device_bytes is None else None


if __name__ == "__main__":
    stage.run(main)
