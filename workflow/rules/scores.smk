# Cut the calibration text into token sequences.
use rule sequences as calibration with:
    output:
        grid.CALIBRATION,
    log:
        "results/logs/calibration/{model}/{data}.log",
    params:
        settings=settings("calibration", "scripts/prepare_data.py", places),


# Score every prunable weight by one criterion: one pass for every sparsity and scope.
rule score:
    input:
        script="scripts/score_weights.py",
        weights=rules.checkpoint.output.weights,
        manifest=rules.checkpoint.output.manifest,
        config=rules.checkpoint.output.config,
        tokenizer=rules.checkpoint.output.tokenizer,
        sequences=lambda wildcards: (
            grid.CALIBRATION.format(model=wildcards.model, data=config["score"]["data"])
            if scored_criterion(wildcards.criterion).needs_data
            else []
        ),
    output:
        grid.SCORES,
    log:
        "results/logs/score/{model}/{criterion}.log",
    wildcard_constraints:
        criterion=any_of(criterion_names()),
    threads: job_threads
    resources:
        mem_mb=memory,
        runtime=runtime,
        compute_threads=compute_threads,
        gpu=gpus(),
        device_memory=device_memory(),
    params:
        settings=settings("score", "scripts/score_weights.py", criterion_files),
        folder=subpath(input.weights, parent=True),
        sequences=lambda wildcards, input: (
            f"--sequences {input.sequences}" if input.sequences else ""
        ),
    shell:
        TOLD
        + WITH_DEVICES
        + "python {input.script} --checkpoint {params.folder} --criterion {wildcards.criterion} {params.sequences}"
        " {params.settings[options]} --device-memory {resources.device_memory} --threads {resources.compute_threads}"
        " --output {output}"


# Add up the scores of several criteria.
rule hybrid:
    input:
        script="scripts/combine_scores.py",
        weights=rules.checkpoint.output.weights,
        manifest=rules.checkpoint.output.manifest,
        scores=lambda wildcards: [
            grid.SCORES.format(model=wildcards.model, criterion=part)
            for part in config["score"]["hybrids"][wildcards.criterion]
            if grid.has_scores(config, part)
        ],
    output:
        grid.SCORES,
    log:
        "results/logs/score/{model}/{criterion}.log",
    wildcard_constraints:
        criterion=any_of(config["score"]["hybrids"]),
    resources:
        mem_mb=memory,
        runtime=runtime,
    params:
        settings=settings("hybrid", "scripts/combine_scores.py"),
        folder=subpath(input.weights, parent=True),
        scores=lambda wildcards, input: [
            (
                grid.SCORES.format(model=wildcards.model, criterion=part)
                if grid.has_scores(config, part)
                else part
            )
            for part in config["score"]["hybrids"][wildcards.criterion]
        ],
    shell:
        TOLD
        + "python {input.script} --checkpoint {params.folder} --name {wildcards.criterion} --scores {params.scores}"
        " {params.settings[options]} --output {output}"
