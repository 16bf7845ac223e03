# Simulate iterative magnitude pruning: a schedule of one-shot tickets, without training.
rule simulation:
    input:
        **DENSE,
        sequences=rules.sequences.output,
        histogram=lambda wildcards: grid.HISTOGRAM.format(
            model=wildcards.model, criterion="magnitude", seed=grid.NO_SEED
        ),
    output:
        found=f"{grid.SIMULATION}.json",
        ticket=f"{grid.SIMULATION}.safetensors",
    log:
        "results/logs/simulation/{model}/{data}.log",
    threads: jobs.threads
    resources:
        **jobs.needs("simulation"),
    params:
        settings=jobs.settings("simulation"),
        folder=subpath(input.weights, parent=True),
    shell:
        ENVIRONMENT
        + WITH_DEVICES
        + FORKED
        + '"$LTPIPE/scripts/simulation.py" --checkpoint {params.folder} --histogram {input.histogram}'
        " --sequences {input.sequences} --model {wildcards.model} --data {wildcards.data} "
        + COMPUTING
        + " --output {output.found} --ticket {output.ticket}"
