# Write a structured ticket as a physically smaller checkpoint, on request: snakemake results/smaller/…/config.json.
rule smaller:
    input:
        **DENSE,
        generation_config=rules.checkpoint.output.generation_config,
        tokenizer_config=rules.checkpoint.output.tokenizer_config,
        mask=rules.mask.output,
    output:
        weights=f"{grid.SMALLER}/model.safetensors",
        config=f"{grid.SMALLER}/config.json",
        generation_config=f"{grid.SMALLER}/generation_config.json",
        tokenizer=f"{grid.SMALLER}/tokenizer.json",
        tokenizer_config=f"{grid.SMALLER}/tokenizer_config.json",
    log:
        "results/logs/smaller/{model}/{criterion}/{scope}/seed-{seed}/{sparsity}.log",
    resources:
        **jobs.needs("smaller"),
    params:
        settings=jobs.settings("smaller"),
        folder=subpath(input.weights, parent=True),
        output=subpath(output.weights, parent=True),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/smaller.py" --checkpoint {params.folder} --mask {input.mask}'
        " {params.settings[options]} --output {params.output}"
