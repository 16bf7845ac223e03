"""Evaluate a model on token sequences: dense or masked, with or without perturbed weights."""

from collections.abc import Sequence
from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint, evaluate_tickets, identity
from ltpipe.evaluation.inputs import PerturbationSettings
from ltpipe.evaluation.metrics import Metrics
from ltpipe.evaluation.passes import PassSettings, Queue, Queued
from ltpipe.runtime import stage


def main(
    *,
    checkpoint: Path,
    sequences: Path,
    output: Path,
    model: str = "model",
    data: str = "text",
    mask: Path | None = None,
    solution: Path | None = None,
    baseline: Path | None = None,
    top_tokens: Path | None = None,
    top_k: int = 32,
    perturbation: str | None = None,
    perturbation_seed: int | None = None,
    code: str | None = None,
    selection: Selection = Selection(),  # noqa: B008
    together: PassSettings = PassSettings(),  # noqa: B008
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
        solution: new values of the weights, if a solver or a recovery changed them.
        baseline: metrics of the dense model on the same sequences; required with a mask or a perturbation.
        top_tokens: file of the dense model's top-k tokens; read if a baseline is given, otherwise written.
        top_k: number of top tokens to keep per prediction; 0 for none.
        perturbation: perturbation of the prunable weights, noise-X or intB.
        perturbation_seed: seed of the noise.
        code: digest of the code, for the metrics' provenance.
        selection: which tensors to perturb if there is no mask.
        together: which tickets to evaluate in the same pass.
        settings: how to evaluate.
    """
    source, names = Checkpoint.open(checkpoint), {"model": model, "data": data}
    if together.tickets_per_pass > 1 and mask and baseline:

        def evaluate(tickets: Sequence[Queued]) -> list[Metrics | None]:
            return evaluate_tickets(
                source, sequences, settings, names, tickets, baseline, top_tokens=top_tokens, top_k=top_k, code=code
            )

        files = [sequences, baseline, *([top_tokens] if top_tokens else [])]
        wanted = identity(source, sequences, settings, top_k, code, files)
        metrics = Queue(together, mask, output).write(wanted, evaluate)
    else:
        perturbed = None if perturbation is None else PerturbationSettings(perturbation, perturbation_seed, selection)
        metrics = evaluate_checkpoint(
            source,
            sequences,
            settings,
            names,
            mask,
            baseline,
            top_tokens=top_tokens,
            top_k=top_k,
            perturbation=perturbed,
            solution=solution,
            code=code,
        )
        metrics.write(output)
    stage.say(str(metrics))
    return metrics.planned_bytes if metrics.peak_device_bytes is None else None


if __name__ == "__main__":
    stage.run(main)
