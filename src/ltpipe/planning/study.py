"""The plan of a study: what each stage will need, computed from the configuration alone."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any

import torch

from ltpipe.checkpoints.live import converted
from ltpipe.checkpoints.load import judged
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.originals import stored_anew
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.agreement import Recorder, top_bytes
from ltpipe.evaluation.perturbation import perturbation_named
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner, fit_together
from ltpipe.planning.architecture import architecture, foreseen
from ltpipe.planning.stages import StagePlan
from ltpipe.planning.trainings import plan_trainings
from ltpipe.pruning.by_scope import packing_bytes
from ltpipe.pruning.histogram import streaming_bytes
from ltpipe.pruning.scopes import is_allocated
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.recovery.plan import planned_step
from ltpipe.recovery.settings import RecoverySettings
from ltpipe.runtime.device import AUTO_SHARD
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.fake_device import Peak
from ltpipe.runtime.labels import name_of, recovery_of
from ltpipe.runtime.memory import GIB, private_host_bytes
from ltpipe.runtime.options import options_of
from ltpipe.runtime.sources import Source
from ltpipe.scoring.criterion import ActivationCriterion, criterion_options, scored_criterion
from ltpipe.scoring.plan import ScorePlanner
from ltpipe.solving.plan import SolvePlanner, forward_passes
from ltpipe.solving.solver import is_solver, solver_named
from ltpipe.streaming.guard import judge
from ltpipe.streaming.model import why_alone
from ltpipe.streaming.shards import Spread
from ltpipe.workflow import grid, refinement
from ltpipe.workflow.config import Config
from ltpipe.workflow.configuration.recovery import sequences_of, settings_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

FORWARD, BACKWARD = 2, 8
"""Operations per parameter and token of a forward pass, and of a forward and backward pass."""


def plan_study(config: Config, peaks: bool = True) -> list[StagePlan]:
    """Plan every stage of a study.

    Args:
        config: checked, with all defaults.
        peaks: whether to find the peak on the device; False is faster, for jobs, disk and operations alone.

    Raises:
        UserError: a model's shapes are unknown, nothing in it is prunable, or there are no examples to train on.
    """
    gridded = sorted(config["models"]) if config["grid"] else []
    pretrained = {training["task"].get("pretrained") for training in config["imp"].values()} - {None, *gridded}
    return [
        *(stage for name in gridded for stage in _plan_model(_Model.of(config, name, peaks))),
        *(_checkpoint(_Model.of(config, name, peaks=False)) for name in sorted(pretrained)),
        *plan_trainings(config),
    ]


@dataclass(frozen=True)
class _Model:
    """A model of a study.

    Attributes:
        config, name: the study, and the model's name in it.
        shapes: the architecture.
        manifest: manifest that its checkpoint will have.
        prunable: its prunable tensors.
        kept: dtype of the checkpoint.
        base: private main memory of Python and the libraries, measured in this process, bytes.
        limit: largest size of tensors on the device, bytes.
        peaks: whether to find the peak on the device.
    """

    config: Config
    name: str
    shapes: "PretrainedConfig"
    manifest: Manifest
    prunable: tuple[str, ...]
    kept: torch.dtype
    base: int
    limit: float
    peaks: bool

    @classmethod
    def of(cls, config: Config, name: str, peaks: bool) -> "_Model":
        model, configured = config["models"][name], config["evaluate"]["device_memory"]
        source = Source(model["source"], f"models.{name}.source")
        shapes = architecture(source)
        kept = _kept_dtype(model["dtype"], shapes.dtype, source)
        _, manifest = foreseen(shapes, kept)
        if peaks:
            manifest = replace(manifest, walks=judged(shapes, judge, source.key))
        prunable = Selection(**model["prunable"]).names(manifest)
        limit = float("inf") if configured == "auto" else GIB * configured
        return cls(config, name, shapes, manifest, prunable, kept, private_host_bytes(), limit, peaks)

    @property
    def source(self) -> Source:
        """Where the model comes from."""
        return Source(self.config["models"][self.name]["source"], f"models.{self.name}.source")

    @property
    def tickets(self) -> list[grid.Ticket]:
        """Tickets of the model."""
        return grid.tickets(self.config, self.name)

    @property
    def mask_bytes(self) -> int:
        """Approximate size of one mask, bytes: one bit per weight."""
        return sum(ceil(self.manifest.tensors[tensor].size / 8) for tensor in self.prunable)

    @property
    def accelerator(self) -> bool:
        """Whether to plan for an accelerator."""
        return self.config["evaluate"]["device"] != "cpu"

    def kept_by_device(self, dtype: torch.dtype) -> int:
        """Return the largest size of weights that one of several devices keeps, bytes; 0 if weights are not spread."""
        evaluate = self.config["evaluate"]
        shards = evaluate["devices"] if evaluate["device"] == AUTO_SHARD else 0
        return max(Spread.of(self.manifest, dtype, shards).nbytes) if shards else 0

    @property
    def streamed(self) -> bool:
        """Whether weights are streamed."""
        return self.config["evaluate"]["execution"] == "streamed"

    def most_together(self, skeleton: "PreTrainedModel") -> int:
        """Return how many tickets may share a pass, whatever memory there is."""
        most = grid.tickets_per_pass(self.config)
        if most == 1:
            return 1
        outside = not all(map(self.manifest.in_blocks, self.prunable))
        spread = self.config["evaluate"]["device"] == AUTO_SHARD
        alone = not self.streamed or spread or outside or why_alone(skeleton, self.manifest)
        return 1 if alone else min(most, max(1, len(self.tickets)))

    @property
    def precision(self) -> torch.dtype:
        """Dtype to compute in."""
        wanted = self.config["evaluate"]["precision"]
        return self.kept if wanted == "auto" else getattr(torch, wanted)

    @property
    def micro_batch(self) -> int:
        """Sequences per micro-batch; 0 to find the number."""
        wanted = self.config["evaluate"]["micro_batch"]
        return 0 if wanted == "auto" else wanted

    def skeleton(self, dtype: torch.dtype) -> "PreTrainedModel":
        """Return the model without contents."""
        return foreseen(self.shapes, dtype)[0]

    def on_device(
        self, stage: str, data: str | None, jobs: int, disk: int, fitted: "_Fitted", work: int, kept: int = 0
    ) -> StagePlan:
        """Return the plan of a stage that computes on the device.

        `work` counts the operations of all jobs per parameter of the model, `kept` the bytes of results on the host.
        """
        operations = work * self.manifest.parameters
        host = self.base + (_in_transit(self.manifest) + kept if self.accelerator else fitted.device.total)
        return StagePlan(stage, self.name, data, jobs, host=host, disk=disk, operations=operations, **vars(fitted))


def _plan_model(model: _Model) -> Iterator[StagePlan]:
    texts = grid.evaluated_texts(model.config)
    yield _checkpoint(model)
    for text in texts:
        yield _sequences(model, "sequences", text, grid.evaluated_size(model.config, text))
    for text in grid.calibration_texts(model.config):
        yield _sequences(model, "calibration", text, grid.calibration_size(model.config, text))
    yield from _scores(model)
    yield from _masks(model)
    yield from _solutions(model)
    yield from _recoveries(model)
    evaluations = list(_evaluations(model, texts))
    yield from evaluations
    yield from _refinement(model, evaluations)


def _checkpoint(model: _Model) -> StagePlan:
    tensors = model.manifest.tensors
    made = sum(tensors[name].nbytes for name in _made_anew(model))
    disk = made if model.source.is_path else model.manifest.nbytes
    return StagePlan("checkpoint", model.name, None, 1, Peak(), model.base + made, disk)


def _made_anew(model: _Model) -> set[str]:
    """Return the tensors that are not in the source's files as they are stored: they take memory while it is loaded."""
    tensors = model.manifest.tensors
    if model.source.is_hub:
        return set(tensors) if model.shapes.dtype != model.kept else converted(model.skeleton(model.kept))
    if model.source.path.is_dir():
        return stored_anew(model.source.path, {name: (entry.dtype, entry.shape) for name, entry in tensors.items()})
    return set(tensors)


