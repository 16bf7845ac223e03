"""Evaluate a model on token sequences: dense, or masked if a mask is given."""

from pathlib import Path

from ltpipe.evaluation.evaluate import Settings, evaluate_checkpoint
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
    settings: Settings = Settings(),  # noqa: B008
) -> int | None:
    """Evaluate a model on token sequences: dense, or masked if a mask is given.

    Args:
        checkpoint: canonical checkpoint folder.
        sequences: token sequences made with its tokenizer.
        output: JSON file to write.
        model: what the metrics call the model.
        data: what the metrics call the text.
        mask: mask made from the checkpoint.
        baseline: metrics of the dense model on the same sequences; needed with a mask.
        settings: how to evaluate.
    """
    metrics = evaluate_checkpoint(checkpoint, sequences, settings, {"model": model, "data": data}, mask, baseline)
    metrics.write(output)
    stage.say(str(metrics))
    return metrics.planned_bytes if metrics.peak_device_bytes is None else None


if __name__ == "__main__":
    stage.run(main)
