"""Runs a command with its own devices: `python -P -S …/slots.py COUNT -- command …`.

`snakemake --resources gpu=K` limits how many jobs run at a time but does not tell a job which device to use. Here a
device is a slot, an exclusive lock that the command inherits. There is no extra process, and the kernel frees the slot
once the command and all processes that inherited the lock have ended, however they ended. An orphan of a killed
snakemake keeps its device.

A slot is a locked folder, because programs that clean up /tmp leave locked folders alone. The slots' location depends
only on the user, not on any variable: two workflows must never look in different places.

This runs before every job that computes on a device, so it imports nothing slow.
"""

import fcntl
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

if __name__ == "__main__":  # run by its file: without `site`, which takes time, Python finds no installed package
    sys.path.append(str(Path(__file__).parents[2]))

from ltpipe.runtime.errors import UserError

VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
"""The variables that tell the runtimes of NVIDIA, AMD and Intel which devices a process may see."""

WITHIN = "LTPIPE_SLOTS"
"""Tells a command that its devices are slots of another command, whose process id it contains."""

_QUEUE = "queue"
_LOOK_EVERY, _SAY_AFTER = 0.1, 10.0  # seconds

_NVIDIA, _AMD = Path("/proc/driver/nvidia/gpus"), Path("/sys/class/kfd/kfd/topology/nodes")


def run(count: int, command: list[str]) -> None:
    """Become `command` with exclusive use of `count` devices, waiting for them if necessary.

    Locks nothing if there is no device, if `count` is 0, or in an allocation by a scheduler (or by this function) that
    has exactly `count` devices or does not say which.

    Raises:
        UserError: there are fewer devices, or the slots' folder belongs to someone else.
    """
    given = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    allocation = _allocation()
    variable, devices = _visible(given, allocation)
    if count and devices:
        if count > len(devices):
            raise UserError(
                f"the job asks for {count} devices but sees {len(devices)} ({variable}={','.join(devices)}); "
                "make more visible, or configure fewer (evaluate.devices, compute.processes)"
            )
        if not allocation or count < len(devices):
            # The same number means a different device in each allocation and for each vendor.
            names = [f"{allocation}{variable}-{device.replace('/', '-')}" for device in devices]
            devices = [devices[position] for position in acquire(names, count)]
            chosen = ",".join(devices)
            os.environ |= {name: chosen for name in given if given[name] == given.get(variable)} | {variable: chosen}
            os.environ[WITHIN] = str(os.getpid())
    for name in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and the command would inherit that
        signal.signal(name, signal.SIG_DFL)
    os.execvp(command[0], command)


def acquire(names: list[str], count: int) -> list[int]:
    """Lock `count` of the slots `names` for this process and the command it becomes; wait until enough are free.

    A process that wants several keeps those it has while it waits for more, but only one such process waits at a time;
    all others hold nothing while they wait. So there is no deadlock, and processes that want several get them.

    Returns:
        Positions of the slots, ascending.

    Raises:
        UserError: the slots' folder belongs to someone else.
    """
    folder = _folder()
    queue = _slot(_QUEUE, folder) if count > 1 else None
    if queue is not None:
        fcntl.flock(queue, fcntl.LOCK_EX)
    held: dict[int, int] = {}
    began, said = time.monotonic(), False
    while True:
        for position, name in enumerate(names):
            if len(held) < count and position not in held:
                lock = _slot(name, folder)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(lock)
                else:
                    held[position] = lock
        if len(held) == count:
            break
        if not said and time.monotonic() - began > _SAY_AFTER:
            say(f"waiting for {count} of the devices {', '.join(names)}: other jobs are using them")
            said = True
        time.sleep(_LOOK_EVERY)
    if queue is not None:
        os.close(queue)
    for lock in held.values():
        os.set_inheritable(lock, True)
    return sorted(held)


def say(message: str) -> None:
    """Write a message to the terminal and to the job's log."""
    print(message, file=sys.stderr, flush=True)
    if log := os.environ.get("LTPIPE_LOG"):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{message}\n")


def _allocation() -> str:
    """Return the prefix of slot names inside an allocation; empty on the user's own machine."""
    for name in (WITHIN, "SLURM_JOB_ID"):
        if name in os.environ:
            return f"{name}-{os.environ[name]}-"
    return ""


def _visible(given: dict[str, str], allocation: str) -> tuple[str, list[str]]:
    """Return the variable that names devices, and this process's devices from the environment or the machine."""
    for name, devices in given.items():
        return name, _listed(devices)
    if allocation:
        return "", []  # it does not say which of the machine's devices it has
    return _of_machine()


def _listed(devices: str) -> list[str]:
    """Return the devices in a variable's value. As in CUDA, devices after an invalid one are not visible."""
    found: list[str] = []
    for device in map(str.strip, devices.split(",")):
        if device in ("", "-1", "NoDevFiles"):
            break
        if device not in found:
            found.append(device)
    return found


def _of_machine() -> tuple[str, list[str]]:
    """Return the machine's devices as their runtime numbers them, without loading the runtime."""
    nvidia = len(list(_NVIDIA.iterdir())) if _NVIDIA.is_dir() else _count_by_tool()
    if nvidia:
        return "CUDA_VISIBLE_DEVICES", [str(index) for index in range(nvidia)]
    amd = sum(_is_gpu(number) for number in _AMD.glob("*/gpu_id"))
    return "HIP_VISIBLE_DEVICES", [str(index) for index in range(amd)]


def _count_by_tool() -> int:
    """Count NVIDIA devices where the driver has no folder, as in WSL."""
    import shutil

    if not shutil.which("nvidia-smi"):
        return 0
    import subprocess

    found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in found.stdout.splitlines())


def _is_gpu(number: Path) -> bool:
    """Return whether a node of AMD's driver is a GPU; a processor has the number 0."""
    try:
        return number.read_text().strip() not in ("", "0")
    except OSError:  # a device that this user may not use
        return False


def _folder() -> int:
    """Open the folder of this user's slots on this machine.

    Raises:
        UserError: the folder is a link, or belongs to someone else.
    """
    path = Path(f"/tmp/ltpipe-slots-{os.getuid()}")
    with suppress(FileExistsError):
        path.mkdir(0o700)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        raise UserError(f"{path}: cannot be opened as a folder for device locks; delete it") from None
    state = os.fstat(folder)
    if state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise UserError(f"{path}: other users can access this folder of device locks; delete it")
    return folder


def _slot(name: str, folder: int) -> int:
    """Open a slot without locking it."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=folder)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)


def main(arguments: list[str]) -> int:
    """Run the command line; return an exit status if the command could not be started."""
    if len(arguments) < 3 or not arguments[0].isdecimal() or arguments[1] != "--":
        say("error: usage: python -m ltpipe.runtime.slots COUNT -- command …")
        return 2
    try:
        run(int(arguments[0]), arguments[2:])
    except UserError as error:
        say(f"error: {error}")
    except OSError as error:
        say(f"error: {error.filename or arguments[2]}: {error.strerror}")
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