def _sequences(model: _Model, stage: str, text: str, size: tuple[int, int]) -> StagePlan:
    count, length = size
    return StagePlan(stage, model.name, text, 1, Peak(), model.base, 4 * count * length)


def _scores(model: _Model) -> Iterator[StagePlan]:
    disk = 4 * sum(model.manifest.tensors[tensor].size for tensor in model.prunable)
    for criterion in grid.scored_criteria(model.config):
        rule = scored_criterion(criterion)
        options = criterion_options(criterion, model.config["score"]["options"][name_of(criterion)], criterion)
        dtype = getattr(torch, rule.precision) if rule.precision else model.precision
        planner = ScorePlanner(
            model.skeleton(dtype), model.manifest, model.prunable, rule, dtype, model.accelerator, model.streamed,
            model.kept_by_device(dtype), options,
        )  # fmt: skip
        text = grid.calibration_text(model.config, criterion)
        shape = grid.calibration_size(model.config, text) if text else (1, 2)
        wanted = BatchSizes.generous(*shape, rule.batch or model.micro_batch)
        fitted = _fit(model, planner, wanted, shape[1], BatchSizes(shape[0], rule.batch or 1, 1))
        passes = rule.passes(options) * shape[0] * shape[1]
        work = passes * (FORWARD if issubclass(rule, ActivationCriterion) else BACKWARD)
        yield model.on_device(f"score {criterion}", None, 1, disk, fitted, work)
    names = model.config["score"]["hybrids"].keys()
    hybrids = [label for label in grid.criteria(model.config) if name_of(label) in names]
    if hybrids:
        largest = max(model.manifest.tensors[tensor].size for tensor in model.prunable)
        host = model.base + 3 * 8 * largest
        yield StagePlan("hybrid", model.name, None, len(hybrids), Peak(), host, disk * len(hybrids))


