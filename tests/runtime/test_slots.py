"""Devices of its own for a job: never two jobs on one, none lost, and nobody waits for ever. The ids are made up."""

import os
import random
import signal
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
from checkouts import ROOT, SNAKEMAKE

from ltpipe.runtime import slots
from ltpipe.runtime.errors import UserError
from ltpipe.workflow.commands import WITH_DEVICES

SLOTS = [sys.executable, "-P", "-S", slots.__file__]

LOG_INTERVAL = """
import os, sys, time
began = time.monotonic_ns()
time.sleep(float(sys.argv[2]))
line = f"{os.environ['CUDA_VISIBLE_DEVICES']} {began} {time.monotonic_ns()}\\n"
os.write(os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), line.encode())
"""


def ids(count: int) -> list[str]:
    """Ids that no other test has, since slots are the whole machine's."""
    return [f"GPU-{uuid4()}" for _ in range(count)]


def environment(devices: list[str] | None = None, **more: str) -> dict[str, str]:
    hidden = (*slots.VARIABLES, slots.WITHIN, "SLURM_JOB_ID", "LTPIPE_LOG")
    plain = {name: value for name, value in os.environ.items() if name not in hidden}
    visible = {} if devices is None else {"CUDA_VISIBLE_DEVICES": ",".join(devices)}
    return plain | {"PYTHONPATH": str(ROOT / "src")} | visible | more


def start(count: int, command: list[str], env: dict[str, str], **options: object) -> subprocess.Popen:
    return subprocess.Popen([*SLOTS, str(count), "--", *command], env=env, text=True, **options)


