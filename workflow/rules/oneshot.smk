# Count a criterion's scores over all prunable weights: one pass for all sparsities and scopes.
rule histogram:
    input:
        weights=rules.checkpoint.output.weights,
        manifest=rules.checkpoint.output.manifest,
        scores=jobs.scores,
    output:
        grid.HISTOGRAM,
    log:
        "results/logs/histogram/{model}/{criterion}/seed-{seed}.log",
    priority: jobs.masks_first
    threads: jobs.threads
    resources:
        **jobs.needs("histogram"),
        compute_threads=jobs.compute_threads,
    params:
        settings=jobs.settings("histogram"),
        folder=subpath(input.weights, parent=True),
        seed=seed_option,
        scores=given("scores"),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/histogram.py" --checkpoint {params.folder} --criterion {wildcards.criterion} {params.seed}'
        " {params.scores} {params.settings[options]} --threads {resources.compute_threads} --output {output}"


# Make the mask of one sparsity.
rule mask:
    input:
        weights=rules.checkpoint.output.weights,
        manifest=rules.checkpoint.output.manifest,
        config=rules.checkpoint.output.config,
        histogram=rules.histogram.output,
        scores=jobs.scores,
    output:
        grid.MASK,
    log:
        "results/logs/mask/{model}/{criterion}/{scope}/seed-{seed}/{sparsity}.log",
    priority: jobs.masks_first
    threads: jobs.threads
    resources:
        **jobs.needs("mask"),
        compute_threads=jobs.compute_threads,
    params:
        settings=jobs.settings("mask"),
        folder=subpath(input.weights, parent=True),
        scores=given("scores"),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/mask.py" --checkpoint {params.folder} --histogram {input.histogram} {params.scores}'
        " --scope {wildcards.scope} --sparsity {wildcards.sparsity} {params.settings[options]}"
        " --threads {resources.compute_threads} --output {output}"


# Make the mask of one sparsity by a solver, and find the values of the weights that it keeps.
rule solve:
    input:
        **DENSE,
        sequences=jobs.calibration,
        allocation=jobs.allocation,
    output:
        mask=grid.MASK,
        solution=grid.SOLUTION,
    log:
        "results/logs/solve/{model}/{criterion}/{scope}/seed-{seed}/{sparsity}.log",
    wildcard_constraints:
        criterion=f"({any_of(solver_names())}){SETTINGS}",
    priority: jobs.masks_first
    threads: jobs.threads
    resources:
        **jobs.needs("solve"),
    params:
        settings=jobs.settings("solve"),
        folder=subpath(input.weights, parent=True),
        sequences=given("sequences"),
        allocation=given("allocation"),
    shell:
        ENVIRONMENT
        + WITH_DEVICES
        + FORKED
        + '"$LTPIPE/scripts/solve.py" --checkpoint {params.folder} --solver {wildcards.criterion} {params.sequences}'
        " {params.allocation} --scope {wildcards.scope} --sparsity {wildcards.sparsity} "
        + COMPUTING
        + " --mask {output.mask} --solution {output.solution}"


ruleorder: solve > mask


# Evaluate the dense model.
rule baseline:
    input:
        **DENSE,
        sequences=rules.sequences.output,
    output:
        **jobs.baseline,
    log:
        "results/logs/baseline/{model}/{data}.log",
    cache: True
    threads: jobs.threads
    resources:
        **jobs.needs("baseline"),
    params:
        settings=jobs.settings("baseline"),
        folder=subpath(input.weights, parent=True),
        given=evaluation_options,
    shell:
        EVALUATION


# Evaluate one ticket: the masked model, compared with the dense model.
rule ticket:
    input:
        **DENSE,
        **jobs.top_tokens,
        sequences=rules.sequences.output,
        mask=jobs.mask,
        solution=jobs.solution,
        baseline=rules.baseline.output.metrics,
    output:
        metrics=grid.TICKET,
    log:
        "results/logs/ticket/{model}/{data}/{criterion}/{scope}/seed-{seed}/{sparsity}.log",
    wildcard_constraints:
        criterion=f"[a-z0-9-]+{SETTINGS}({RECOVERY})?",
    threads: jobs.threads
    resources:
        **jobs.needs("ticket"),
    params:
        settings=jobs.settings("ticket"),
        folder=subpath(input.weights, parent=True),
        given=evaluation_options,
        together=jobs.together,
    shell:
        EVALUATION + TOGETHER
