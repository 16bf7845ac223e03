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
        settings=settings("perturbed_dense", "scripts/evaluate.py"),
        folder=subpath(input.weights, parent=True),
        top_tokens=lambda wildcards, input: top_tokens_option(input.top_tokens),
        seed=seed_option("perturbation_seed", "perturbation-seed"),
    shell:
        TOLD
        + WITH_DEVICES
        + "python {input.script} --checkpoint {params.folder} --sequences {input.sequences}"
        " --baseline {input.baseline} {params.top_tokens} --perturbation {wildcards.perturbation} {params.seed}"
        " --model {wildcards.model} --data {wildcards.data} {params.settings[options]}"
        " --device-memory {resources.device_memory} --threads {resources.compute_threads} --output {output}"


# Evaluate one ticket with perturbed weights, against the dense model as it is.
use rule ticket as perturbed_ticket with:
    output:
        grid.PERTURBED_TICKET,
    log:
        "results/logs/robustness/{model}/{data}/{perturbation}/seed-{perturbation_seed}/{criterion}/{scope}/seed-{seed}/{sparsity}.log",
    params:
        settings=settings("perturbed_ticket", "scripts/evaluate.py"),
        folder=subpath(input.weights, parent=True),
        top_tokens=lambda wildcards, input: top_tokens_option(input.top_tokens),
        perturbed=lambda wildcards, output: (
            f"--perturbation {wildcards.perturbation} "
            + seed_option("perturbation_seed", "perturbation-seed")(wildcards, output)
        ),
