"""The provenance of a report, and how to make it again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ltpipe.evaluation.metrics import Metrics
from ltpipe.runtime.provenance import provenance
from ltpipe.training.record import LearningRecord


@dataclass(frozen=True)
class Provenance:
    """The provenance of a report; it does not depend on the time.

    Attributes:
        commit: commit of the code that made the report; None if unknown.
        changed: whether files differed from that commit.
        config: the study as YAML: every key that results depend on; empty if it was not given.
        lines: all other names and values.
    """

    commit: str | None
    changed: bool
    config: str
    lines: Mapping[str, str]


def report_provenance(dense: Sequence[Metrics], records: Sequence[LearningRecord], config: str = "") -> Provenance:
    """The provenance of a report on dense models and trainings, made by this code.

    Args:
        dense: metrics of the dense models.
        records: learning records of the trainings.
        config: the study as YAML.
    """
    here = provenance({}, {})
    packages = ", ".join(f"{name} {version}" for name, version in here["packages"].items() if version)
    lines = {
        "ltpipe": f"{here['ltpipe']}, commit {here['git_commit'] or 'unknown'}",
        "Python": f"{here['python']}, {packages}",
        "machine of the report": here["machine"],
    }
    for metrics in dense:
        for what, fingerprint in metrics.provenance["inputs"].items():
            lines[f"{what} of {metrics.model}, {metrics.data}"] = fingerprint
    for training in sorted({record.training for record in records}):
        runs = [record for record in records if record.training == training]
        alike = [set(record.inputs.items()) for record in runs]
        lines |= {f"{what} of {training}": hashed for what, hashed in sorted(set.intersection(*alike))}
        seeds = sorted({record.replicate for record in runs})
        lines[f"runs of {training}"] = f"{len(runs)}, replicates (seeds) {', '.join(map(str, seeds))}"
    measured = {commit for metrics in dense if (commit := metrics.provenance.get("git_commit"))}
    if measured:
        lines["commits that evaluated the dense models"] = ", ".join(sorted(measured))
    commit, _, changes = (here["git_commit"] or "").partition("+")
    return Provenance(commit or None, bool(changes), config, lines)
