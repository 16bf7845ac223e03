"""Keys of models, texts and the one-shot tickets made of them."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval, Lt, MinLen
from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from ltpipe.checkpoints.prunable import Preset
from ltpipe.data.documents import JOINT, Part
from ltpipe.data.sequences import Bos, Protocol
from ltpipe.evaluation.perturbation import NAME as PERTURBATION
from ltpipe.pruning.scopes import scope_named
from ltpipe.runtime.options import NoOptions, as_given, beyond_defaults, options_of
from ltpipe.runtime.records import Count, Positive, Word
from ltpipe.scoring.criterion import criterion_names, criterion_options, every_criterion
from ltpipe.solving.solver import is_solver, solver_named, solver_names
from ltpipe.workflow.configuration.section import (
    AboveZero,
    AtLeastTwo,
    Name,
    Option,
    Patterns,
    PrunedFraction,
    Section,
    Seeds,
    SequenceCount,
    Unique,
    refusals,
)

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Perturbation = Annotated[str, StringConstraints(pattern=f"^(?:{PERTURBATION})$")]
HybridName = Annotated[
    str,
    StringConstraints(max_length=100, pattern="^[a-z][a-z0-9-]*$"),
    Field(description="a name of at most 100 lower-case letters, digits and '-' that begins with a letter"),
]
HybridParts = Annotated[
    dict[str, AboveZero],
    MinLen(2),
    Field(description="criteria and their weights, numbers above 0, at least two"),
]


class PrunableSection(Section):
    """Which weights compete, by preset and patterns."""

    preset: Preset = "linear"
    """linear (matrices that the blocks multiply activations with) or all-weights (every weight of 2 or more dimensions)
    """
    include: Patterns = []
    """shell-style patterns of whole tensor names, which do not begin with '-'"""
    exclude: Patterns = []
    """shell-style patterns of whole tensor names, which do not begin with '-'"""


class ModelSection(Section):
    """A model."""

    source: Word
    """hub:owner/name@revision, package:module/path/inside, or the path of a folder with safetensors or of a .gguf file,
    relative to the configuration file
    """
    tokenizer: str | None = None
    """source of the tokenizer if it is not beside the model; otherwise null"""
    dtype: Precision = "auto"
    """dtype in which the checkpoint is stored; auto keeps the source's dtype (GGUF gives float32)"""
    prunable: PrunableSection = PrunableSection()


class ReadingSection(Section):
    """Where the documents of a text are, and how to read them."""

    source: Word
    """path of a .txt, .jsonl, .json (each also with .gz) or .parquet file or of a folder of such files, relative to the
    configuration file, package:module/path/inside, or hub:owner/name@revision of a dataset
    """
    files: Word = "**/*"
    """shell-style pattern of the files to read in a folder; .json files are read only if it ends with .json or .json.gz
    """
    field: Word = "text"
    """key (.jsonl, .json) or column (.parquet) that holds the text, or chat messages (a list of role and content),
    which the model's chat template turns into text
    """
    documents: Part = "all"
    """all documents, or the documents of one part (one document in five, chosen by the hash of its name, is
    calibration)
    """
    separator: str = JOINT
    """text placed after each document"""


class TextSection(ReadingSection):
    """A text."""

    protocol: Protocol = "documents"
    """documents (each document is tokenised by itself; evaluate.num_sequences of all sequences are used), or
    wikitext2, the protocol of the pruning literature (documents are joined with two newlines and tokenised once; all
    sequences are used, and the tail is dropped)
    """
    bos: Bos = "auto"
    """which sequences begin as the model's tokenizer begins a text, usually with BOS: each window (all of them), never,
    or auto (all, if the tokenizer begins a text with special tokens or the model is a Gemma; under protocol wikitext2
    the first, as in the literature)
    """

    @model_validator(mode="after")
    def _protocol_fixes_separator(self) -> "TextSection":
        if self.protocol == "wikitext2" and self.separator != JOINT:
            raise ValueError(
                f".separator: {self.separator!r} is not allowed; protocol wikitext2 joins documents with two newlines, "
                "so remove the key"
            )
        return self


class RefineSection(Section):
    """How far to narrow the brackets in which curves stop winning."""

    to: Annotated[float, Interval(ge=0.001, le=1)] = 0.01
    """how close, as a fraction of the prunable weights, a number from 0.001 to 1"""


