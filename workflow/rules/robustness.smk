# Evaluate the dense model with perturbed weights, compared with the unperturbed model.
rule perturbed_dense:
    input:
        **DENSE,
        **jobs.top_tokens,
        sequences=rules.sequences.output,
        baseline=rules.baseline.output.metrics,
    output:
        metrics=grid.PERTURBED_DENSE,
    log:
        "results/logs/robustness/{model}/{data}/{perturbation}/seed-{perturbation_seed}/dense.log",
    threads: jobs.threads
    resources:
        **jobs.needs("perturbed_dense"),
    params:
        settings=jobs.settings("perturbed_dense"),
        folder=subpath(input.weights, parent=True),
        given=evaluation_options,
    shell:
        EVALUATION


# Evaluate one ticket with perturbed weights, compared with the unperturbed dense model.
use rule ticket as perturbed_ticket with:
    output:
        metrics=grid.PERTURBED_TICKET,
    log:
        "results/logs/robustness/{model}/{data}/{perturbation}/seed-{perturbation_seed}/{criterion}/{scope}/seed-{seed}/{sparsity}.log",
    resources:
        **jobs.needs("perturbed_ticket"),
    params:
        settings=jobs.settings("perturbed_ticket"),
        folder=subpath(input.weights, parent=True),
        given=evaluation_options,
        together=jobs.together,
