"""Find the tickets that narrow the brackets in which curves stop winning."""

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
    """Find the tickets that narrow the brackets in which curves stop winning.

    Args:
        tickets: metrics of all tickets of one model, from the grid and earlier rounds.
        to: wanted distance between the last winning and the first losing ticket, a fraction from 0.001 to 1.
        output: JSON file to write.
        controls: seeds of random tickets to add at the last winning tickets.
        before: file that the previous round wrote.
        model: name of the model.
    """
    found = refinement(model, tickets, to, controls, before)
    found.write(output)
    stage.say(str(found))


if __name__ == "__main__":
    stage.run(main)
