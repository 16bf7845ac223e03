"""Runs a command with devices of its own: `python -P -S …/slots.py COUNT -- command …`.

`snakemake --resources gpu=K` caps how many jobs run at a time and tells none of them which device is its own. Here a
device is a slot, an exclusive lock that the command inherits: there is no further process, and the kernel frees the
slot when the command and all that inherited it have ended, however they did. An orphan of a killed snakemake keeps its
device.

A slot is a locked folder, because programs that tidy up /tmp leave locked folders alone. Where they lie depends on the
user only, and on no variable: two workflows must never look in different places.

This runs before each job that computes on a device, so it imports nothing that takes time.
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
"""What says to the runtimes of NVIDIA, AMD and Intel which devices a process may see."""

WITHIN = "LTPIPE_SLOTS"
"""Tells a command that its devices are slots of another command, whose process this names."""

_QUEUE = "queue"
_LOOK_EVERY, _SAY_AFTER = 0.1, 10.0  # seconds

_NVIDIA, _AMD = Path("/proc/driver/nvidia/gpus"), Path("/sys/class/kfd/kfd/topology/nodes")


def run(count: int, command: list[str]) -> None:
    """Become `command`, with `count` devices that nobody else has meanwhile; wait for them if need be.

    Nothing is locked where there is no device, where `count` is 0, and in an allocation of a scheduler (or of this
    function) that holds just `count` devices, or does not say which.

    Raises:
        UserError: there are not so many devices here, or the folder of the slots belongs to someone else.
    """
    given = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    allocation = _allocation()
    variable, devices = _visible(given, allocation)
    if count and devices:
        if count > len(devices):
            raise UserError(
                f"the job asks for {count} devices and sees {len(devices)} ({variable}={','.join(devices)}); "
                "let it see more, or configure fewer (evaluate.devices, compute.processes)"
            )
        if not allocation or count < len(devices):
            # A number means another device in each allocation; so does it to another vendor.
            names = [f"{allocation}{variable}-{device.replace('/', '-')}" for device in devices]
            devices = [devices[position] for position in acquire(names, count)]
            chosen = ",".join(devices)
            os.environ |= {name: chosen for name in given if given[name] == given.get(variable)} | {variable: chosen}
            os.environ[WITHIN] = str(os.getpid())
    for name in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is ignored stays so in the command
        signal.signal(name, signal.SIG_DFL)
    os.execvp(command[0], command)


def acquire(names: list[str], count: int) -> list[int]:
    """Lock `count` of the slots `names`, for this process and what it becomes; wait until there are enough.

    A process that wants several keeps those that it has got and waits for more, but only one of that kind at a time;
    all others hold nothing while they wait. So nobody waits for one who waits, and those that want several get them.

    Returns:
        Positions of the slots, ascending.

    Raises:
        UserError: the folder of the slots belongs to someone else.
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
            say(f"waiting for {count} of the devices {', '.join(names)}: other jobs have them")
            said = True
        time.sleep(_LOOK_EVERY)
    if queue is not None:
        os.close(queue)
    for lock in held.values():
        os.set_inheritable(lock, True)
    return sorted(held)


def say(message: str) -> None:
    """Tell the user, on the terminal and in the job's log."""
    print(message, file=sys.stderr, flush=True)
    if log := os.environ.get("LTPIPE_LOG"):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{message}\n")


def _allocation() -> str:
    """What begins the names of slots inside an allocation; nothing on a machine of one's own."""
    for name in (WITHIN, "SLURM_JOB_ID"):
        if name in os.environ:
            return f"{name}-{os.environ[name]}-"
    return ""


def _visible(given: dict[str, str], allocation: str) -> tuple[str, list[str]]:
    """The devices that the environment leaves to this process, else those of the machine, and the variable for them."""
    for name, devices in given.items():
        return name, _listed(devices)
    if allocation:
        return "", []  # it has not said which of the machine's devices are its own
    return _of_machine()


def _listed(devices: str) -> list[str]:
    """The devices of a variable. As in CUDA, what follows one that cannot be is not seen."""
    found: list[str] = []
    for device in map(str.strip, devices.split(",")):
        if device in ("", "-1", "NoDevFiles"):
            break
        if device not in found:
            found.append(device)
    return found


def _of_machine() -> tuple[str, list[str]]:
    """The machine's devices as their runtime numbers them, without loading it."""
    nvidia = len(list(_NVIDIA.iterdir())) if _NVIDIA.is_dir() else _count_by_tool()
    if nvidia:
        return "CUDA_VISIBLE_DEVICES", [str(index) for index in range(nvidia)]
    amd = sum(_is_gpu(number) for number in _AMD.glob("*/gpu_id"))
    return "HIP_VISIBLE_DEVICES", [str(index) for index in range(amd)]


def _count_by_tool() -> int:
    """NVIDIA devices where the driver has no folder, as in WSL."""
    import shutil

    if not shutil.which("nvidia-smi"):
        return 0
    import subprocess

    found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in found.stdout.splitlines())


def _is_gpu(number: Path) -> bool:
    """Whether a node of AMD's driver is a GPU and not a processor, which has the number 0."""
    try:
        return number.read_text().strip() not in ("", "0")
    except OSError:  # of a device that is not for this user
        return False


def _folder() -> int:
    """The folder of this user's slots on this machine, open.

    Raises:
        UserError: it is a link, or belongs to someone else.
    """
    path = Path(f"/tmp/ltpipe-slots-{os.getuid()}")
    with suppress(FileExistsError):
        path.mkdir(0o700)
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        raise UserError(f"{path}: is no folder that can be opened; the locks of devices lie there, delete it") from None
    state = os.fstat(folder)
    if state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise UserError(f"{path}: is not for its user alone; the locks of devices lie there, delete it")
    return folder


def _slot(name: str, folder: int) -> int:
    """A slot, open and not yet locked."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=folder)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)


def main(arguments: list[str]) -> int:
    """Run the command line; returns the exit status of a command that could not be started."""
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
