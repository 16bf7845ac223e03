"""Read the examples of a task, split them, and keep them with the description of the model in one file."""

from pathlib import Path

from ltpipe.runtime import stage
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.jsonfiles import read_object
from ltpipe.training.task import prepared_task, write_task


def main(*, task: str, options: str, output: Path, study: str = "study", checkpoint: Path | None = None) -> None:
    """Read the examples of a task, split them, and keep them with the description of the model in one file.

    Args:
        task: images or text, or a task of your own.
        options: of the task, as JSON; the keys are those of the configuration.
        output: safetensors file to write.
        study: what the configuration calls the study, for messages.
        checkpoint: canonical checkpoint folder whose weights training begins with, for tasks that can.
    """
    given = _read(options) | ({} if checkpoint is None else {"checkpoint": str(checkpoint)})
    made = prepared_task(task, given, f"imp.{study}.task")
    write_task(output, task, made)
    sizes = " + ".join(f"{len(part):,}" for part in (made.train, made.validation, made.test))
    stage.say(f"{study}: {sizes} examples for training, validation and test")


def _read(options: str) -> dict[str, object]:
    try:
        return dict(read_object(options))
    except (ValueError, TypeError) as error:
        raise UserError(f"options: '{options[:100]}' is no mapping in JSON ({error})") from None


if __name__ == "__main__":
    stage.run(main)
