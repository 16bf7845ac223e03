from ltpipe.reporting.one_shot import TABLES as ONE_SHOT


# Say which tickets narrow the brackets in which curves stop winning.
checkpoint refinement:
    input:
        script="scripts/refine.py",
        tickets=lambda wildcards: [
            ticket.named(grid.TICKET)
            for ticket in tickets_after(wildcards.model, int(wildcards.round) - 1)
        ],
        before=lambda wildcards: round_file(wildcards.model, int(wildcards.round) - 1),
    output:
        grid.REFINEMENT,
    log:
        "results/logs/refinement/{model}/{round}.log",
    resources:
        mem_mb=memory,
        runtime=runtime,
    params:
        settings=settings("refinement", "scripts/refine.py"),
        before=lambda wildcards, input: f"--before {input.before}" if input.before else "",
        tickets=listed("tickets"),
    shell:
        TOLD
        + "python {input.script} --model {wildcards.model} --tickets {params.tickets} {params.before}"
        " {params.settings[options]} --output {output}"


# Compare the masks of a model that differ in one of criterion, scope, seed and sparsity.
rule overlap:
    input:
        script="scripts/compare_masks.py",
        masks=every_mask,
        refinement=last_round,
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
        settings=settings("overlap", "scripts/compare_masks.py"),
        masks=listed("masks"),
    shell:
        TOLD
        + "python {input.script} --masks {params.masks} --model {wildcards.model} --output {output.pairs}"
        " --layers {output.layers}"


# Check that the masks of a model are what they say they are.
rule validation:
    input:
        script="scripts/validate_masks.py",
        masks=every_mask,
        refinement=last_round,
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
        mem_mb=memory,
        runtime=runtime,
    params:
        settings=settings("validation", "scripts/validate_masks.py", all_allocation_files),
        masks=listed("masks"),
    shell:
        TOLD
        + "python {input.script} --masks {params.masks} --manifest {input.manifest} --config {input.config}"
        " --model {wildcards.model} --output {output.verdicts} --layers {output.layers}"


# Put what was measured of a model and its tickets in tables, with all intervals.
rule tables:
    input:
        script="scripts/make_tables.py",
        baselines=lambda wildcards: grid.baselines(config, wildcards.model),
        tickets=lambda wildcards: [ticket.named(grid.TICKET) for ticket in every_ticket(wildcards)],
        refinement=last_round,
        perturbed=lambda wildcards: grid.perturbed(config, wildcards.model),
        simulations=lambda wildcards: grid.simulations(config, wildcards.model),
    output:
        [
            f"{grid.TABLES}/{table.name}.parquet{digest}"
            for table in ONE_SHOT
            for digest in ("", ".sha256")
        ],
    log:
        "results/logs/tables/{model}.log",
    resources:
        mem_mb=memory,
        runtime=runtime,
    params:
        settings=settings("tables", "scripts/make_tables.py"),
        folder=subpath(output[0], parent=True),
        tickets=listed("tickets"),
        perturbed=listed("perturbed"),
    shell:
        TOLD + "python {input.script} --baselines {input.baselines} --tickets {params.tickets}"
        " --perturbed {params.perturbed} --simulations {input.simulations} --output {params.folder}"
