"""The `ltpipe` command. docs/cli.md documents its output."""

import sys
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ltpipe.exporting.formats import Format
from ltpipe.runtime import stage
from ltpipe.runtime.errors import UserError
from ltpipe.workflow.start import init, passed_on, run

_ABOUT = """Runs studies, plans what they need, inspects their results, and exports tickets to other tools.

ltpipe run runs the pipeline with Snakemake; see README.md. ltpipe COMMAND --help shows the options of a command.

Exit codes: 0 success; 1 invalid input (one line on standard error says what is wrong and how to fix it); 2 wrong usage,
or a plan that does not fit; 70 an internal error (with a traceback); 130 stopped by Ctrl-C; 143 stopped by SIGTERM.
"""


_Style = Annotated[Literal["latex", "markdown"], arg(name="format")]


def plan(
    *,
    config: Path = Path("config/config.yaml"),
    device_memory: float | None = None,
    teraflops: float | None = None,
    output: Path | None = None,
) -> None:
    """Show what a study will need, from its configuration and the shapes of its models: no weights, no accelerator.

    Prints, for each stage and model, peak device memory, peak main memory, disk space, and the batch sizes that fit.
    Exits with status 2 if something does not fit.

    For example:
      ltpipe plan --config my.yaml --device-memory 24

    Args:
        config: configuration of the study.
        device_memory: GiB that tensors may take on the GPU; by default the configuration's value.
        teraflops: speed of the device in 10^12 operations per second, for an estimate of hours. A finished evaluation
            shows it: 2 * parameters * tokens / seconds of `results/baselines/….json`.
        output: JSON file to write the plan to as well.
    """
    from ltpipe.planning.cost import cost, cost_line
    from ltpipe.planning.stages import fits
    from ltpipe.planning.study import plan_study
    from ltpipe.planning.table import print_plan, write_plan
    from ltpipe.workflow.config import load_config

    if device_memory is not None and not 0 < device_memory < inf:
        raise UserError(f"device_memory: {device_memory} is not allowed; use a number of GiB above 0")
    if teraflops is not None and not 0 < teraflops < inf:
        raise UserError(f"teraflops: {teraflops} is not allowed; use a number above 0")
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
    """Check the configuration of a study without running anything; the exit status is 0 if it is valid.

    Snakemake reads a `--configfile` before ltpipe does: it keeps the last of two equal keys, and evaluates a file as
    Python if the file asks for it. This command does neither.

    For example:
      ltpipe check --config my.yaml

    Args:
        config: configuration of the study.
    """
    from ltpipe.planning.lengths import check_lengths
    from ltpipe.workflow.config import load_config

    check_lengths(load_config(config))


def clean(configs: Positional[tuple[Path, ...]] = (Path("config/config.yaml"),), /, *, delete: bool = False) -> None:
    """List the artefacts in this folder that no configuration names any more; --delete deletes them.

    Name every configuration whose results you want to keep. Only files that are named like ltpipe's artefacts are
    listed; logs, the report and the plan stay. The command refuses to run while Snakemake runs in this folder.

    For example:
      ltpipe clean config/config.yaml my.yaml
      ltpipe clean config/config.yaml my.yaml --delete

    Args:
        configs: configurations of all studies in this folder.
        delete: delete the listed files.
    """
    from ltpipe.workflow import unused

    found = unused.unused_artefacts(configs)
    for file in found:
        print(f"{file.size / 2**20:10,.1f} MiB  {file.path}")
    if delete:
        unused.delete(found)
    done = "deleted" if delete else "nothing deleted; add --delete to delete them"
    stage.say(f"{len(found):,} files, {sum(file.size for file in found) / 2**20:,.1f} MiB; {done}")


def inspect(file: Positional[Path], /, *, checkpoint: Path | None = None, json: bool = False) -> None:
    """Show what a file is and what it contains: any artefact of ltpipe, recognised by its content.

    Recognises masks (including those of other tools), metrics, checkpoints, histograms, scores, token sequences, top-k
    tokens, trained states, tasks, records, plans, simulations, refinements, tables and exported tickets.

    For example:
      ltpipe inspect results/masks/m/magnitude/global/seed-none/0.5.safetensors
      ltpipe inspect results/tickets/m/text/magnitude/global/seed-none/0.5.json --json

    Args:
        file: file or checkpoint folder.
        checkpoint: canonical checkpoint folder of a mask's model; adds dead rows, heads and blocks to the verdict.
        json: print one JSON object for other programs.
    """
    from ltpipe.inspection.recognise import describe

    _print(describe(file, checkpoint), json)


