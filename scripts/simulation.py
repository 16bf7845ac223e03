"""Simulate iterative magnitude pruning: a schedule of one-shot tickets, without training."""

from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.iterative import simulate_iterative_pruning
from ltpipe.runtime import stage


def main(
    *,
    checkpoint: Path,
    histogram: Path,
    sequences: Path,
    output: Path,
    ticket: Path,
    target_sparsity: float = 0.9,
    iterations: int = 10,
    batch: int = 2,
    model: str = "model",
    data: str = "text",
    settings: ComputeSettings = ComputeSettings(),  # noqa: B008
) -> None:
    """Simulate iterative magnitude pruning: a schedule of one-shot tickets, without training.

    Args:
        checkpoint: canonical checkpoint folder.
        histogram: histogram of its magnitudes.
        sequences: token sequences made with its tokenizer.
        output: JSON file to write.
        ticket: safetensors file to write the best mask to.
        target_sparsity: sparsity of the last iteration, 0 to below 1.
        iterations: number of iterations; each prunes the same fraction of the remaining weights.
        batch: sequences per batch; the dense model sees at most 10 batches, a ticket the first 5.
        model: name of the model in the result.
        data: name of the text in the result.
        settings: how to evaluate.
    """
    found = simulate_iterative_pruning(
        Checkpoint.open(checkpoint),
        histogram,
        sequences,
        settings,
        target_sparsity,
        iterations,
        batch,
        (model, data),
        ticket,
    )
    found.write(output)
    best = found.iterations[found.best - 1]
    stage.say(f"{model} on {data}, {found.note}")
    stage.say(f"best of {iterations}: sparsity {best.sparsity:.4g}, retention {best.performance_retention:.4f}")


if __name__ == "__main__":
    stage.run(main)