class GridSection(Section):
    """Tickets for every model, criteria x scopes x sparsities x seeds; null for none."""

    criteria: Annotated[list[str], MinLen(1), Unique]
    """names of criteria or of score.hybrids, which say what makes a weight worth keeping, without duplicates"""
    scopes: Annotated[list[str], MinLen(1), Unique] = ["global"]
    """names of scopes, which say where weights compete and in what pattern; see config/README.md, for example global,
    layer, row, owl-row, 2of4 (not 2:4, which YAML reads as a number) or block16x16
    """
    scope_options: dict[str, dict[str, Option]] = {}
    """options by name of scope, for example {owl-row: {multiple: 3}} (docs/scopes.md); other options keep their
    defaults
    """
    sparsities: Annotated[list[PrunedFraction], MinLen(1), Unique]
    """fractions of the prunable weights to prune, numbers from 0 to 1, without duplicates"""
    seeds: Seeds = [0]
    """integers of at least 0, without duplicates; only stochastic criteria are repeated for each seed"""
    refine: RefineSection | None = None
    """sparsities to add between the last winning and the first losing ticket of each curve, until the two are close;
    null for none
    """

    @model_validator(mode="after")
    def _scopes_have_options(self) -> "GridSection":
        for index, name in enumerate(self.scopes):
            with refusals(f".scopes[{index}]: "):
                scope_named(name)
        if unused := sorted(self.scope_options.keys() - set(self.scopes)):
            raise ValueError(f".scope_options: '{unused[0]}' is not in grid.scopes; use {', '.join(self.scopes)}")
        with refusals("."):
            self.scope_options = {name: self._options_beyond_defaults(name) for name in self.scopes}
        return self

    def _options_beyond_defaults(self, scope: str) -> dict[str, Option]:
        given = self.scope_options.get(scope, {})
        kind = scope_named(scope).options if given else NoOptions  # an allocation is imported only for its options
        return beyond_defaults(options_of(kind, given, f"scope_options.{scope}"))


def _completed(section: Section, settings: dict[str, Any]) -> dict[str, Any]:
    """Return named settings with the section's own values for the keys that they leave out."""
    return {
        name: given.model_copy(
            update={key: getattr(section, key) for key, value in given.model_dump().items() if value is None}
        )
        for name, given in settings.items()
    }


class ScoreSettings(Section):
    """What named settings for scoring have of their own."""

    data: str | None = None
    """name of the calibration text; null takes that of score"""
    sequence_length: AtLeastTwo | None = None
    """tokens per calibration sequence, an integer of at least 2; null takes that of score"""
    num_sequences: SequenceCount | None = None
    """number of calibration sequences, an integer of at least 1, or all; null takes that of score"""


class ScoreSection(Section):
    """How to compute criteria that need more than a weight's own value."""

    data: str | None = None
    """name of the calibration text under data, no part of which may be evaluated; null for none"""
    sequence_length: AtLeastTwo = 256
    """tokens per calibration sequence, an integer of at least 2"""
    num_sequences: SequenceCount = 16
    """number of calibration sequences, an integer of at least 1, or all"""
    options: dict[str, dict[str, Option]] = {}
    """options by name of criterion, for example {grasp: {temperature: 1}} (docs/criteria.md); other options keep their
    defaults
    """
    hybrids: dict[HybridName, HybridParts] = {}
    """named weighted sums of normalised scores; each maps criteria that are not stochastic to numbers above 0"""
    settings: dict[Name, ScoreSettings] = {}
    """named settings, for example {few: {num_sequences: 4}, many: {num_sequences: 64}}: each criterion that needs
    calibration data is scored with each of them, and only with them
    """

    @model_validator(mode="after")
    def _criteria_exist(self) -> "ScoreSection":
        parts = ["magnitude", *criterion_names()]
        for name, given in self.hybrids.items():
            if name in (*every_criterion(), *solver_names()):
                raise ValueError(f".hybrids.{name}: a criterion already has this name; choose another")
            if unknown := [part for part in given if part not in parts]:
                raise ValueError(f".hybrids.{name}: '{unknown[0]}' cannot be part of a hybrid; use {', '.join(parts)}")
        known = sorted([*criterion_names(), *solver_names()])
        if unknown := sorted(self.options.keys() - set(known)):
            raise ValueError(f".options: '{unknown[0]}' has no options; use {', '.join(known)}")
        with refusals("."):
            self.options = {name: as_given(self._options_of(name)) for name in known}
        self.settings = _completed(self, self.settings)
        return self

    def _options_of(self, name: str) -> Any:
        given, key = self.options.get(name, {}), f"options.{name}"
        return (
            options_of(solver_named(name).options, given, key)
            if is_solver(name)
            else criterion_options(name, given, key)
        )


class HarnessTaskSection(Section):
    """A task of lm-evaluation-harness."""

    task: Word
    """name of a task or a group of tasks of lm-evaluation-harness; with a folder, of one in the folder"""
    num_fewshot: Count | None = None
    """number of examples before each question, an integer of at least 0; null takes the task's own"""
    limit: Positive | None = None
    """number of documents to ask about, the first ones, an integer of at least 1; null takes all"""
    folder: Word | None = None
    """folder with YAML files of tasks of one's own, relative to the configuration file, or package:module/path/inside;
    null for none
    """


