"""A SLURM that tests submit to, and what it says of its jobs."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from checkouts import SNAKEMAKE, plain_environment

PROFILE = [
    *("--workflow-profile", "profiles/slurm"),
    *("--default-resources", "slurm_account=lab", "slurm_partition=gpu"),
    *("--seconds-between-status-checks", "2", "--slurm-init-seconds-before-status-checks", "2"),
]


@dataclass(frozen=True)
class Job:
    """A SLURM job as accounting knows it.

    Attributes:
        number: of the job.
        begin, end: local time, seconds resolved; `Unknown` while it has not come.
        state: COMPLETED, FAILED, …
        memory: that it asked for, MB.
        processors, gpus: that it was given.
        rule: what it ran: `rule_`, the rule's name, and its wildcards; or the name of its group.
    """

    number: str
    begin: str
    end: str
    state: str
    memory: int
    processors: int
    gpus: int
    rule: str


@dataclass(frozen=True)
class Slurm:
    """A SLURM of two nodes with two fake GPUs each, in a folder."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        return plain_environment() | {
            "SLURM_CONF": str(self.folder / "etc/slurm.conf"),
            "PATH": f"{SNAKEMAKE.parent}:{os.environ['PATH']}",
        }

    def ask(self, *command: str) -> list[str]:
        """The lines that a command of SLURM prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.splitlines()

    def jobs(self) -> list[Job]:
        """All jobs, in the order of their submission."""
        columns = "JobIDRaw,Start,End,State,ReqMem,AllocTRES,Comment"
        rows = [line.split("|") for line in self.ask("sacct", "--allusers", "-nPX", f"--format={columns}")]
        return [self._job(*row) for row in rows]

    @staticmethod
    def _job(number: str, begin: str, end: str, state: str, memory: str, given: str, rule: str) -> Job:
        counts = dict(part.split("=") for part in given.split(",") if part)
        processors, gpus = (int(counts.get(kind, 0)) for kind in ("cpu", "gres/gpu"))
        return Job(number, begin, end, state.split()[0], int(memory.removesuffix("M")), processors, gpus, rule)

    def waiting_or_running(self) -> dict[str, str]:
        """What each job that has not ended runs, by number."""
        return dict(line.split("|") for line in self.ask("squeue", "--noheader", "--format=%i|%k"))

    def running(self, rule: str) -> list[str]:
        """Numbers of the jobs of a rule that have begun and not ended."""
        lines = self.ask("squeue", "--noheader", "--states=RUNNING", "--format=%i %k")
        return [line.split()[0] for line in lines if line.split()[1].startswith(f"rule_{rule}_")]

    def devices(self) -> dict[str, tuple[str, str]]:
        """Node and CUDA_VISIBLE_DEVICES of each job that has begun; `none` where the variable is not set."""
        rows = [line.split() for line in (self.folder / "devices").read_text().splitlines()]
        return {number: (node, devices) for number, node, devices in rows}

    def start(self, checkout: Path, *arguments: str) -> subprocess.Popen:
        """Start a snakemake that submits to this SLURM; its output goes to a file beside the checkout."""
        log = (checkout.parent / f"{checkout.name}.log").open("a")
        command = [SNAKEMAKE, *PROFILE, *arguments]
        return subprocess.Popen(command, cwd=checkout, env=self.environment, stdout=log, stderr=subprocess.STDOUT)

    def run(self, checkout: Path, *arguments: str) -> subprocess.CompletedProcess:
        """Run such a snakemake to its end."""
        command = [SNAKEMAKE, *PROFILE, *arguments]
        return subprocess.run(
            command, cwd=checkout, env=self.environment, capture_output=True, text=True, timeout=1800, check=False
        )
