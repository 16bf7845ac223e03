# Load a model from its source and keep it as a canonical checkpoint.
rule checkpoint:
    input:
        script="scripts/load_model.py",
        files=lambda wildcards: files_of(model_source(wildcards), ".safetensors", ".json"),
    output:
        weights=f"{grid.CHECKPOINT}/model.safetensors",
        manifest=f"{grid.CHECKPOINT}/manifest.json",
        config=f"{grid.CHECKPOINT}/config.json",
        tokenizer=f"{grid.CHECKPOINT}/tokenizer.json",
        tokenizer_config=f"{grid.CHECKPOINT}/tokenizer_config.json",
    log:
        "results/logs/checkpoint/{model}.log",
    resources:
        mem_mb=memory,
        runtime=runtime,
    params:
        code=code("scripts/load_model.py", *PLACES),
        folder=subpath(output.weights, parent=True),
        source=lookup("models/{model}/source", within=config),
        identity=lambda wildcards: model_source(wildcards).identity,
        tokenizer=lookup("models/{model}/tokenizer", within=config),
        dtype=lookup("models/{model}/dtype", within=config),
    shell:
        "LTPIPE_LOG={log:q} python {input.script} --source={params.source:q} --tokenizer={params.tokenizer:q}"
        " --dtype {params.dtype} --name {wildcards.model} --output {params.folder}"


# Cut a text into fixed token sequences with a model's tokenizer.
rule sequences:
    input:
        script="scripts/prepare_data.py",
        tokenizer=rules.checkpoint.output.tokenizer,
        manifest=rules.checkpoint.output.manifest,
        files=lambda wildcards: files_of(text_source(wildcards), ".txt", ".jsonl", ".parquet"),
    output:
        grid.SEQUENCES,
    log:
        "results/logs/sequences/{model}/{data}.log",
    resources:
        mem_mb=memory,
        runtime=runtime,
    params:
        code=code("scripts/prepare_data.py", *PLACES),
        source=lookup("data/{data}/source", within=config),
        identity=lambda wildcards: text_source(wildcards).identity,
        files=lookup("data/{data}/files", within=config),
        field=lookup("data/{data}/field", within=config),
        documents=lookup("data/{data}/documents", within=config),
        separator=lookup("data/{data}/separator", within=config),
        protocol=lookup("data/{data}/protocol", within=config),
        sequence_length=lookup("evaluate/sequence_length", within=config),
        num_sequences=lambda wildcards: grid.evaluated_sequences(config, wildcards.data),
    shell:
        "LTPIPE_LOG={log:q} python {input.script} --source={params.source:q} --tokenizer {input.tokenizer}"
        " --files={params.files:q} --field={params.field:q} --documents {params.documents}"
        " --separator={params.separator:q} --sequence-length {params.sequence_length} --num-sequences {params.num_sequences}"
        " --protocol {params.protocol} --name {wildcards.data} --output {output}"