def _masks(model: _Model) -> Iterator[StagePlan]:
    own_bits = 15 if model.kept in (torch.bfloat16, torch.float16) else 31
    ranked = [
        replace(ticket, criterion=grid.allocating(ticket.criterion)) if is_solver(ticket.criterion) else ticket
        for ticket in dict.fromkeys(ticket.pruned for ticket in model.tickets)
        if not is_solver(ticket.criterion) or is_allocated(ticket.scope)
    ]
    if not ranked:
        return
    histograms = {ticket.named(grid.HISTOGRAM): ticket.criterion for ticket in ranked}
    masks = {ticket.named(grid.MASK) for ticket in ranked}
    bits = [own_bits if criterion == "magnitude" else 31 for criterion in histograms.values()]
    largest = max(model.manifest.tensors[tensor].size for tensor in model.prunable)
    packing = max(packing_bytes(max(bits), scope, largest) for scope in model.config["grid"]["scopes"])
    counted = sum(_histogram_bytes(width, len(model.prunable)) for width in bits)
    yield StagePlan(
        "histogram", model.name, None, len(histograms), Peak(), model.base + streaming_bytes(max(bits)), counted
    )
    disk = model.mask_bytes * len(masks)
    yield StagePlan("mask", model.name, None, len(masks), Peak(), model.base + packing, disk)


