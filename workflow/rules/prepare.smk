# Load a model from its source and keep it as a canonical checkpoint.
rule checkpoint:
    input:
        script="scripts/load_model.py",
        files=lambda wildcards: [
            file
            for source in model_sources(wildcards)
            for file in files_of(source, ".safetensors", ".json")
        ],
    output:
        weights=f"{grid.CHECKPOINT}/model.safetensors",
        manifest=f"{grid.CHECKPOINT}/manifest.json",
        config=f"{grid.CHECKPOINT}/config.json",
        generation_config=f"{grid.CHECKPOINT}/generation_config.json",
        tokenizer=f"{grid.CHECKPOINT}/tokenizer.json",
        tokenizer_config=f"{grid.CHECKPOINT}/tokenizer_config.json",
    log:
        "results/logs/checkpoint/{model}.log",
    resources:
        mem_mb=memory,
        runtime=runtime,
    params:
        settings=settings("checkpoint", "scripts/load_model.py", places),
        folder=subpath(output.weights, parent=True),
    shell:
        TOLD
        + "python {input.script} --name {wildcards.model} {params.settings[options]} --output {params.folder}"


# Cut a text into fixed token sequences with a model's tokenizer.
rule sequences:
    input:
        script="scripts/prepare_data.py",
        tokenizer=rules.checkpoint.output.tokenizer,
        manifest=rules.checkpoint.output.manifest,
        files=lambda wildcards: files_of(text_source(wildcards), *LAST_SUFFIXES),
    output:
        grid.SEQUENCES,
    log:
        "results/logs/sequences/{model}/{data}.log",
    resources:
        mem_mb=memory,
        runtime=runtime,
    params:
        settings=settings("sequences", "scripts/prepare_data.py", places),
    shell:
        TOLD
        + "python {input.script} --tokenizer {input.tokenizer} --name {wildcards.data} {params.settings[options]}"
        " --output {output}"