def seen(count: int, env: dict[str, str], variable: str = "CUDA_VISIBLE_DEVICES") -> list[str]:
    """The devices that a job is given."""
    command = [sys.executable, "-S", "-c", f"import os; print(os.environ.get('{variable}', 'unset'))"]
    done = subprocess.run([*SLOTS, str(count), "--", *command], env=env, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split(",")


def intervals(log: Path) -> dict[str, list[tuple[int, int]]]:
    """When each device was in use, from the log of the jobs."""
    used = defaultdict(list)
    for line in log.read_text().splitlines():
        devices, began, ended = line.split()
        for device in devices.split(","):
            used[device].append((int(began), int(ended)))
    return {device: sorted(times) for device, times in used.items()}


def assert_never_shared(used: dict[str, list[tuple[int, int]]]) -> None:
    for device, times in used.items():
        for (_, ended), (began, _) in pairwise(times):
            assert ended <= began, f"{device}: two jobs at one time"


def test_many_jobs_of_one_and_of_two_devices(tmp_path):
    """Sixteen at once on three devices: one job a device at a time, all devices used, and all jobs come to an end."""
    devices, log, draw = ids(3), tmp_path / "log", random.Random(7)
    counts = [draw.choice([1, 1, 2]) for _ in range(14)] + [3, 3]
    jobs = [
        start(
            count,
            [sys.executable, "-S", "-c", LOG_INTERVAL, str(log), str(draw.uniform(0, 0.05))],
            environment(devices),
        )
        for count in counts
    ]
    assert [job.wait(timeout=60) for job in jobs] == [0] * len(counts)
    used = intervals(log)
    assert sorted(used) == sorted(devices)
    assert sum(map(len, used.values())) == sum(counts)
    assert_never_shared(used)


def alive(process: subprocess.Popen) -> bool:
    """Whether the process does the work of the test, which says so."""
    return process.stdout.readline() == "there\n"


STAY = [sys.executable, "-S", "-c", "print('there', flush=True); import time; time.sleep(60)"]


def test_a_killed_job_frees_its_device():
    devices = ids(1)
    job = start(1, STAY, environment(devices), stdout=subprocess.PIPE)
    assert alive(job)
    job.kill()
    job.wait()
    assert seen(1, environment(devices)) == devices


def test_what_a_killed_job_leaves_behind_keeps_the_device():
    """As a job does whose snakemake was killed: the shell between them is gone, the job computes on."""
    first, second = devices = ids(2)
    job = f"{' '.join(SLOTS)} 1 -- sh -c 'sleep 60 & echo $$ $!; wait'"
    parent = subprocess.Popen(
        ["sh", "-c", f"{job} & wait"], env=environment(devices), stdout=subprocess.PIPE, text=True
    )
    job, child = map(int, parent.stdout.readline().split())
    try:
        parent.kill()
        parent.wait()
        assert seen(1, environment(devices)) == [second]
        os.kill(job, signal.SIGKILL)
        assert seen(1, environment(devices)) == [second], "its child still has the device"
    finally:
        for process in (job, child):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    assert seen(1, environment([first])) == [first]


def test_a_job_that_waits_for_a_device_says_so(monkeypatch, tmp_path):
    """It waits, and goes on when the device is free."""
    (name,), log = ids(1), tmp_path / "log"
    job = start(1, STAY, environment([name]), stdout=subprocess.PIPE)
    assert alive(job)
    monkeypatch.setattr(slots, "_SAY_AFTER", 0.0)
    monkeypatch.setenv("LTPIPE_LOG", str(log))
    looks = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            job.kill()
            job.wait()

    monkeypatch.setattr(slots.time, "sleep", look)
    assert slots.acquire([f"CUDA_VISIBLE_DEVICES-{name}"], 1) == [0]
    assert len(looks) == 3
    assert log.read_text() == f"waiting for 1 of the devices CUDA_VISIBLE_DEVICES-{name}: other jobs are using them\n"


@pytest.mark.parametrize(
    ("count", "env", "given"),
    [
        pytest.param(0, {"CUDA_VISIBLE_DEVICES": "0,1"}, ["0", "1"], id="no device wanted"),
        pytest.param(1, {"CUDA_VISIBLE_DEVICES": ""}, [""], id="none visible"),
        pytest.param(1, {"CUDA_VISIBLE_DEVICES": "-1"}, ["-1"], id="all hidden"),
        pytest.param(1, {"CUDA_VISIBLE_DEVICES": "3", "SLURM_JOB_ID": "7"}, ["3"], id="assigned by SLURM"),
        pytest.param(1, {"SLURM_JOB_ID": "7"}, ["unset"], id="SLURM assigned none"),
    ],
)
def test_nothing_is_locked_where_there_is_nothing_to_share(count, env, given, monkeypatch):
    monkeypatch.setattr(slots, "acquire", lambda *_: pytest.fail("locked"))
    got = []
    monkeypatch.setattr(slots.os, "execvp", lambda *_: got.append(os.environ.get("CUDA_VISIBLE_DEVICES", "unset")))
    for name in (*slots.VARIABLES, slots.WITHIN, "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slots.signal, "signal", lambda *_: None)
    slots.run(count, ["command"])
    assert got == [",".join(given)]


def test_jobs_inside_one_allocation_get_devices_apart():
    """A whole workflow in one SLURM job, or under a command that has slots itself, which it must not wait for."""
    devices = ids(2)
    inner = [*SLOTS, "1", "--", sys.executable, "-S", "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"]
    two = f"a=$({' '.join(map(repr, inner))}); b=$({' '.join(map(repr, inner))}); echo $a $b"
    done = subprocess.run(
        [*SLOTS, "2", "--", "sh", "-c", two], env=environment(devices), capture_output=True, text=True, timeout=20
    )
    assert done.stdout.split() == [devices[0]] * 2, done.stderr  # one after the other, so both get the first
    within = environment(devices, SLURM_JOB_ID=str(uuid4()))
    job = start(1, STAY, within, stdout=subprocess.PIPE)
    assert alive(job)
    assert seen(1, within) == devices[1:]
    assert seen(1, environment(devices)) == devices[:1], "numbers mean other devices outside"
    job.kill()
    job.wait()


def test_every_variable_that_says_the_same_is_narrowed():
    devices = ids(2)
    same = environment(devices, HIP_VISIBLE_DEVICES=",".join(devices), ZE_AFFINITY_MASK="0")
    assert seen(1, same, "HIP_VISIBLE_DEVICES") == devices[:1]
    assert seen(1, same, "ZE_AFFINITY_MASK") == ["0"]
    assert seen(1, environment(HIP_VISIBLE_DEVICES=",".join(devices)), "HIP_VISIBLE_DEVICES") == devices[:1]


def test_devices_of_the_machine(monkeypatch, tmp_path):
    """As many as the driver of NVIDIA has folders, the tool lines, or that of AMD nodes with a number."""
    monkeypatch.setattr(slots, "_NVIDIA", tmp_path / "nvidia")
    monkeypatch.setattr(slots, "_AMD", tmp_path / "amd")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slots._of_machine()[1] == []
    for node, number in enumerate(("0", "17", "18")):
        (tmp_path / f"amd/{node}").mkdir(parents=True)
        (tmp_path / f"amd/{node}/gpu_id").write_text(f"{number}\n")
    assert slots._of_machine() == ("HIP_VISIBLE_DEVICES", ["0", "1"])
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g (UUID: MIG-1)'\n")
    tool.chmod(0o755)
    assert slots._of_machine() == ("CUDA_VISIBLE_DEVICES", ["0"])
    for address in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (tmp_path / "nvidia" / address).mkdir(parents=True)
    assert slots._of_machine() == ("CUDA_VISIBLE_DEVICES", ["0", "1", "2"])


@pytest.mark.parametrize(
    ("listed", "devices"),
    [("0, 1", ["0", "1"]), ("0,0", ["0"]), ("1,-1,2", ["1"]), ("MIG-GPU-1/7/0", ["MIG-GPU-1/7/0"]), ("", [])],
)
def test_devices_of_a_variable(listed, devices):
    assert slots._listed(listed) == devices


def test_slots_of_mig_devices_have_names_of_files():
    device = f"MIG-{ids(1)[0]}/7/0"
    assert seen(1, environment([device])) == [device]


@pytest.mark.parametrize("kind", ["link", "file", "open to others"])
def test_a_folder_that_is_not_ones_own_is_refused(kind, monkeypatch, tmp_path):
    """Whoever made it first could point it anywhere, or take the locks."""
    place, target = tmp_path / "slots", tmp_path / "target"
    target.mkdir(mode=0o700)
    if kind == "link":
        place.symlink_to(target)
    elif kind == "file":
        place.touch()
    else:
        place.mkdir()
        place.chmod(0o770)
    monkeypatch.setattr(slots, "Path", lambda _: place)
    with pytest.raises(UserError, match=r"delete it$"):
        slots.acquire(["slot"], 1)
    assert not list(target.iterdir())


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["3", "--", "true"], 1, "the job asks for 3 devices but sees 2 (CUDA_VISIBLE_DEVICES=a,b)"),
        (["1", "--", "/no/such"], 1, "/no/such: No such file"),
        (["one", "--", "true"], 2, "usage: "),
        (["1", "true"], 2, "usage: "),
    ],
)
def test_one_line_for_what_cannot_be(arguments, status, message, tmp_path):
    log = tmp_path / "log"
    env = environment(["a", "b"], LTPIPE_LOG=str(log))
    done = subprocess.run([*SLOTS, *arguments], env=env, capture_output=True, text=True, timeout=20)
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {message}")
    assert log.read_text() == f"{line}\n"