def _solutions(model: _Model) -> Iterator[StagePlan]:
    dtype = model.precision
    weights = sum(model.manifest.tensors[tensor].nbytes for tensor in model.prunable)
    for solver in grid.solvers(model.config):
        masks = {ticket.named(grid.MASK): ticket for ticket in model.tickets if ticket.criterion == solver}
        rule = solver_named(solver)
        options: Any = options_of(rule.options, model.config["score"]["options"][name_of(solver)], f"solver {solver}")
        planner = SolvePlanner(
            rule, options, model.prunable, model.skeleton(dtype), model.manifest, dtype, model.accelerator,
            model.streamed,
        )  # fmt: skip
        text = grid.calibration_text(model.config, solver)
        assert text is not None  # a solver needs one
        count, length = grid.calibration_size(model.config, text)
        wanted = BatchSizes.generous(count, length, model.micro_batch)
        fitted = _fit(model, planner, wanted, length, BatchSizes(count, 1, 1))
        kept = sum(weights * (1 - float(Sparsity.of(ticket.sparsity))) for ticket in masks.values())
        disk = model.mask_bytes * len(masks) + (ceil(kept) if rule.updates else 0)
        work = len(masks) * forward_passes(rule, options) * FORWARD * count * length
        plan = model.on_device(f"solve {solver}", None, len(masks), disk, fitted, work)
        yield replace(plan, host=plan.host + planner.host_bytes(fitted.sizes or wanted, length))


def _recoveries(model: _Model) -> Iterator[StagePlan]:
    """Plan the trainings of tickets, each with float32 copies of what is trained."""
    tensors, pruned = model.manifest.tensors, set(model.prunable)
    cut: defaultdict[str, list[int]] = defaultdict(list)
    for name, section in sorted(model.config["recover"].items()):
        cells = {
            ticket.named(grid.RECOVERED): ticket for ticket in model.tickets if recovery_of(ticket.criterion) == name
        }
        if not cells:
            continue
        count, length, compute = sequences_of(section), section["sequence_length"], section["compute"]
        cut[grid.recovery_text(model.config, name) or ""].append(4 * count * length)
        settings = RecoverySettings(**settings_of(section))
        on_cpu = compute["device"] == "cpu"
        step = None
        if model.peaks:
            step = planned_step(
                partial(model.skeleton, torch.float32), tensors, pruned, settings, length,
                compute["mixed_precision"], compute["processes"], not on_cpu,
            )  # fmt: skip
        changed = step.values if step else tuple(tensors)
        disk = sum(
            tensors[tensor].nbytes * (1 - float(Sparsity.of(ticket.sparsity)) if tensor in pruned else 1)
            for ticket in cells.values()
            for tensor in changed
        )
        device = step.peak if step else Peak()
        # A device leaves the host copies of what is written: the largest tensor, or all that a resume file has.
        saved = 3 * 4 * step.trained if step and settings.steps >= compute["save_every"] else 0
        host = model.base + (device.total if on_cpu else max(saved, max(entry.nbytes for entry in tensors.values())))
        yield StagePlan(
            f"recover {name}", model.name, None, len(cells), device, host, ceil(disk),
            operations=len(cells) * settings.steps * (step.operations if step else 0),
        )  # fmt: skip

    for text, sizes in cut.items():
        yield StagePlan("recovery sequences", model.name, text, len(sizes), Peak(), model.base, sum(sizes))


