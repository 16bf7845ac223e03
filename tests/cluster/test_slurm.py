"""A sweep on a real SLURM that is disturbed in every way, and ends as if it had not been."""

import json
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from checkouts import checkout, reruns, snakemake
from clusters import Job, Slurm
from tiny import save_tiny

from ltpipe.runtime.jsonfiles import write_record
from ltpipe.workflow.config import check_config
from ltpipe.workflow.resources import GROWTH, memory_mb, memory_settings

pytestmark = pytest.mark.slurm

SPARSITIES = [0.25, 0.5, 0.75]
CONFIG = {
    "models": {"tiny": {"source": "../models/tiny"}},
    "data": {"words": {"source": "../texts/words.txt"}},
    "grid": {"criteria": ["magnitude"], "scopes": ["layer"], "sparsities": SPARSITIES},
    "evaluate": {"sequence_length": 16, "num_sequences": 4, "device": "auto"},  # asks for a GPU; there is none to find
    "threads": 1,
}


def configure(folder: Path, sparsities: list[float], **changes: object) -> None:
    config = {**CONFIG, "grid": {**CONFIG["grid"], "sparsities": sparsities}, **changes}
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))


def study(folder: Path) -> Path:
    """A checkout with a tiny model and a text. The test runs on one machine: its file system is what nodes share."""
    checkout(folder)
    save_tiny("llama", folder / "models/tiny")
    (folder / "texts").mkdir()
    (folder / "texts/words.txt").write_text(" ".join(f"w{(7 * number) ** 2 % 93}" for number in range(500)))
    configure(folder, SPARSITIES)
    return folder


def foresee(folder: Path, host: int) -> None:
    """Write a plan by which loading the model takes so many bytes of main memory."""
    with_sources = {**CONFIG, "models": {"tiny": {"source": str(folder / "models/tiny")}}}
    with_sources["data"] = {"words": {"source": str(folder / "texts/words.txt")}}
    settings = memory_settings(check_config(with_sources), "tiny")
    settings["models"]["source"] = "models/tiny"
    stages = [{"model": "tiny", "stage": "checkpoint", "host": host}]
    write_record(folder / "results/plan/plan.json", {"settings": {"tiny": settings}, "stages": stages})


def until(happens: Callable[[], object], process: subprocess.Popen, seconds: int = 900) -> None:
    """Wait for something that happens while a process runs."""
    late = time.monotonic() + seconds
    while not happens():
        assert process.poll() is None, f"snakemake ended first, with status {process.returncode}"
        assert time.monotonic() < late, "it took too long"
        time.sleep(0.5)


