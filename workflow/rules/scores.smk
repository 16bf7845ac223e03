# Cut the calibration text into token sequences.
use rule sequences as calibration with:
    output:
        grid.CALIBRATION,
    log:
        "results/logs/calibration/{model}/{data}.log",
    params:
        code=code("scripts/prepare_data.py", *PLACES),
        source=lookup("data/{data}/source", within=config),
        identity=lambda wildcards: text_source(wildcards).identity,
        files=lookup("data/{data}/files", within=config),
        field=lookup("data/{data}/field", within=config),
        documents=lookup("data/{data}/documents", within=config),
        separator=lookup("data/{data}/separator", within=config),
        protocol=lookup("data/{data}/protocol", within=config),
        sequence_length=lookup("score/sequence_length", within=config),
        num_sequences=lookup("score/num_sequences", within=config),


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
        **evaluation_settings(),
        code=lambda wildcards: code("scripts/score_weights.py", criterion_file(wildcards.criterion)),
        folder=subpath(input.weights, parent=True),
        sequences=lambda wildcards, input: (
            f"--sequences {input.sequences}" if input.sequences else ""
        ),
        preset=lookup("models/{model}/prunable/preset", within=config),
        include=lookup("models/{model}/prunable/include", within=config),
        exclude=lookup("models/{model}/prunable/exclude", within=config),
        iterations=lambda wildcards: (
            config["score"]["iterations"] if scored_criterion(wildcards.criterion).iterative else 1
        ),
    shell:
        "LTPIPE_LOG={log:q} "
        + WITH_DEVICES
        + "python {input.script} --checkpoint {params.folder} --criterion {wildcards.criterion}"
        " {params.sequences} --preset {params.preset} --include {params.include:q} --exclude {params.exclude:q}"
        " --iterations {params.iterations} --precision {params.precision} --micro-batch {params.micro_batch}"
        " --execution {params.execution} --device {params.device:q} --device-memory {resources.device_memory}"
        " --threads {resources.compute_threads} --output {output}"


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
        code=code("scripts/combine_scores.py"),
        folder=subpath(input.weights, parent=True),
        scores=lambda wildcards: [
            (
                grid.SCORES.format(model=wildcards.model, criterion=part)
                if grid.has_scores(config, part)
                else part
            )
            for part in config["score"]["hybrids"][wildcards.criterion]
        ],
        weights=lambda wildcards: list(config["score"]["hybrids"][wildcards.criterion].values()),
        preset=lookup("models/{model}/prunable/preset", within=config),
        include=lookup("models/{model}/prunable/include", within=config),
        exclude=lookup("models/{model}/prunable/exclude", within=config),
    shell:
        "LTPIPE_LOG={log:q} python {input.script} --checkpoint {params.folder} --name {wildcards.criterion}"
        " --scores {params.scores} --weights {params.weights} --preset {params.preset}"
        " --include {params.include:q} --exclude {params.exclude:q} --output {output}"