def compare(a: Positional[Path], b: Positional[Path], /, *, json: bool = False) -> None:
    """Show how much two masks overlap and how much they would by chance, in total and per tensor.

    Prints the Jaccard index (kept by both / kept by either) and the Hamming distance (fraction of weights that only
    one of them keeps), each with the value for two random masks of the same densities.

    For example:
      ltpipe compare one.safetensors other.safetensors

    Args:
        a: ltpipe mask, or a safetensors file with bool tensors or a state dict of torch.nn.utils.prune.
        b: the other mask.
        json: print one JSON object for other programs.
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
    solution: Path | None = None,
) -> None:
    """Write a ticket in a format that other tools read, and print its size; without a mask, write the dense model.

    - hf: Hugging Face checkpoint with zeros, for plain from_pretrained and lm-evaluation-harness; it does not shrink.
    - bool: the mask alone, as bool tensors.
    - torch-prune: state dict with weight_orig and weight_mask.
    - smaller: physically smaller checkpoint, for masks of scope heads, channels or blocks.

    docs/export.md shows how to read each format. For example:
      ltpipe export mask.safetensors --checkpoint results/checkpoints/m --output ticket
      ltpipe export --checkpoint results/checkpoints/m --output dense

    Args:
        mask: mask file; without one, the dense model is written as hf.
        output: file (bool, torch-prune) or folder to write.
        kind: format to write.
        checkpoint: canonical checkpoint folder of the mask's model; not needed for bool.
        solution: new values of the weights, if a solver or a recovery changed them, for hf.
    """
    from ltpipe.checkpoints.canonical import Checkpoint
    from ltpipe.exporting.formats import export_ticket

    model = Checkpoint.open(checkpoint) if checkpoint else None
    stage.say(str(export_ticket(kind, mask, model, output, solution)))


def import_(file: Positional[Path], /, *, checkpoint: Path, output: Path, criterion: str | None = None) -> None:
    """Convert a mask of another tool to an ltpipe mask.

    The file is a safetensors file with bool tensors, True where a weight is kept, or with a state dict of
    torch.nn.utils.prune.

    Names and shapes are checked against the checkpoint. Weight matrices without a mask are listed and stay dense.

    For example:
      ltpipe import theirs.safetensors --checkpoint results/checkpoints/m --output mask.safetensors

    Args:
        file: safetensors file with tensors by parameter name.
        checkpoint: canonical checkpoint folder that the mask is for.
        output: mask file to write.
        criterion: name to record as the mask's criterion.
    """
    from ltpipe.checkpoints.canonical import Checkpoint
    from ltpipe.exporting.plain import import_plain

    stage.say(f"{output}: {import_plain(file, Checkpoint.open(checkpoint), output, criterion)}")


def report(folders: Positional[tuple[Path, ...]], /, *, output: Path) -> None:
    """Put the tickets of several finished studies on one page and in one table, whose column `study` names the study.

    For example:
      ltpipe report last-week today --output both

    Args:
        folders: folders in which the studies ran, or folders of their reports.
        output: new folder for tickets.csv, tickets.parquet, the figure and index.html.
    """
    from ltpipe.reporting.side_by_side import write_side_by_side

    stage.say(f"{output}: {write_side_by_side(folders, output):,} tickets of {len(folders)} studies")


def table(
    name: Positional[str],
    report: Positional[Path] = Path("results/report"),
    /,
    *,
    style: _Style = "markdown",
) -> None:
    """Print a table of a report's page as text to paste into a paper, with intervals and the best tickets in bold.

    For example:
      ltpipe table tickets
      ltpipe table tasks results/report --format latex

    Args:
        name: name of the table: tickets, tasks, comparisons, curves, ….
        report: folder of the report.
        style: latex (with the package booktabs) or markdown.
    """
    from ltpipe.reporting.folder import ReportFolder
    from ltpipe.reporting.paste import pasted

    print(pasted(ReportFolder(report), name, style), end="")


def published(
    report: Positional[Path] = Path("results/report"), /, *, facts: Path | None = None, style: _Style = "markdown"
) -> None:
    """Print a report's perplexities beside published ones of the same methods, with what differs in the protocol.

    The studies in config/published are made for it; they need the Hub and a GPU.

    For example:
      ltpipe published results/report

    Args:
        report: folder of the report.
        facts: CSV file of published numbers; by default those that come with ltpipe.
        style: latex (with the package booktabs) or markdown.
    """
    from ltpipe.reporting.folder import ReportFolder
    from ltpipe.reporting.paste import written
    from ltpipe.reporting.published import beside_published, read_facts

    print(written(*beside_published(ReportFolder(report), read_facts(facts)), style), end="")


COMMANDS: dict[str, stage.Main] = {
    "init": init,
    "run": run,
    "check": check,
    "plan": plan,
    "clean": clean,
    "report": report,
    "table": table,
    "published": published,
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
