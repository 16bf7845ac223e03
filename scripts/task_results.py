"""Compute the metrics of responses to a task's requests, by lm-evaluation-harness."""

from pathlib import Path

from ltpipe.runtime import stage
from ltpipe.tasks.results import task_results
from ltpipe.tasks.settings import TaskSettings, check_installed


def main(
    *,
    requests: Path,
    responses: tuple[Path, ...],
    output: Path,
    settings: TaskSettings,
    model: str = "model",
    name: str = "task",
) -> None:
    """Compute the metrics of responses to a task's requests, by lm-evaluation-harness.

    Args:
        requests: the task's requests.
        responses: responses of the dense model and of tickets.
        output: JSON file to write.
        settings: the task.
        model: name of the model in the results.
        name: name of the task in the results.
    """
    check_installed(settings.task)
    found = task_results(settings, requests, responses, {"model": model, "task": name})
    found.write(output)
    stage.say(str(found))


if __name__ == "__main__":
    stage.run(main)
