# Count a criterion's scores over all prunable weights: one pass for every sparsity and scope.
rule histogram:
    input:
        script="scripts/count_keys.py",
        weights=rules.checkpoint.output.weights,
        manifest=rules.checkpoint.output.manifest,
        scores=score_file,
    output:
        grid.HISTOGRAM,
    log:
        "results/logs/histogram/{model}/{criterion}/seed-{seed}.log",
    threads: job_threads
    resources:
        mem_mb=memory,
        runtime=runtime,
        compute_threads=compute_threads,
    params:
        code=code("scripts/count_keys.py"),
        folder=subpath(input.weights, parent=True),
        seed=lambda wildcards: None if wildcards.seed == grid.NO_SEED else wildcards.seed,
        scores=lambda wildcards, input: f"--scores {input.scores}" if input.scores else "",
        preset=lookup("models/{model}/prunable/preset", within=config),
        include=lookup("models/{model}/prunable/include", within=config),
        exclude=lookup("models/{model}/prunable/exclude", within=config),
    shell:
        "LTPIPE_LOG={log:q} python {input.script} --checkpoint {params.folder} --criterion {wildcards.criterion}"
        " --seed {params.seed} {params.scores} --preset {params.preset} --include {params.include:q} --exclude {params.exclude:q}"
        " --threads {resources.compute_threads} --output {output}"


# Make the mask of one sparsity.
rule mask:
    input:
        script="scripts/make_mask.py",
        weights=rules.checkpoint.output.weights,
        manifest=rules.checkpoint.output.manifest,
        config=rules.checkpoint.output.config,
        histogram=rules.histogram.output,
        scores=score_file,
    output:
        grid.MASK,
    log:
        "results/logs/mask/{model}/{criterion}/{scope}/seed-{seed}/{sparsity}.log",
    threads: job_threads
    resources:
        mem_mb=memory,
        runtime=runtime,
        compute_threads=compute_threads,
    params:
        code=lambda wildcards: code("scripts/make_mask.py", *allocation_file(wildcards.scope)),
        folder=subpath(input.weights, parent=True),
        scores=lambda wildcards, input: f"--scores {input.scores}" if input.scores else "",
    shell:
        "LTPIPE_LOG={log:q} python {input.script} --checkpoint {params.folder} --histogram {input.histogram}"
        " {params.scores} --scope {wildcards.scope} --sparsity {wildcards.sparsity} --threads {resources.compute_threads}"
        " --output {output}"


# Evaluate the dense model.
rule baseline:
    input:
        script="scripts/evaluate.py",
        weights=rules.checkpoint.output.weights,
        manifest=rules.checkpoint.output.manifest,
        config=rules.checkpoint.output.config,
        tokenizer=rules.checkpoint.output.tokenizer,
        sequences=rules.sequences.output,
    output:
        metrics=grid.BASELINE,
        top_tokens=top_tokens(),
    log:
        "results/logs/baseline/{model}/{data}.log",
    threads: job_threads
    resources:
        mem_mb=memory,
        runtime=runtime,
        compute_threads=compute_threads,
        gpu=gpus(),
        device_memory=device_memory(),
    params:
        **evaluation_settings(),
        code=code("scripts/evaluate.py"),
        folder=subpath(input.weights, parent=True),
        top_tokens=lambda wildcards, output: str(output.top_tokens) or None,
        top_k=lookup("evaluate/top_k", within=config),
    shell:
        "LTPIPE_LOG={log:q} "
        + WITH_DEVICES
        + "python {input.script} --checkpoint {params.folder} --sequences {input.sequences}"
        " --top-tokens {params.top_tokens} --top-k {params.top_k}"
        " --model {wildcards.model} --data {wildcards.data} --precision {params.precision}"
        " --micro-batch {params.micro_batch} --execution {params.execution} --device {params.device:q}"
        " --device-memory {resources.device_memory} --threads {resources.compute_threads} --output {output.metrics}"


# Evaluate one ticket: the model with a mask, against the dense model.
rule ticket:
    input:
        script="scripts/evaluate.py",
        weights=rules.checkpoint.output.weights,
        manifest=rules.checkpoint.output.manifest,
        config=rules.checkpoint.output.config,
        tokenizer=rules.checkpoint.output.tokenizer,
        sequences=rules.sequences.output,
        mask=rules.mask.output,
        baseline=rules.baseline.output.metrics,
        top_tokens=rules.baseline.output.top_tokens,
    output:
        grid.TICKET,
    log:
        "results/logs/ticket/{model}/{data}/{criterion}/{scope}/seed-{seed}/{sparsity}.log",
    threads: job_threads
    resources:
        mem_mb=memory,
        runtime=runtime,
        compute_threads=compute_threads,
        gpu=gpus(),
        device_memory=device_memory(),
    params:
        **evaluation_settings(),
        code=code("scripts/evaluate.py"),
        folder=subpath(input.weights, parent=True),
        top_tokens=lambda wildcards, input: str(input.top_tokens) or None,
        perturbation=None,
        perturbation_seed=None,
    shell:
        "LTPIPE_LOG={log:q} "
        + WITH_DEVICES
        + "python {input.script} --checkpoint {params.folder} --sequences {input.sequences}"
        " --mask {input.mask} --baseline {input.baseline} --top-tokens {params.top_tokens}"
        " --perturbation {params.perturbation} --perturbation-seed {params.perturbation_seed}"
        " --model {wildcards.model} --data {wildcards.data} --precision {params.precision}"
        " --micro-batch {params.micro_batch} --execution {params.execution} --device {params.device:q}"
        " --device-memory {resources.device_memory} --threads {resources.compute_threads} --output {output}"
