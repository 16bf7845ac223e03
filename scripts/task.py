"""Read and split the examples of a task, and write them and the model's description to one file."""

from pathlib import Path

from ltpipe.runtime import stage
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.jsonfiles import read_object
from ltpipe.training.task import prepared_task, write_task


def main(*, task: str, options: str, output: Path, training: str = "training", checkpoint: Path | None = None) -> None:
    """Read and split the examples of a task, and write them and the model's description to one file.

    Args:
        task: images, text, or the name of your own task.
        options: options of the task as JSON, with the configuration's keys.
        output: safetensors file to write.
        training: its name in the configuration, for messages.
        checkpoint: canonical checkpoint folder whose weights training starts from, for tasks that support it.
    """
    given = _read(options) | ({} if checkpoint is None else {"checkpoint": str(checkpoint)})
    made = prepared_task(task, given, f"imp.{training}.task")
    write_task(output, task, made)
    sizes = " + ".join(f"{len(part):,}" for part in (made.train, made.validation, made.test))
    stage.say(f"{training}: {sizes} examples for training, validation and test")


def _read(options: str) -> dict[str, object]:
    try:
        return dict(read_object(options))
    except (ValueError, TypeError) as error:
        raise UserError(f"options: '{options[:100]}' is not a JSON object ({error})") from None


if __name__ == "__main__":
    stage.run(main)
