# Compare the masks of a model that differ in one of criterion, scope, seed and sparsity.
rule overlap:
    input:
        script="scripts/compare_masks.py",
        masks=lambda wildcards: grid.masks(config, wildcards.model),
    output:
        pairs=f"{grid.OVERLAP}.csv",
        digest=f"{grid.OVERLAP}.csv.sha256",
        layers=f"{grid.OVERLAP}.parquet",
    log:
        "results/logs/overlap/{model}.log",
    resources:
        mem_mb=memory,
        runtime=runtime,
    params:
        code=code("scripts/compare_masks.py"),
    shell:
        "LTPIPE_LOG={log:q} python {input.script} --masks {input.masks} --model {wildcards.model}"
        " --output {output.pairs} --layers {output.layers}"


# Check that the masks of a model are what they say they are.
rule validation:
    input:
        script="scripts/validate_masks.py",
        masks=lambda wildcards: grid.masks(config, wildcards.model),
        manifest=rules.checkpoint.output.manifest,
        config=rules.checkpoint.output.config,
    output:
        table=grid.VALIDATION,
        digest=f"{grid.VALIDATION}.sha256",
    log:
        "results/logs/validation/{model}.log",
    resources:
        mem_mb=memory,
        runtime=runtime,
    params:
        code=code("scripts/validate_masks.py"),
    shell:
        "LTPIPE_LOG={log:q} python {input.script} --masks {input.masks} --manifest {input.manifest}"
        " --config {input.config} --model {wildcards.model} --output {output.table}"
