# Load a model from its source and store it as a canonical checkpoint.
rule checkpoint:
    input:
        files=jobs.model_files,
    output:
        weights=f"{grid.CHECKPOINT}/model.safetensors",
        manifest=f"{grid.CHECKPOINT}/manifest.json",
        config=f"{grid.CHECKPOINT}/config.json",
        generation_config=f"{grid.CHECKPOINT}/generation_config.json",
        tokenizer=f"{grid.CHECKPOINT}/tokenizer.json",
        tokenizer_config=f"{grid.CHECKPOINT}/tokenizer_config.json",
    log:
        "results/logs/checkpoint/{model}.log",
    cache: True
    resources:
        **jobs.needs("checkpoint"),
    params:
        settings=jobs.settings("checkpoint"),
        folder=subpath(output.weights, parent=True),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/checkpoint.py" --name {wildcards.model} {params.settings[options]} --output {params.folder}'


# Input of every stage that runs a model.
DENSE = {
    name: rules.checkpoint.output[name] for name in ("weights", "manifest", "config", "tokenizer")
}


# Cut a text into fixed token sequences with a model's tokenizer.
rule sequences:
    input:
        tokenizer=rules.checkpoint.output.tokenizer,
        manifest=rules.checkpoint.output.manifest,
        files=jobs.text_files,
    output:
        grid.SEQUENCES,
    log:
        "results/logs/sequences/{model}/{data}.log",
    cache: True
    resources:
        **jobs.needs("sequences"),
    params:
        settings=jobs.settings("sequences"),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/sequences.py" --tokenizer {input.tokenizer} --name {wildcards.data} {params.settings[options]}'
        " --output {output}"
