# Write a structured ticket as a physically smaller checkpoint, where asked for: snakemake results/smaller/…/config.json.
rule smaller:
    input:
        script="scripts/export_smaller.py",
        weights=rules.checkpoint.output.weights,
        manifest=rules.checkpoint.output.manifest,
        config=rules.checkpoint.output.config,
        generation_config=rules.checkpoint.output.generation_config,
        tokenizer=rules.checkpoint.output.tokenizer,
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
        mem_mb=memory,
        runtime=runtime,
    params:
        settings=settings("smaller", "scripts/export_smaller.py"),
        folder=subpath(input.weights, parent=True),
        output=subpath(output.weights, parent=True),
    shell:
        TOLD + "python {input.script} --checkpoint {params.folder} --mask {input.mask}"
        " {params.settings[options]} --output {params.output}"
