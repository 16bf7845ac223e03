# Iterative magnitude pruning: train, prune a fraction of the remaining weights, rewind, train again; with controls.


# Read and split the examples of a training.
rule task:
    input:
        files=jobs.task_files,
        checkpoint=lambda wildcards: [
            str(file).format(model=model)
            for model in jobs.pretrained(wildcards)
            for file in rules.checkpoint.output
        ],
    output:
        grid.TASK,
    log:
        "results/logs/imp/{training}/task.log",
    resources:
        **jobs.needs("task"),
    params:
        settings=jobs.settings("task"),
        checkpoint=lambda wildcards, input: (
            f"--checkpoint {Path(input.checkpoint[0]).parent}" if input.checkpoint else ""
        ),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/task.py" {params.settings[options]} {params.checkpoint} --training {wildcards.training}'
        " --output {output}"


# Train a replicate from its initial weights to the step that levels are rewound to.
rule rewind_point:
    input:
        task=grid.TASK,
        trainer=jobs.trainer_files,
    output:
        grid.POINT,
    log:
        "results/logs/imp/{training}/replicate-{replicate}/point.log",
    threads: jobs.training_threads
    resources:
        **jobs.needs("rewind_point"),
        save_every=jobs.save_every,
    params:
        settings=jobs.settings("rewind_point"),
        launch=jobs.launch,
    shell:
        ENVIRONMENT
        + WITH_DEVICES
        + '{params.launch} "$LTPIPE/scripts/rewind_point.py" --task {input.task} --seed {wildcards.replicate}'
        " {params.settings[options]} --save-every {resources.save_every} --output {output}"


# Prune a fraction of the weights that the previous level kept.
rule level_mask:
    input:
        task=grid.TASK,
        ranked=jobs.ranked_state,
        mask=jobs.ranked_mask,
    output:
        grid.LEVEL_MASK,
    log:
        "results/logs/imp/{training}/replicate-{replicate}/level-{level}/mask.log",
    threads: jobs.training_threads
    resources:
        **jobs.needs("level_mask"),
    params:
        settings=jobs.settings("level_mask"),
        mask=given("mask"),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/level_mask.py" --task {input.task} --ranked {input.ranked} {params.mask} --replicate {wildcards.replicate}'
        " {params.settings[options]} --output {output}"


# Train a branch of a level to the end: the ticket, a control, or a ticket with another data order.
rule training:
    input:
        task=grid.TASK,
        point=grid.POINT,
        mask=jobs.branch_mask,
        trained=jobs.branch_trained,
        teacher=jobs.branch_teacher,
        trainer=jobs.trainer_files,
    output:
        state=grid.TRAINED,
        record=grid.RECORD,
    log:
        "results/logs/imp/{training}/replicate-{replicate}/level-{level}/{branch}.log",
    threads: jobs.training_threads
    resources:
        **jobs.needs("training"),
        save_every=jobs.save_every,
    params:
        settings=jobs.settings("training"),
        launch=jobs.launch,
        given=given("mask", "trained", "teacher"),
    shell:
        ENVIRONMENT
        + WITH_DEVICES
        + '{params.launch} "$LTPIPE/scripts/training.py" --task {input.task} --point {input.point} {params.given}'
        " --training {wildcards.training} --replicate {wildcards.replicate} --level {wildcards.level}"
        " --branch {wildcards.branch} --seed {wildcards.replicate} {params.settings[options]}"
        " --save-every {resources.save_every} --output {output.state} --record {output.record}"


# Measure the test error along the line from a ticket to one that saw the data in another order.
rule connectivity:
    input:
        task=grid.TASK,
        ticket=lambda wildcards: grid.TRAINED.format(**wildcards, branch="ticket"),
        other=lambda wildcards: grid.TRAINED.format(**wildcards, branch=f"order-{wildcards.order}"),
    output:
        grid.CONNECTIVITY,
    log:
        "results/logs/imp/{training}/replicate-{replicate}/level-{level}/connectivity-{order}.log",
    threads: jobs.training_threads
    resources:
        **jobs.needs("connectivity"),
    params:
        settings=jobs.settings("connectivity"),
    shell:
        ENVIRONMENT
        + WITH_DEVICES
        + FORKED
        + '"$LTPIPE/scripts/connectivity.py" --task {input.task} --first {input.ticket} --second {input.other}'
        " --training {wildcards.training} --replicate {wildcards.replicate} --level {wildcards.level}"
        " --branches ticket order-{wildcards.order} {params.settings[options]} --output {output}"


# Train a dense model until masks drawn from it stop changing.
rule early_bird:
    input:
        task=grid.TASK,
    output:
        found=f"{grid.EARLY_BIRD}.json",
        ticket=f"{grid.EARLY_BIRD}.safetensors",
    log:
        "results/logs/imp/{training}/replicate-{replicate}/early-bird/{sparsity}.log",
    threads: jobs.training_threads
    resources:
        **jobs.needs("early_bird"),
    params:
        settings=jobs.settings("early_bird"),
    shell:
        ENVIRONMENT
        + WITH_DEVICES
        + FORKED
        + '"$LTPIPE/scripts/early_bird.py" --task {input.task} --training {wildcards.training} --seed {wildcards.replicate}'
        " --sparsity {wildcards.sparsity} {params.settings[options]} --output {output.found} --ticket {output.ticket}"
