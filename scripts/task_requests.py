"""Write down what lm-evaluation-harness asks of a model in a task."""

from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.runtime import stage
from ltpipe.tasks.settings import TaskSettings, check_installed


def main(*, checkpoint: Path, output: Path, settings: TaskSettings) -> None:
    """Write down what lm-evaluation-harness asks of a model in a task.

    Args:
        checkpoint: canonical checkpoint folder.
        output: file to write.
        settings: the task.
    """
    check_installed(settings.task)
    from ltpipe.tasks.harness import make_requests

    found = make_requests(settings, Checkpoint.open(checkpoint))
    found.write(output)
    stage.say(f"{settings.task}: {found.count} requests of {len(found.lengths)} windows, {len(found.tokens)} tokens")


if __name__ == "__main__":
    stage.run(main)
