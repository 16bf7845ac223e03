"""Train a ticket with its mask held exactly: new values of its weights."""

from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.recovery.recover import Recovery, recover
from ltpipe.recovery.settings import RecoverySettings
from ltpipe.runtime import stage
from ltpipe.training.computing import TrainingCompute


def main(
    *,
    checkpoint: Path,
    sequences: Path,
    mask: Path,
    output: Path,
    record: Path,
    settings: RecoverySettings,
    solution: Path | None = None,
    model: str = "model",
    recovery: str = "recovery",
    save_every: int = 1000,
    code: str | None = None,
    computing: TrainingCompute = TrainingCompute(),  # noqa: B008
) -> None:
    """Train a ticket with its mask held exactly: new values of its weights.

    Args:
        checkpoint: canonical checkpoint folder.
        sequences: token sequences to train on, made with its tokenizer.
        mask: mask made from the checkpoint.
        output: solution file to write.
        record: JSON file to write, with what the training took.
        settings: how to train.
        solution: values of the weights that the mask keeps, if a solver made it.
        model: name of the model in the record.
        recovery: name of the recovery, which the ticket's criterion has from now on.
        save_every: steps between saves that a killed recovery can resume from.
        code: digest of the code, for the record's provenance.
        computing: device, precision and threads.
    """
    wanted = Recovery(Checkpoint.open(checkpoint), mask, sequences, settings, computing, solution, save_every)
    found = recover(wanted, output, record, model, recovery, code)
    if computing.is_first:
        stage.say(str(found))


if __name__ == "__main__":
    stage.run(main)
