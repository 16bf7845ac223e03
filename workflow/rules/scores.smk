# Cut the calibration text into token sequences.
use rule sequences as calibration with:
    output:
        grid.CALIBRATION,
    log:
        "results/logs/calibration/{model}/{data}.log",
    cache: True
    priority: jobs.masks_first
    resources:
        **jobs.needs("calibration"),
    params:
        settings=jobs.settings("calibration"),


# Score every prunable weight by one criterion: one pass for all sparsities and scopes.
rule score:
    input:
        **DENSE,
        sequences=jobs.calibration,
    output:
        grid.SCORES,
    log:
        "results/logs/score/{model}/{criterion}.log",
    wildcard_constraints:
        criterion=f"({any_of(criterion_names())}){SETTINGS}",
    cache: True
    priority: jobs.masks_first
    threads: jobs.threads
    resources:
        **jobs.needs("score"),
    params:
        settings=jobs.settings("score"),
        folder=subpath(input.weights, parent=True),
        sequences=given("sequences"),
    shell:
        ENVIRONMENT
        + WITH_DEVICES
        + FORKED
        + '"$LTPIPE/scripts/score.py" --checkpoint {params.folder} --criterion {wildcards.criterion} {params.sequences} '
        + COMPUTING
        + " --output {output}"


# Add up the scores of several criteria.
rule hybrid:
    input:
        weights=rules.checkpoint.output.weights,
        manifest=rules.checkpoint.output.manifest,
        scores=jobs.part_files,
    output:
        grid.SCORES,
    log:
        "results/logs/score/{model}/{criterion}.log",
    wildcard_constraints:
        criterion=f"({any_of(config['score']['hybrids'])}){SETTINGS}",
    cache: True
    priority: jobs.masks_first
    resources:
        **jobs.needs("hybrid"),
    params:
        settings=jobs.settings("hybrid"),
        folder=subpath(input.weights, parent=True),
        scores=lambda wildcards, input: jobs.parts(wildcards),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/hybrid.py" --checkpoint {params.folder} --name {wildcards.criterion} --scores {params.scores}'
        " {params.settings[options]} --output {output}"
