from ltpipe.reporting.one_shot import TABLES as ONE_SHOT


# Find the tickets that narrow the brackets in which curves stop winning.
checkpoint refinement:
    input:
        tickets=jobs.known_tickets,
        before=jobs.round_before,
    output:
        grid.REFINEMENT,
    log:
        "results/logs/refinement/{model}/{round}.log",
    resources:
        **jobs.needs("refinement"),
    params:
        settings=jobs.settings("refinement"),
        before=given("before"),
        tickets=listed("tickets"),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/refinement.py" --model {wildcards.model} --tickets {params.tickets} {params.before}'
        " {params.settings[options]} --output {output}"


# Compare the masks of a model that differ in one of criterion, scope, seed and sparsity.
rule overlap:
    input:
        masks=jobs.every_mask,
        refinement=jobs.last_round,
    output:
        pairs=f"{grid.OVERLAP}.csv",
        digest=f"{grid.OVERLAP}.csv.sha256",
        layers=f"{grid.OVERLAP}.parquet",
    log:
        "results/logs/overlap/{model}.log",
    resources:
        **jobs.needs("overlap"),
    params:
        settings=jobs.settings("overlap"),
        masks=listed("masks"),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/overlap.py" --masks {params.masks} --model {wildcards.model} --output {output.pairs}'
        " --layers {output.layers}"


# Check that the masks of a model are what they claim to be.
rule validation:
    input:
        masks=jobs.every_mask,
        refinement=jobs.last_round,
        manifest=rules.checkpoint.output.manifest,
        config=rules.checkpoint.output.config,
    output:
        verdicts=f"{grid.VALIDATION}.csv",
        digest=f"{grid.VALIDATION}.csv.sha256",
        layers=f"{grid.VALIDATION}.parquet",
        layers_digest=f"{grid.VALIDATION}.parquet.sha256",
    log:
        "results/logs/validation/{model}.log",
    resources:
        **jobs.needs("validation"),
    params:
        settings=jobs.settings("validation"),
        folder=subpath(input.manifest, parent=True),
        masks=listed("masks"),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/validation.py" --masks {params.masks} --checkpoint {params.folder}'
        " --model {wildcards.model} --output {output.verdicts} --layers {output.layers}"


# Write tables of the measurements of a model and its tickets, with all intervals.
rule tables:
    input:
        baselines=lambda wildcards: grid.baselines(config, wildcards.model),
        tickets=jobs.every_ticket,
        refinement=jobs.last_round,
        perturbed=lambda wildcards: grid.perturbed(config, wildcards.model),
        simulations=lambda wildcards: grid.simulations(config, wildcards.model),
        solutions=jobs.every_solution,
        recoveries=jobs.every_recovery,
        tasks=lambda wildcards: grid.task_results(config, wildcards.model),
    output:
        [
            f"{grid.TABLES}/{table.name}.parquet{digest}"
            for table in ONE_SHOT
            for digest in ("", ".sha256")
        ],
    log:
        "results/logs/tables/{model}.log",
    resources:
        **jobs.needs("tables"),
    params:
        settings=jobs.settings("tables"),
        folder=subpath(output[0], parent=True),
        tickets=listed("tickets"),
        perturbed=listed("perturbed"),
        solutions=listed("solutions"),
        recoveries=listed("recoveries"),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/tables.py" --baselines {input.baselines} --tickets {params.tickets}'
        " --perturbed {params.perturbed} --simulations {input.simulations} --solutions {params.solutions}"
        " --tasks {input.tasks} --recoveries {params.recoveries}"
        " --output {params.folder}"
