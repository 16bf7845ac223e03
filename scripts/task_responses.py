"""Answer the requests of a task by a model: dense or masked."""

from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.runtime import stage
from ltpipe.tasks.respond import respond


def main(
    *,
    checkpoint: Path,
    requests: Path,
    output: Path,
    model: str = "model",
    task: str = "task",
    mask: Path | None = None,
    solution: Path | None = None,
    code: str | None = None,
    settings: ComputeSettings = ComputeSettings(),  # noqa: B008
) -> None:
    """Answer the requests of a task by a model: dense or masked.

    Args:
        checkpoint: canonical checkpoint folder.
        requests: requests made with its tokenizer.
        output: JSON file to write.
        model: name of the model in the responses.
        task: name of the task in the responses.
        mask: mask made from the checkpoint; without one, the dense model answers.
        solution: new values of the weights, if a solver or a recovery changed them.
        code: digest of the code, for the provenance.
        settings: how to compute.
    """
    names = {"model": model, "task": task}
    found = respond(Checkpoint.open(checkpoint), requests, settings, names, mask, solution, code)
    found.write(output)
    stage.say(str(found))


if __name__ == "__main__":
    stage.run(main)
