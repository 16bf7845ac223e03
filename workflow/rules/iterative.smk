# Simulate iterative magnitude pruning: a schedule of one-shot tickets, and no training.
rule simulation:
    input:
        script="scripts/simulate_pruning.py",
        weights=rules.checkpoint.output.weights,
        manifest=rules.checkpoint.output.manifest,
        config=rules.checkpoint.output.config,
        tokenizer=rules.checkpoint.output.tokenizer,
        sequences=rules.sequences.output,
        histogram=lambda wildcards: grid.HISTOGRAM.format(
            model=wildcards.model, criterion="magnitude", seed=grid.NO_SEED
        ),
    output:
        found=f"{grid.SIMULATION}.json",
        ticket=f"{grid.SIMULATION}.safetensors",
    log:
        "results/logs/simulation/{model}/{data}.log",
    threads: job_threads
    resources:
        mem_mb=memory,
        runtime=runtime,
        compute_threads=compute_threads,
        gpu=gpus(),
        device_memory=device_memory(),
    params:
        settings=settings("simulation", "scripts/simulate_pruning.py"),
        folder=subpath(input.weights, parent=True),
    shell:
        TOLD
        + WITH_DEVICES
        + "python {input.script} --checkpoint {params.folder} --histogram {input.histogram}"
        " --sequences {input.sequences} --model {wildcards.model} --data {wildcards.data} {params.settings[options]}"
        " --device-memory {resources.device_memory} --threads {resources.compute_threads}"
        " --output {output.found} --ticket {output.ticket}"
