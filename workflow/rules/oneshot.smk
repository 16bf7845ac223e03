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
        settings=settings("histogram", "scripts/count_keys.py"),
        folder=subpath(input.weights, parent=True),
        seed=seed_option("seed", "seed"),
        scores=lambda wildcards, input: f"--scores {input.scores}" if input.scores else "",
    shell:
        TOLD
        + "python {input.script} --checkpoint {params.folder} --criterion {wildcards.criterion} {params.seed}"
        " {params.scores} {params.settings[options]} --threads {resources.compute_threads} --output {output}"


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
        settings=settings("mask", "scripts/make_mask.py", allocation_files),
        folder=subpath(input.weights, parent=True),
        scores=lambda wildcards, input: f"--scores {input.scores}" if input.scores else "",
    shell:
        TOLD
        + "python {input.script} --checkpoint {params.folder} --histogram {input.histogram} {params.scores}"
        " --scope {wildcards.scope} --sparsity {wildcards.sparsity} {params.settings[options]}"
        " --threads {resources.compute_threads} --output {output}"


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
        settings=settings("baseline", "scripts/evaluate.py"),
        folder=subpath(input.weights, parent=True),
        top_tokens=lambda wildcards, output: top_tokens_option(output.top_tokens),
    shell:
        TOLD
        + WITH_DEVICES
        + "python {input.script} --checkpoint {params.folder} --sequences {input.sequences} {params.top_tokens}"
        " --model {wildcards.model} --data {wildcards.data} {params.settings[options]}"
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
        settings=settings("ticket", "scripts/evaluate.py"),
        folder=subpath(input.weights, parent=True),
        top_tokens=lambda wildcards, input: top_tokens_option(input.top_tokens),
        perturbed=lambda wildcards, output: "",
    shell:
        TOLD
        + WITH_DEVICES
        + "python {input.script} --checkpoint {params.folder} --sequences {input.sequences}"
        " --mask {input.mask} --baseline {input.baseline} {params.top_tokens} {params.perturbed}"
        " --model {wildcards.model} --data {wildcards.data} {params.settings[options]}"
        " --device-memory {resources.device_memory} --threads {resources.compute_threads} --output {output}"