@contextmanager
def ended_in_any_case(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Disturbed:
    """A sweep whose snakemake was killed, after which it was started again, and a job of it cancelled.

    Attributes:
        folder: of the study.
        finished: rules of the jobs that snakemake knew to have finished before it was killed.
        left: jobs that it left behind in SLURM.
        after_clearing: jobs that were there when `restart.sh` had ended.
        first: jobs before the second start.
        cancelled: number of the cancelled job.
        jobs: all of them, in the end.
    """

    folder: Path
    finished: set[str]
    left: dict[str, str]
    after_clearing: dict[str, str]
    first: list[Job]
    cancelled: str
    jobs: list[Job]

    @property
    def second(self) -> list[Job]:
        return self.jobs[len(self.first) :]


def known_to_have_finished(folder: Path) -> set[str]:
    (log,) = (folder / ".snakemake/log").glob("*.log")
    return set(re.findall(r"^Finished jobid: \d+ \(Rule: (\w+)\)$", log.read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def disturbed(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    folder = study(tmp_path_factory.mktemp("disturbed"))
    foresee(folder, host=2**20)  # too little: the job is killed until it has asked for enough
    with ended_in_any_case(slurm.start(folder)) as process:
        until(lambda: slurm.running("baseline"), process)
        process.send_signal(signal.SIGKILL)
    finished, left = known_to_have_finished(folder), slurm.waiting_or_running()
    clear = ["bash", "profiles/slurm/restart.sh"]  # a test's checkout keeps no permissions
    cleared = subprocess.run(clear, cwd=folder, env=slurm.environment, capture_output=True, text=True, check=False)
    assert cleared.returncode == 0, cleared.stderr
    after_clearing, first = slurm.waiting_or_running(), slurm.jobs()
    with ended_in_any_case(slurm.start(folder)) as process:
        until(lambda: slurm.running("ticket"), process)
        cancelled = slurm.running("ticket")[0]
        slurm.ask("scancel", cancelled)
        assert process.wait(timeout=1800) == 0, (folder.parent / f"{folder.name}.log").read_text()[-5000:]
    return Disturbed(folder, finished, left, after_clearing, first, cancelled, slurm.jobs())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study, run on this machine without a cluster."""
    folder = study(tmp_path_factory.mktemp("undisturbed"))
    snakemake(folder)
    return folder


def artefacts(folder: Path) -> dict[str, object]:
    """Every tensor file to the byte, and of the metrics what they say, without times and memory."""
    found: dict[str, object] = {}
    for path in sorted((folder / "results").rglob("*")):
        name = str(path.relative_to(folder / "results"))
        if path.suffix == ".safetensors":
            found[name] = path.read_bytes()
        elif path.suffix == ".json" and name.startswith(("baselines/", "tickets/")):
            metrics = json.loads(path.read_text())
            found[name] = {key: metrics[key] for key in ("loss", "sequence_sums", "model", "data")}
    return found


def files(folder: Path) -> set[str]:
    """Names of all results, without logs and the plan."""
    results = folder / "results"
    names = {path.relative_to(results) for path in results.rglob("*") if path.is_file()}
    return {str(name) for name in names if name.parts[0] not in ("logs", "plan")}


def test_what_snakemake_left_behind_is_gone_before_it_is_started_again(disturbed: Disturbed):
    assert disturbed.left
    assert disturbed.after_clearing == {}


def test_nothing_is_lost(disturbed: Disturbed, undisturbed: Path):
    expected = artefacts(undisturbed)
    assert {"checkpoints", "sequences", "histograms", "masks", "baselines", "tickets"} == {
        name.partition("/")[0] for name in expected
    }
    assert artefacts(disturbed.folder) == expected
    assert files(disturbed.folder) == files(undisturbed), "nothing is missing, and no temporary file remains"


def test_finished_jobs_never_run_again(disturbed: Disturbed):
    assert {"checkpoint", "sequences"} <= disturbed.finished
    again = {job.rule.removeprefix("rule_").partition("_wildcards_")[0] for job in disturbed.second}
    assert not disturbed.finished & again


def test_a_cancelled_job_is_tried_again(disturbed: Disturbed):
    (cancelled,) = (job for job in disturbed.jobs if job.number == disturbed.cancelled)
    assert cancelled.state == "CANCELLED"
    runs = [job.state for job in disturbed.second if job.rule == cancelled.rule]
    assert runs == ["CANCELLED", "COMPLETED"]


def test_a_job_without_enough_memory_is_tried_again_with_more(disturbed: Disturbed):
    runs = [job for job in disturbed.jobs if job.rule.startswith("rule_checkpoint_")]
    states = [job.state for job in runs]
    assert states[-1] == "COMPLETED"
    assert len(runs) > 1
    assert "COMPLETED" not in states[:-1]
    asked = [job.memory for job in runs]
    assert asked == pytest.approx([asked[0] * GROWTH**attempt for attempt in range(len(runs))], abs=1)


def test_jobs_that_ran_at_once_on_a_node_had_different_devices(disturbed: Disturbed, slurm: Slurm):
    devices = slurm.devices()
    computing = [job for job in disturbed.jobs if job.number in devices and job.gpus]
    assert len(computing) >= 5, "the dense model, three tickets and the cancelled one"
    assert {devices[job.number][1] for job in computing} == {"0", "1"}
    at_once = 0
    for one, other in combinations(computing, 2):
        if one.begin < other.end and other.begin < one.end and devices[one.number][0] == devices[other.number][0]:
            at_once += 1
            assert devices[one.number] != devices[other.number], (one, other)
    assert at_once, "no two jobs ran at once on a node: nothing was shown"


def test_jobs_on_the_cpu_get_no_device(disturbed: Disturbed, slurm: Slurm):
    devices = slurm.devices()
    kinds = Counter((job.rule.split("_wildcards")[0], job.gpus) for job in disturbed.jobs if job.number in devices)
    on_gpus = {rule for rule, gpus in kinds if gpus}
    assert on_gpus == {"rule_baseline", "rule_ticket"}
    for job in disturbed.jobs:
        if job.number in devices and not job.gpus:
            assert devices[job.number][1] == "none", job


def test_short_jobs_share_a_slurm_job(disturbed: Disturbed):
    rules = {job.rule for job in disturbed.jobs if job.state == "COMPLETED"}
    assert "rule_masks_mask" in rules
    assert not any(
        rule.startswith(("rule_mask_", "rule_overlap_", "rule_tables_", "rule_validation_")) for rule in rules
    )


def test_a_sparsity_that_is_added_reuses_the_rest(disturbed: Disturbed, slurm: Slurm):
    assert reruns(disturbed.folder) == set()
    before = len(slurm.jobs())
    configure(disturbed.folder, [*SPARSITIES, 0.9], threads="auto")
    done = slurm.run(disturbed.folder, "--max-threads", "2", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    processors = {job.rule.split("_wildcards")[0]: job.processors for job in slurm.jobs()[before:]}
    assert len(slurm.jobs()) == before + 4
    assert processors.keys() == {
        "rule_analyses_overlap_tables_validation",
        "rule_masks_mask",
        "rule_report",
        "rule_ticket",
    }
    assert processors["rule_masks_mask"] == processors["rule_ticket"] == 2, "what `threads: auto` is on a cluster"
    assert processors["rule_report"] == 1


def test_a_partition_that_there_is_not_is_said_to_be(slurm: Slurm, disturbed: Disturbed):
    (disturbed.folder / "results/report/tickets.csv").unlink()
    done = slurm.run(
        disturbed.folder, "--default-resources", "slurm_account=lab", "slurm_partition=nowhere", "--retries", "0"
    )
    assert done.returncode == 1
    assert "invalid partition specified: nowhere" in done.stdout + done.stderr
    assert slurm.waiting_or_running() == {}


def test_a_plan_for_another_configuration_is_not_used_and_named(slurm: Slurm, disturbed: Disturbed, undisturbed: Path):
    """Memory then follows from the sizes of files."""
    fitting = slurm.run(disturbed.folder, "--dry-run")
    assert "does not match the configuration" not in fitting.stdout + fitting.stderr
    foresee(undisturbed, host=2**30)
    config = {**CONFIG, "evaluate": {**CONFIG["evaluate"], "num_sequences": 5}}
    (undisturbed / "config/config.yaml").write_text(yaml.safe_dump(config))
    done = slurm.run(undisturbed, "--dry-run", "--forceall")
    said = done.stdout + done.stderr
    assert "results/plan/plan.json does not match the configuration of model tiny (evaluate changed)" in said
    (checkpoint,) = re.findall(r"rule checkpoint:\n(?:    .*\n)*?    resources: .*mem_mb=(\d+)", said)
    assert int(checkpoint) == memory_mb("checkpoint", None, 0, 0, 1)


def test_the_profile_of_kubernetes_is_valid(undisturbed: Path):
    """All that is tested of it: no Kubernetes has run it."""
    here = ["--default-storage-prefix", str(undisturbed)]  # the profile names a volume's mount point
    planned = snakemake(undisturbed, "--dry-run", "--forceall", "--workflow-profile", "profiles/kubernetes", *here)
    (ticket, *_) = re.findall(r"rule ticket:\n(?:    .*\n)*?    resources: (.*)\n", planned)
    assert "gpu=1" in ticket
    assert "gpu_manufacturer=nvidia" in ticket
    assert f"output: {undisturbed}/results/tickets" in planned
