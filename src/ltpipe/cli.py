"""The `ltpipe` command. What it says of itself is documented in docs/cli.md."""

import sys
from math import inf
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ltpipe.exporting.formats import Format
from ltpipe.runtime import stage
from ltpipe.runtime.errors import UserError
from ltpipe.workflow.start import init, passed_on, run

_ABOUT = """Looks at what ltpipe's pipeline has written, plans what it will need, and takes tickets elsewhere.

The pipeline itself is run with snakemake (or make run); see README.md. ltpipe COMMAND --help has a command's options.

Exit codes: 0 done; 1 an input is wrong (one line on standard error says which, and what to do); 2 wrong usage, or
a plan that does not fit; 70 an error of ltpipe (a traceback); 130 stopped by Ctrl-C; 143 ended by SIGTERM.
"""


def plan(
    *,
    config: Path = Path("config/config.yaml"),
    device_memory: float | None = None,
    teraflops: float | None = None,
    output: Path | None = None,
) -> None:
    """Say what a study will need, from its configuration and the shapes of its models: no weights, no accelerator.

    Prints, for each stage and model, the peaks of device and main memory, the disk space, and the batch sizes that
    fit. Ends with status 2 if something does not fit.

    For example:
      ltpipe plan --config my.yaml --device-memory 24

    Args:
        config: of the study.
        device_memory: GiB that tensors may take on the card; without it, what the configuration says.
        teraflops: 10^12 operations a second that the device does, for an estimate of hours. A finished evaluation shows
            it: 2 * parameters * tokens / seconds of `results/baselines/….json`.
        output: JSON file to write the plan to as well.
    """
    from ltpipe.planning.cost import cost, cost_line
    from ltpipe.planning.stages import fits
    from ltpipe.planning.study import plan_study
    from ltpipe.planning.table import print_plan, write_plan
    from ltpipe.workflow.config import load_config

    if device_memory is not None and not 0 < device_memory < inf:
        raise UserError(f"device_memory: {device_memory} is not allowed; allowed is a number of GiB above 0")
    if teraflops is not None and not 0 < teraflops < inf:
        raise UserError(f"teraflops: {teraflops} is not allowed; allowed is a number above 0")
    checked = load_config(config)
    if device_memory is not None:
        checked["evaluate"]["device_memory"] = device_memory
    planned = plan_study(checked)
    if output is not None:
        write_plan(planned, checked, output)
    print_plan(planned)
    print(cost_line(cost(planned), teraflops))
    if not fits(planned):
        sys.exit(2)


def check(*, config: Path = Path("config/config.yaml")) -> None:
    """Check the configuration of a study, and run nothing; status 0 says that it is sound.

    Snakemake reads a `--configfile` before it reads ltpipe: it takes the last of two equal keys, and evaluates a file
    that asks for it as Python. This command does neither.

    For example:
      ltpipe check --config my.yaml

    Args:
        config: of the study.
    """
    from ltpipe.planning.lengths import check_lengths
    from ltpipe.workflow.config import load_config

    check_lengths(load_config(config))


def clean(configs: Positional[tuple[Path, ...]] = (Path("config/config.yaml"),), /, *, delete: bool = False) -> None:
    """List the artefacts in this folder that no configuration names any more, and delete them if asked to.

    Name every configuration whose results are to stay. Only files that are named like artefacts of ltpipe are looked
    at; logs, the report and the plan stay. While Snakemake runs here, nothing is done.

    For example:
      ltpipe clean config/config.yaml my.yaml
      ltpipe clean config/config.yaml my.yaml --delete

    Args:
        configs: of all studies in this folder.
        delete: delete what is listed.
    """
    from ltpipe.workflow import unused

    found = unused.unused_artefacts(configs)
    for file in found:
        print(f"{file.size / 2**20:10,.1f} MiB  {file.path}")
    if delete:
        unused.delete(found)
    done = "deleted" if delete else "nothing deleted; --delete does"
    stage.say(f"{len(found):,} files, {sum(file.size for file in found) / 2**20:,.1f} MiB; {done}")


def inspect(file: Positional[Path], /, *, checkpoint: Path | None = None, json: bool = False) -> None:
    """Say what a file is and what it holds: any artefact of ltpipe, known by its content.

    Masks (also of other tools), metrics, checkpoints, histograms, scores, token sequences, likeliest tokens, trained
    states, tasks, records, plans, simulations, refinements, tables, exported tickets.

    For example:
      ltpipe inspect results/masks/m/magnitude/global/seed-none/0.5.safetensors
      ltpipe inspect results/tickets/m/text/magnitude/global/seed-none/0.5.json --json

    Args:
        file: file, or checkpoint folder.
        checkpoint: canonical folder of a mask's model, to judge the mask on: dead rows, heads and blocks.
        json: print one JSON object, for machines.
    """
    from ltpipe.inspection.recognise import describe

    _print(describe(file, checkpoint), json)


