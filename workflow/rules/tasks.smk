# Write down what lm-evaluation-harness asks of a model in a task. First, since only then is known whether it exists.
rule task_requests:
    input:
        **DENSE,
        tokenizer_config=rules.checkpoint.output.tokenizer_config,
        folder=jobs.harness_files,
    output:
        grid.TASK_REQUESTS,
    log:
        "results/logs/task_requests/{model}/{task}.log",
    priority: 2
    resources:
        **jobs.needs("task_requests"),
    params:
        settings=jobs.settings("task_requests"),
        folder=subpath(input.weights, parent=True),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/task_requests.py" --checkpoint {params.folder} {params.settings[options]} --output {output}'


RESPONSES = (
    ENVIRONMENT
    + WITH_DEVICES
    + FORKED
    + '"$LTPIPE/scripts/task_responses.py" --checkpoint {params.folder} --requests {input.requests} {params.given}'
    + " --model {wildcards.model} --task {wildcards.task} --code {params.settings[code]} "
    + COMPUTING
    + " --output {output}"
)


# Answer the requests of a task by the dense model.
rule dense_responses:
    input:
        **DENSE,
        tokenizer_config=rules.checkpoint.output.tokenizer_config,
        generation_config=rules.checkpoint.output.generation_config,
        requests=rules.task_requests.output,
    output:
        grid.DENSE_RESPONSES,
    log:
        "results/logs/dense_responses/{model}/{task}.log",
    threads: jobs.threads
    resources:
        **jobs.needs("dense_responses"),
    params:
        settings=jobs.settings("dense_responses"),
        folder=subpath(input.weights, parent=True),
        given=given("mask", "solution"),
    shell:
        RESPONSES


# Answer them by one ticket.
use rule dense_responses as ticket_responses with:
    input:
        **DENSE,
        tokenizer_config=rules.checkpoint.output.tokenizer_config,
        generation_config=rules.checkpoint.output.generation_config,
        requests=rules.task_requests.output,
        mask=jobs.mask,
        solution=jobs.solution,
    output:
        grid.TICKET_RESPONSES,
    log:
        "results/logs/ticket_responses/{model}/{task}/{criterion}/{scope}/seed-{seed}/{sparsity}.log",
    wildcard_constraints:
        criterion=f"[a-z0-9-]+{SETTINGS}({RECOVERY})?",
    resources:
        **jobs.needs("ticket_responses"),
    params:
        settings=jobs.settings("ticket_responses"),
        folder=subpath(input.weights, parent=True),
        given=given("mask", "solution"),


# Compute the metrics of all responses to a task.
rule task_results:
    input:
        requests=rules.task_requests.output,
        responses=jobs.every_response,
        refinement=jobs.last_round,
        folder=jobs.harness_files,
    output:
        grid.TASK_RESULTS,
    log:
        "results/logs/task_results/{model}/{task}.log",
    resources:
        **jobs.needs("task_results"),
    params:
        settings=jobs.settings("task_results"),
        responses=listed("responses"),
    shell:
        ENVIRONMENT
        + FORKED
        + '"$LTPIPE/scripts/task_results.py" --requests {input.requests} --responses {params.responses}'
        " --model {wildcards.model} --name {wildcards.task} {params.settings[options]} --output {output}"