def _refinement(model: _Model, evaluations: Sequence[StagePlan]) -> Iterator[StagePlan]:
    """Plan the largest possible numbers of rounds, masks and tickets of a refinement, each as large as the grid's."""
    rounds, tickets = refinement.rounds(model.config), refinement.tickets_at_most(model.config, model.name)
    if rounds:
        operations = tickets * max(stage.operations // stage.jobs for stage in evaluations)
        for stage, jobs, disk, work in (
            ("refinement", rounds, 0, 0),
            ("refined masks, at most", tickets, tickets * model.mask_bytes, 0),
            ("refined tickets, at most", tickets, 0, operations),
        ):
            yield StagePlan(stage, model.name, None, jobs, Peak(), model.base, disk, operations=work)


def _evaluations(model: _Model, texts: Sequence[str]) -> Iterator[StagePlan]:
    sizes = {text: grid.evaluated_size(model.config, text) for text in texts}
    for size in dict.fromkeys(sizes.values()):
        yield from _evaluations_of_size(model, [text for text in texts if sizes[text] == size], *size)


def _evaluations_of_size(model: _Model, texts: Sequence[str], count: int, length: int) -> Iterator[StagePlan]:
    """Plan the evaluations on texts with this number and length of sequences."""
    dtype, skeleton = model.precision, model.skeleton(model.precision)
    predictions = count * (length - 1)
    kept_tokens = min(model.config["evaluate"]["top_k"], skeleton.config.get_text_config().vocab_size)
    observe = partial(Recorder, predictions, kept_tokens) if kept_tokens else None
    top = top_bytes(predictions, kept_tokens)
    wanted = BatchSizes.generous(count, length, model.micro_batch)
    seeds = Counter(axes["perturbation"] for axes in grid.perturbations(model.config))
    for perturbation, repeated in [(None, 1), *seeds.items()]:
        change = perturbation_named(perturbation, 0) if perturbation else None
        planner = partial(
            EvaluationPlanner, skeleton, model.manifest, model.prunable, dtype, model.accelerator, model.streamed,
            observe, change, model.prunable, model.kept_by_device(dtype),
        )  # fmt: skip
        fitted = _fit(model, planner(), wanted, length, BatchSizes(1, 1, 1))
        if perturbation is None and fitted.sizes and not fitted.unforeseen:
            most = model.most_together(skeleton)
            _, peak = fit_together(planner, most, fitted.sizes, length, model.limit)
            fitted = replace(fitted, device=peak or fitted.device)
        stage = f"evaluation, {perturbation}" if perturbation else "evaluation"
        for text in texts:
            jobs = repeated * (1 + sum(ticket.data == text for ticket in model.tickets))
            work = FORWARD * jobs * count * length
            yield model.on_device(stage, text, jobs, 0 if perturbation else top, fitted, work, top)


@dataclass(frozen=True)
class _Fitted:
    """Batch sizes that fit and their peak; otherwise the problem and, if known, the peak of the smallest sizes.

    If the peak cannot be planned, `unforeseen` is the reason.
    """

    sizes: BatchSizes | None
    device: Peak
    problem: str = ""
    unforeseen: str = ""


def _fit(model: _Model, planner: EvaluationPlanner, wanted: BatchSizes, length: int, least: BatchSizes) -> _Fitted:
    if not model.peaks:
        return _Fitted(None, Peak())
    try:
        planner.check_length(length)
    except UserError as error:
        return _Fitted(None, Peak(), str(error))
    try:
        return _Fitted(*planner.fit(wanted, length, model.limit), unforeseen=planner.unforeseen)
    except UserError as error:
        return _Fitted(None, planner.peak(least, length), str(error))


def _kept_dtype(wanted: str, stored: torch.dtype | None, source: Source) -> torch.dtype:
    """Return the dtype in which the checkpoint stage stores a model."""
    if wanted != "auto":
        return getattr(torch, wanted)
    quantised = not source.is_hub and source.path.is_file()
    return torch.float32 if quantised or stored is None else stored


def _in_transit(manifest: Manifest) -> int:
    """Return the bytes of pinned copies for an accelerator: two blocks, or the largest tensor outside them."""
    blocks: dict[str, int] = {}
    outside = [0]
    for name, entry in manifest.tensors.items():
        if manifest.in_blocks(name):
            block = name.removeprefix(manifest.blocks + ".").partition(".")[0]
            blocks[block] = blocks.get(block, 0) + entry.nbytes
        else:
            outside.append(entry.nbytes)
    return max(2 * max(blocks.values()), max(outside))


def _histogram_bytes(bits: int, tensors: int) -> int:
    """Return the largest size of a histogram: every bin occupied, 2 bytes for the bin and 8 for its count."""
    return tensors * 10 * 2 ** min(bits, 16)
