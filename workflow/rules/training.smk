# Iterative magnitude pruning: train, prune a fraction of what remains, rewind, train again; with controls.


# Read and split the examples of a study.
rule task:
    input:
        script="scripts/prepare_task.py",
        files=task_files,
        checkpoint=task_checkpoint,
    output:
        grid.TASK,
    log:
        "results/logs/imp/{study}/task.log",
    resources:
        mem_mb=memory,
        runtime=runtime,
    params:
        settings=settings("task", "scripts/prepare_task.py", preparing_modules),
        checkpoint=lambda wildcards, input: (
            f"--checkpoint {Path(input.checkpoint[0]).parent}" if input.checkpoint else ""
        ),
    shell:
        TOLD
        + "python {input.script} {params.settings[options]} {params.checkpoint} --study {wildcards.study}"
        " --output {output}"


# Train a replicate from its initial weights to the step that levels are rewound to.
rule rewind_point:
    input:
        script="scripts/rewind_point.py",
        task=grid.TASK,
        trainer=trainer_file,
    output:
        grid.POINT,
    log:
        "results/logs/imp/{study}/replicate-{replicate}/point.log",
    threads: training_threads
    resources:
        mem_mb=memory,
        runtime=runtime,
        gpu=training_gpus,
        save_every=save_every,
    params:
        settings=settings("rewind_point", "scripts/rewind_point.py", task_modules),
        launch=launch,
    shell:
        TOLD
        + WITH_DEVICES
        + "{params.launch} {input.script} --task {input.task} --seed {wildcards.replicate}"
        " {params.settings[options]} --save-every {resources.save_every} --output {output}"


# Prune a fraction of the weights that the level before has left.
rule level_mask:
    input:
        script="scripts/prune_level.py",
        task=grid.TASK,
        ranked=ranked_state,
        mask=ranked_mask,
    output:
        grid.LEVEL_MASK,
    log:
        "results/logs/imp/{study}/replicate-{replicate}/level-{level}/mask.log",
    threads: training_threads
    resources:
        mem_mb=memory,
        runtime=runtime,
    params:
        settings=settings("level_mask", "scripts/prune_level.py", pruning_modules),
        mask=lambda wildcards, input: f"--mask {input.mask}" if input.mask else "",
    shell:
        TOLD
        + "python {input.script} --task {input.task} --ranked {input.ranked} {params.mask} --replicate {wildcards.replicate}"
        " {params.settings[options]} --output {output}"


# Train a branch of a level to the end: the ticket, a control, or a ticket with another data order.
rule training:
    input:
        script="scripts/train_branch.py",
        task=grid.TASK,
        point=grid.POINT,
        mask=branch_mask,
        trained=branch_trained,
        teacher=branch_teacher,
        trainer=trainer_file,
    output:
        state=grid.TRAINED,
        record=grid.RECORD,
    log:
        "results/logs/imp/{study}/replicate-{replicate}/level-{level}/{branch}.log",
    threads: training_threads
    resources:
        mem_mb=memory,
        runtime=runtime,
        gpu=training_gpus,
        save_every=save_every,
    params:
        settings=settings("training", "scripts/train_branch.py", task_modules),
        launch=launch,
        given=lambda wildcards, input: as_options(
            {name: input.get(name) or None for name in ("mask", "trained", "teacher")}
        ),
    shell:
        TOLD
        + WITH_DEVICES
        + "{params.launch} {input.script} --task {input.task} --point {input.point} {params.given}"
        " --study {wildcards.study} --replicate {wildcards.replicate} --level {wildcards.level}"
        " --branch {wildcards.branch} --seed {wildcards.replicate} {params.settings[options]}"
        " --save-every {resources.save_every} --output {output.state} --record {output.record}"


# Follow the error along the line from a ticket to one that saw the data in another order.
rule connectivity:
    input:
        script="scripts/connect.py",
        task=grid.TASK,
        ticket=lambda wildcards: grid.TRAINED.format(**wildcards, branch="ticket"),
        other=lambda wildcards: grid.TRAINED.format(**wildcards, branch=f"order-{wildcards.order}"),
    output:
        grid.CONNECTIVITY,
    log:
        "results/logs/imp/{study}/replicate-{replicate}/level-{level}/connectivity-{order}.log",
    threads: training_threads
    resources:
        mem_mb=memory,
        runtime=runtime,
        gpu=training_gpus,
    params:
        settings=settings("connectivity", "scripts/connect.py", task_modules),
    shell:
        TOLD
        + WITH_DEVICES
        + "python {input.script} --task {input.task} --first {input.ticket} --second {input.other}"
        " --study {wildcards.study} --replicate {wildcards.replicate} --level {wildcards.level}"
        " --branches ticket order-{wildcards.order} {params.settings[options]} --output {output}"


# Train a dense model until the masks that would be drawn from it have stopped changing.
rule early_bird:
    input:
        script="scripts/watch_early_bird.py",
        task=grid.TASK,
    output:
        found=f"{grid.EARLY_BIRD}.json",
        ticket=f"{grid.EARLY_BIRD}.safetensors",
    log:
        "results/logs/imp/{study}/replicate-{replicate}/early-bird/{sparsity}.log",
    threads: training_threads
    resources:
        mem_mb=memory,
        runtime=runtime,
        gpu=training_gpus,
    params:
        settings=settings("early_bird", "scripts/watch_early_bird.py", task_modules),
    shell:
        TOLD
        + WITH_DEVICES
        + "python {input.script} --task {input.task} --study {wildcards.study} --seed {wildcards.replicate}"
        " --sparsity {wildcards.sparsity} {params.settings[options]} --output {output.found} --ticket {output.ticket}"
