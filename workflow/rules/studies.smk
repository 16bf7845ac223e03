"""What the rules of training share. No rules."""

from ltpipe.data import documents, images
from ltpipe.workflow.closure import module_closure


def study_of(wildcards) -> dict:
    return config["imp"][wildcards.study]


def task_file(wildcards) -> Path:
    """The module of a study's task."""
    name = study_of(wildcards)["task"]["kind"].replace("-", "_")
    return Path("src/ltpipe/training/tasks", name).with_suffix(".py")


def task_source(wildcards) -> Source | None:
    """Where the examples come from, for tasks that say so."""
    task = study_of(wildcards)["task"]
    return Source(task["source"]) if "source" in task else None


def task_files(wildcards) -> list[str]:
    source = task_source(wildcards)
    return files_of(source, *images.SUFFIXES, *documents.SUFFIXES) if source else []


def task_identity(wildcards) -> str | None:
    source = task_source(wildcards)
    return source and source.identity


def task_checkpoint(wildcards) -> list[str]:
    """The files of the checkpoint that training begins with, for tasks that begin with one."""
    model = study_of(wildcards)["task"].get("pretrained")
    if model is None:
        return []
    return [str(output).format(model=model) for output in rules.checkpoint.output]


def task_options(wildcards) -> str:
    """The options of a task as JSON."""
    task = study_of(wildcards)["task"]
    return json.dumps({key: task[key] for key in task if key not in ("kind", "pretrained")})


def save_every(wildcards) -> int:
    """A resource, since it changes no result."""
    return study_of(wildcards)["compute"]["save_every"]


def computing(wildcards) -> str:
    """What decides how a training computes, without what changes no result."""
    compute = study_of(wildcards)["compute"]
    return options({key: compute[key] for key in ("device", "mixed_precision", "threads")})


def training_threads(wildcards) -> int:
    compute = study_of(wildcards)["compute"]
    return compute["threads"] * compute["processes"]


def training_gpus(wildcards) -> int:
    compute = study_of(wildcards)["compute"]
    return 0 if compute["device"] == "cpu" else compute["processes"]


def launch(wildcards) -> str:
    """The command that runs a training's script; several processes share every batch."""
    processes = study_of(wildcards)["compute"]["processes"]
    several = f" -m torch.distributed.run --standalone --nproc-per-node {processes}"
    return "python" + (several if processes > 1 else "")


def train(wildcards) -> str:
    return options(study_of(wildcards)["train"])


def train_alone(wildcards) -> str:
    """How a study trains, but for a loop of the user's."""
    settings = study_of(wildcards)["train"]
    return options({key: value for key, value in settings.items() if key != "trainer_fn"})


def branch_options(wildcards) -> str:
    """The options of a branch that has some."""
    return options(study_of(wildcards)["branches"].get(wildcards.branch) or {})


def detector(wildcards) -> str:
    settings = study_of(wildcards)["early_bird"]
    return options({key: value for key, value in settings.items() if key != "sparsities"})


def trainer_file(wildcards) -> list[str]:
    """The files of a user's training loop, if they lie in the working folder."""
    name = (study_of(wildcards)["train"]["trainer_fn"] or "").partition(":")[0]
    return [str(path) for path in module_closure(name)] if name else []


def level_criterion_file(wildcards) -> list[Path]:
    criterion = study_of(wildcards)["prune"]["criterion"]
    return [criterion_file(criterion)] if criterion in criterion_names() else []


def ticket_at(wildcards, level: int) -> str:
    return grid.TRAINED.format(
        study=wildcards.study, replicate=wildcards.replicate, level=level, branch="ticket"
    )


def ticket_before(wildcards) -> str:
    return ticket_at(wildcards, int(wildcards.level) - 1)


def branch_mask(wildcards) -> list[str]:
    """The mask of a level, or that of the study that it is transplanted from; level 0 has none."""
    if wildcards.level == "0":
        return []
    name = wildcards.branch.removeprefix("transplanted-")
    if name == wildcards.branch:
        return [grid.LEVEL_MASK]
    replicate = studies.donor(config, wildcards.study, wildcards.replicate, name)
    return [grid.LEVEL_MASK.format(study=name, replicate=replicate, level=wildcards.level)]


def rewind_mode(wildcards) -> str:
    """What goes back to the rewinding step; some branches start from it whatever the study does."""
    own_start = wildcards.branch.startswith(("reinitialised-", "gradual"))
    return (
        "weights" if own_start or wildcards.level == "0" else study_of(wildcards)["rewind"]["mode"]
    )


def branch_trained(wildcards) -> list[str]:
    """The ticket of the level before, where its weights are kept."""
    return [] if rewind_mode(wildcards) == "weights" else [ticket_before(wildcards)]


def branch_teacher(wildcards) -> list[str]:
    return [ticket_at(wildcards, 0)] if wildcards.branch == "distilled" else []
