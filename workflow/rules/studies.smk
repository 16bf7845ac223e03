"""What the rules of training share. No rules."""

from ltpipe.data import images
from ltpipe.workflow.arguments import as_options
from ltpipe.workflow.closure import module_closure


def study_of(wildcards) -> dict:
    return config["imp"][wildcards.study]


def task_modules(wildcards) -> list[Path]:
    """The module of a study's task."""
    name = study_of(wildcards)["task"]["kind"].replace("-", "_")
    return [Path("src/ltpipe/training/tasks", name).with_suffix(".py")]


def preparing_modules(wildcards) -> list[Path]:
    return [*task_modules(wildcards), *PLACES]


def pruning_modules(wildcards) -> list[Path]:
    """Those of a study's task and of the criterion that it prunes by."""
    criterion = study_of(wildcards)["prune"]["criterion"]
    own = [criterion_file(criterion)] if criterion in criterion_names() else []
    return [*task_modules(wildcards), *own]


def task_source(wildcards) -> Source | None:
    """Where the examples come from, for tasks that say so."""
    task = study_of(wildcards)["task"]
    return Source(task["source"]) if "source" in task else None


def task_files(wildcards) -> list[str]:
    source = task_source(wildcards)
    return files_of(source, *images.SUFFIXES, *LAST_SUFFIXES) if source else []


def task_checkpoint(wildcards) -> list[str]:
    """The files of the checkpoint that training begins with, for tasks that begin with one."""
    model = study_of(wildcards)["task"].get("pretrained")
    if model is None:
        return []
    return [str(output).format(model=model) for output in rules.checkpoint.output]


def save_every(wildcards) -> int:
    """A resource, since it changes no result."""
    return study_of(wildcards)["compute"]["save_every"]


def training_threads(wildcards) -> int:
    compute = study_of(wildcards)["compute"]
    return compute["threads"] * compute["processes"]


def training_gpus(wildcards) -> int:
    compute = study_of(wildcards)["compute"]
    return 0 if compute["device"] == "cpu" else compute["processes"]


def launch(wildcards, input) -> str:
    """A param: the command that runs a training's script; several processes share every batch."""
    processes = study_of(wildcards)["compute"]["processes"]
    several = f" -m torch.distributed.run --standalone --nproc-per-node {processes}"
    return "python" + (several if processes > 1 else "")


def trainer_file(wildcards) -> list[str]:
    """The files of a user's training loop, if they lie in the working folder."""
    name = (study_of(wildcards)["train"]["trainer_fn"] or "").partition(":")[0]
    return [str(path) for path in module_closure(name)] if name else []


def ticket_at(wildcards, level: int) -> str:
    return grid.TRAINED.format(
        study=wildcards.study, replicate=wildcards.replicate, level=level, branch="ticket"
    )


def ticket_before(wildcards) -> str:
    return ticket_at(wildcards, int(wildcards.level) - 1)


def ranked_state(wildcards) -> str:
    """What a level ranks: the trained weights of the level before, or those that training starts from."""
    if prunes_trained(config, wildcards):
        return ticket_before(wildcards)
    return grid.POINT.format(study=wildcards.study, replicate=wildcards.replicate)


def ranked_mask(wildcards) -> list[str]:
    """The mask of the level before, where the state that is ranked has none."""
    level = int(wildcards.level) - 1
    if level == 0 or prunes_trained(config, wildcards):
        return []
    return [
        grid.LEVEL_MASK.format(study=wildcards.study, replicate=wildcards.replicate, level=level)
    ]


def branch_mask(wildcards) -> list[str]:
    """The mask of a level, or that of the study that it is transplanted from; level 0 has none."""
    mask = level_mask_of(config, wildcards)
    return [grid.LEVEL_MASK.format(**mask)] if mask else []


def branch_trained(wildcards) -> list[str]:
    """The ticket of the level before, where its weights are kept."""
    return [] if rewinds_weights(config, wildcards) else [ticket_before(wildcards)]


def branch_teacher(wildcards) -> list[str]:
    return [ticket_at(wildcards, 0)] if wildcards.branch == "distilled" else []
