# Evaluate the dense model with perturbed weights, against itself.
rule perturbed_dense:
    input:
        script="scripts/evaluate.py",
        weights=rules.checkpoint.output.weights,
        manifest=rules.checkpoint.output.manifest,
        config=rules.checkpoint.output.config,
        tokenizer=rules.checkpoint.output.tokenizer,
        sequences=rules.sequences.output,
        baseline=rules.baseline.output.metrics,
        top_tokens=rules.baseline.output.top_tokens,
    output:
        grid.PERTURBED_DENSE,
    log:
        "results/logs/robustness/{model}/{data}/{perturbation}/seed-{perturbation_seed}/dense.log",
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
        perturbation_seed=perturbation_seed,
        preset=lookup("models/{model}/prunable/preset", within=config),
        include=lookup("models/{model}/prunable/include", within=config),
        exclude=lookup("models/{model}/prunable/exclude", within=config),
    shell:
        "LTPIPE_LOG={log:q} "
        + WITH_DEVICES
        + "python {input.script} --checkpoint {params.folder} --sequences {input.sequences}"
        " --baseline {input.baseline} --top-tokens {params.top_tokens}"
        " --perturbation {wildcards.perturbation} --perturbation-seed {params.perturbation_seed}"
        " --preset {params.preset} --include {params.include:q} --exclude {params.exclude:q}"
        " --model {wildcards.model} --data {wildcards.data} --precision {params.precision}"
        " --micro-batch {params.micro_batch} --execution {params.execution} --device {params.device:q}"
        " --device-memory {resources.device_memory} --threads {resources.compute_threads} --output {output}"


# Evaluate one ticket with perturbed weights, against the dense model as it is.
use rule ticket as perturbed_ticket with:
    output:
        grid.PERTURBED_TICKET,
    log:
        "results/logs/robustness/{model}/{data}/{perturbation}/seed-{perturbation_seed}/{criterion}/{scope}/seed-{seed}/{sparsity}.log",
    params:
        **evaluation_settings(),
        code=code("scripts/evaluate.py"),
        folder=subpath(input.weights, parent=True),
        top_tokens=lambda wildcards, input: str(input.top_tokens) or None,
        perturbation=lambda wildcards: wildcards.perturbation,
        perturbation_seed=perturbation_seed,
