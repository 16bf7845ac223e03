# Cut a text into the token sequences that a recovery trains on.
use rule sequences as recovery_text with:
    output:
        grid.RECOVERY_TEXT,
    log:
        "results/logs/recovery_text/{model}/{data}/{recovery}.log",
    resources:
        **jobs.needs("recovery_text"),
    params:
        settings=jobs.settings("recovery_text"),


# Train one ticket with its mask held: the values of its weights, and what that took.
rule recover:
    input:
        **DENSE,
        sequences=jobs.recovery_text,
        mask=jobs.mask,
        solution=jobs.solved,
    output:
        solution=grid.RECOVERED,
        record=grid.RECOVERY,
    log:
        "results/logs/recover/{model}/{criterion}/{scope}/seed-{seed}/{sparsity}.log",
    wildcard_constraints:
        criterion=f"[a-z0-9-]+{SETTINGS}{RECOVERY}",
    threads: jobs.training_threads
    resources:
        **jobs.needs("recover"),
        save_every=jobs.save_every,
    params:
        settings=jobs.settings("recover"),
        launch=jobs.launch,
        folder=subpath(input.weights, parent=True),
        given=given("solution"),
        recovery=recovery_option,
    shell:
        ENVIRONMENT
        + WITH_DEVICES
        + '{params.launch} "$LTPIPE/scripts/recover.py" --checkpoint {params.folder} --sequences {input.sequences}'
        " --mask {input.mask} {params.given} --model {wildcards.model} {params.recovery} --code {params.settings[code]}"
        " {params.settings[options]} --save-every {resources.save_every} --output {output.solution}"
        " --record {output.record}"