def _by_name(tasks: Any) -> Any:
    """Return a list of tasks by their names; a name says a number of examples that is not the task's own."""
    if not isinstance(tasks, list):
        return tasks
    named: dict[str, Any] = {}
    for each in tasks:
        given = {"task": each} if isinstance(each, str) else each
        if not isinstance(given, dict) or not isinstance(given.get("task"), str):
            raise ValueError(f"{each!r} is not a task; use its name, or keys of evaluate.tasks.<name>")
        shots = given.get("num_fewshot")
        name = given["task"] if shots is None else f"{given['task']}-{shots}-shot"
        if name in named:
            raise ValueError(f"{name!r} appears twice; give tasks names: {{first: {{task: …}}, second: …}}")
        named[name] = given
    return named


class EvaluateSettings(Section):
    """What named settings for evaluating have of their own."""

    sequence_length: AtLeastTwo | None = None
    """tokens per sequence, an integer of at least 2; null takes that of evaluate"""
    num_sequences: SequenceCount | None = None
    """number of sequences, an integer of at least 1, or all; null takes that of evaluate"""


class EvaluateSection(Section):
    """How to evaluate dense models and tickets."""

    data: Annotated[list[str], MinLen(1), Unique] | None = None
    """names of texts under data, without duplicates; null takes all of them except the text of score.data"""
    sequence_length: AtLeastTwo = 256
    """tokens per sequence, an integer of at least 2"""
    num_sequences: SequenceCount = 16
    """number of sequences, an integer of at least 1, or all"""
    micro_batch: Positive | Literal["auto"] = "auto"
    """largest number of sequences that go through a block together, an integer of at least 1, or auto"""
    device_memory: AboveZero | Literal["auto"] = "auto"
    """GiB that tensors may take on the device (in main memory, on the CPU), a number above 0, or auto (what is free);
    batch sizes are derived from it
    """
    precision: Precision = "auto"
    """dtype of the computation; auto takes the checkpoint's; losses are always float32, summed in float64"""
    execution: Literal["streamed", "in-memory"] = "streamed"
    """streamed (one block of weights in memory at a time) or in-memory"""
    device: Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9-]*(:[0-9]+)?$")] = "auto"
    """auto (the machine's accelerator, otherwise the CPU), auto-shard (several accelerators that share a model's
    weights), cpu, or a kind of accelerator such as cuda; if there are several, each job finds its own
    """
    devices: AtLeastTwo = 2
    """number of accelerators of each job with device auto-shard, an integer of at least 2"""
    top_k: Count = 32
    """number of the dense model's top-k tokens to keep for each prediction, an integer of at least 0; tickets are
    compared with these tokens, and 0 compares nothing
    """
    tickets_per_pass: Positive | Literal["auto"] = 1
    """largest number of tickets that are evaluated together, so that their weights are read once, an integer of at
    least 1, or auto (up to 16); fewer share a pass if memory is short
    """
    tasks: Annotated[dict[Name, HarnessTaskSection], BeforeValidator(_by_name)] = {}
    """tasks of lm-evaluation-harness, for example [arc_easy, {task: hellaswag, num_fewshot: 5}], or by names of one's
    own, for example {few: {task: hellaswag, limit: 100}}; dense models and the grid's tickets answer them
    (docs/tasks.md)
    """
    settings: dict[Name, EvaluateSettings] = {}
    """named settings, for example {short: {sequence_length: 128}, long: {sequence_length: 1024}}: dense models and
    tickets are evaluated with each of them, and only with them
    """

    @model_validator(mode="after")
    def _device_has_no_number(self) -> "EvaluateSection":
        kind, _, number = self.device.partition(":")
        if number:
            raise ValueError(
                f".device: '{self.device}' names one device, but each job gets a free one; use {kind}, and make only "
                f"device {number} visible: CUDA_VISIBLE_DEVICES={number}"
            )
        self.settings = _completed(self, self.settings)
        return self


class SimulationSection(Section):
    """Iterative magnitude pruning on every model and text, without training; null for none."""

    target_sparsity: Annotated[float, Ge(0), Lt(1)] = 0.9
    """sparsity of the last iteration, a number from 0 to below 1"""
    iterations: Positive = 10
    """number of iterations, an integer of at least 1"""
    batch: Positive = 2
    """sequences per batch, an integer of at least 1; the dense model is measured on at most 10 batches, a ticket on at
    most 5
    """


class RobustnessSection(Section):
    """How to evaluate dense models and tickets once more with perturbed weights."""

    perturbations: Annotated[list[Perturbation], Unique] = []
    """noise-X (Gaussian noise, X times the root mean square of a tensor's weights, with X written as a plain decimal
    like 0.01) and int2 to int8 (rounding to that many bits), without duplicates
    """
    seeds: Seeds = [0]
    """seeds of the noise, integers of at least 0, without duplicates"""
