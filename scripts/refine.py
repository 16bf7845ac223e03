"""Say which tickets narrow the brackets in which curves stop winning."""

from pathlib import Path

from ltpipe.runtime import stage
from ltpipe.workflow.refinement import refinement


def main(
    *,
    tickets: tuple[Path, ...],
    to: str,
    output: Path,
    controls: tuple[int, ...] = (),
    before: Path | None = None,
    model: str = "model",
) -> None:
    """Say which tickets narrow the brackets in which curves stop winning.

    Args:
        tickets: metrics of the tickets of one model, of the grid and of the rounds before.
        to: how near the last winning and the first losing ticket are to be, a fraction from 0.001 to 1.
        output: JSON file to write.
        controls: seeds of random tickets, to stand beside the last winning tickets.
        before: what the round before has written.
        model: name of the model.
    """
    found = refinement(model, tickets, to, controls, before)
    found.write(output)
    stage.say(str(found))


if __name__ == "__main__":
    stage.run(main)