def compare(a: Positional[Path], b: Positional[Path], /, *, json: bool = False) -> None:
    """Say how much two masks have in common, and how much they would by chance: in all, and tensor by tensor.

    Jaccard index (kept by both / kept by any) and Hamming distance (share of weights that one of them keeps), each
    with what two random masks of these densities have.

    For example:
      ltpipe compare one.safetensors other.safetensors

    Args:
        a: mask of ours, or safetensors file of bool tensors or of a state dict of torch.nn.utils.prune.
        b: the other.
        json: print one JSON object, for machines.
    """
    from ltpipe.inspection.masks import describe_pair

    _print(describe_pair(a, b), json)


def export(
    mask: Positional[Path | None] = None,
    /,
    *,
    output: Path,
    kind: Annotated[Format, arg(name="format")] = "hf",
    checkpoint: Path | None = None,
) -> None:
    """Write a ticket, or without a mask the dense model, in a format that other tools read, and say sizes.

    - hf: Hugging Face checkpoint with zeros, for plain from_pretrained and lm-evaluation-harness; it does not shrink.
    - bool: the mask alone, bool tensors.
    - torch-prune: state dict with weight_orig and weight_mask.
    - compressed-tensors: sparse-bitmask checkpoint (needs that library).
    - smaller: physically smaller checkpoint, for masks of scope heads, channels or blocks.

    docs/export.md shows how each is read. For example:
      ltpipe export mask.safetensors --checkpoint results/checkpoints/m --output ticket
      ltpipe export --checkpoint results/checkpoints/m --output dense

    Args:
        mask: mask file; without one the dense model is written, as hf.
        output: file (bool, torch-prune) or folder to write.
        kind: of what is written.
        checkpoint: canonical folder of the mask's model; bool needs none.
    """
    from ltpipe.checkpoints.canonical import Checkpoint
    from ltpipe.exporting.formats import export_ticket

    model = Checkpoint.open(checkpoint) if checkpoint else None
    stage.say(str(export_ticket(kind, mask, model, output)))


def import_(file: Positional[Path], /, *, checkpoint: Path, output: Path, criterion: str | None = None) -> None:
    """Make a mask of ours from a mask of another tool.

    That is a safetensors file of bool tensors, True where a weight is kept, or of a state dict of torch.nn.utils.prune.

    Names and shapes are checked against the checkpoint. Weight matrices without a mask are named; they stay dense.

    For example:
      ltpipe import theirs.safetensors --checkpoint results/checkpoints/m --output mask.safetensors

    Args:
        file: of tensors by parameter name.
        checkpoint: canonical checkpoint folder that the mask is for.
        output: mask file to write.
        criterion: what the mask's criterion is to be called.
    """
    from ltpipe.checkpoints.canonical import Checkpoint
    from ltpipe.exporting.plain import import_plain

    stage.say(f"{output}: {import_plain(file, Checkpoint.open(checkpoint), output, criterion)}")


def report(folders: Positional[tuple[Path, ...]], /, *, output: Path) -> None:
    """Put the tickets of several finished studies on one page and in one table, with a column that says whose they are.

    For example:
      ltpipe report last-week today --output both

    Args:
        folders: in which the studies ran, or of their reports.
        output: new folder to write tickets.csv, tickets.parquet, the figure and index.html to.
    """
    from ltpipe.reporting.side_by_side import write_side_by_side

    stage.say(f"{output}: {write_side_by_side(folders, output):,} tickets of {len(folders)} studies")


COMMANDS: dict[str, stage.Main] = {
    "init": init,
    "run": run,
    "check": check,
    "plan": plan,
    "clean": clean,
    "report": report,
    "inspect": inspect,
    "compare": compare,
    "export": export,
    "import": import_,
}


def main() -> None:
    """Run the command that the arguments name."""
    sys.argv[1:] = passed_on(sys.argv[1:])
    stage.run(COMMANDS, _ABOUT)


def _print(description: Any, as_json: bool) -> None:
    if as_json:
        print(description.as_json())
    else:
        description.show()


if __name__ == "__main__":
    main()