WORKFLOW = """
rule all:
    input: expand("done/{job}", job=range(3)), "done/two"

rule job:
    output: "done/{job}"
    resources: gpu=lambda wildcards: 2 if wildcards.job == "two" else 1
    shell: WITH_DEVICES + "python -S {JOB} {LOG} 0.1 && touch {output}"
"""


def test_two_snakemakes_of_one_user_share_the_devices(tmp_path):
    """Each would run two jobs at a time on two devices."""
    prefix = f"WITH_DEVICES = {WITH_DEVICES!r}"
    devices, log = ids(2), tmp_path / "log"
    (tmp_path / "job.py").write_text(LOG_INTERVAL)
    running = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        values = f"JOB, LOG = {str(tmp_path / 'job.py')!r}, {str(log)!r}"
        (folder / "Snakefile").write_text(f"{prefix}\n{values}\n{WORKFLOW}")
        env = environment(devices) | {"LTPIPE_PACKAGE": str(ROOT / "src/ltpipe")}
        env |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        command = [SNAKEMAKE, "--cores", "4", "--resources", "gpu=2", "--quiet"]
        running.append(subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True))
    for process in running:
        _, messages = process.communicate(timeout=60)
        assert process.returncode == 0, messages
    used = intervals(log)
    assert sorted(used) == sorted(devices)
    assert sum(map(len, used.values())) == 2 * (3 + 2)
    assert_never_shared(used)
