"""Values on the command lines of stages."""

import os

from bad_input.case import Case, on
from bad_input.stages import COUNT, DATA, DENSE, MASK
from bad_input.training import POINT

SCORE = "--checkpoint @llama --criterion gradient-norm --sequences @text.sequences"
SIMULATE = "--checkpoint @llama --histogram @llama.histogram --sequences @text.sequences --ticket %ticket"
HYBRID = "--checkpoint @llama --name mix --scores magnitude @scores"
PERTURB = f"{DENSE} --baseline @text.baseline"
HUGE = str(10**12)

VALUES = {
    **{
        f"threads-of-{script}": Case(script, on(arguments, threads=HUGE), (f"threads: {HUGE}", "allowed"))
        for script, arguments in (
            ("histogram", COUNT), ("mask", MASK), ("evaluate", DENSE), ("rewind_point", POINT),
        )
    },
    "sparsity-of-unicode-digits": Case("mask", on(MASK, sparsity="٠.٥"), ("sparsity '٠.٥'", "0 to 1")),
    "sparsity-of-underscores": Case("mask", on(MASK, sparsity="0_0.5"), ("sparsity '0_0.5'", "0 to 1")),
    "sparsity-of-a-billion-decimals": Case(
        "mask", on(MASK, sparsity="1e-999999999"), ("sparsity 1e-999999999 is not allowed", "at most 40 decimals")
    ),
    "sparsity-of-nan-with-a-payload": Case("mask", on(MASK, sparsity="nan123"), ("sparsity 'nan123'", "0 to 1")),
    "sparsity-of-a-signalling-nan": Case("mask", on(MASK, sparsity="sNaN"), ("sparsity 'sNaN'", "0 to 1")),
    "scope-empty": Case("mask", on(MASK, scope=""), ("scope ''",)),
    "scope-of-a-huge-pattern": Case("mask", on(MASK, scope="1of" + "9" * 30), ("scope '1of999",)),
    "scope-above": Case("mask", on(MASK, scope="../x"), ("scope '../x'",)),
    "criterion-empty": Case("histogram", on(COUNT, criterion=""), ("criterion ''",)),
    "criterion-of-code": Case("histogram", on(COUNT, criterion="os.system"), ("criterion 'os.system'",)),
    "criterion-above": Case("score", on(SCORE, criterion="../x"), ("'../x'",)),
    "score-on-no-sequences": Case(
        "score", "--checkpoint @llama --criterion gradient-norm", ("gradient-norm", "sequences")
    ),
    "score-in-no-iterations": Case(
        "score", on(SCORE, criterion="synflow") + " --options iterations 0", ("iterations: 0 is not allowed",)
    ),
    **{
        f"memory-{value}": Case("evaluate", on(DENSE, device_memory=value), ("device_memory: ", "allowed"))
        for value in ("nan", "-1", "inf")
    },
    "memory-of-almost-nothing": Case("evaluate", on(DENSE, device_memory="1e-9"), ("device_memory",)),
    "top-k-negative": Case("evaluate", on(DENSE, top_k="-1", top_tokens="%top"), ("top_k: -1",)),
    **{
        f"perturbation-{name}": Case("evaluate", on(PERTURB, perturbation=value), ("perturbation", f"'{value}'"))
        for name, value in {
            "of-nan": "noise-nan", "of-one-bit": "int1", "of-code": "os.system",
            "empty": "", "of-a-huge-power": "int99999"
        }.items()
    },
    "perturbation-without-a-seed": Case("evaluate", on(PERTURB, perturbation="noise-0.1"), ("perturbation", "seed")),
    **{
        f"target-sparsity-{value}": Case(
            "simulation", on(SIMULATE, target_sparsity=value), ("target sparsity", "from 0 to below 1")
        )
        for value in ("nan", "1", "-0.5")
    },
    "simulation-of-no-iterations": Case("simulation", on(SIMULATE, iterations="0"),
        ("iterations: 0 is not allowed",)),
    "simulation-of-no-batch": Case("simulation", on(SIMULATE, batch="0"), ("batch: 0",)),
    **{
        f"weights-{name}": Case("hybrid", f"{HYBRID} --weights {value}", ("weight",))
        for name, value in {"nan": "nan 1", "inf": "inf 1", "zero": "0 1", "too-few": "1"}.items()
    },
    "hybrid-of-an-absent-file": Case(
        "hybrid", "--checkpoint @llama --name mix --scores magnitude @no --weights 1 1", ("@no: no such file",)
    ),
    "length-huge": Case("sequences", on(DATA, sequence_length=str(10**30), name="mine"), ("data.mine: ", "fewer")),
    "length-negative": Case("sequences", on(DATA, sequence_length="-5", name="mine"), ("data.mine: ", "-5")),
    "number-of-sequences-huge": Case("sequences", on(DATA, num_sequences=str(10**30)), ("data.text: has 25",)),
    "output-empty": Case("histogram", on(COUNT, output=""), (".: is a folder",)),
    "output-of-a-very-long-name": Case("histogram", on(COUNT, output="%" + "x" * 300), ("name is too long",)),
    "output-is-a-fifo": Case(
        "histogram", on(COUNT, output="%x"), ("%x: is a pipe, a device", "to write"), lambda h, s: os.mkfifo(h / "x")
    ),
    "checkpoint-empty": Case("histogram", on(COUNT, checkpoint=""), ("manifest.json: no such file",)),
    "checkpoint-of-a-very-long-name": Case("histogram", on(COUNT, checkpoint="x" * 5000), ("no such file",)),
    "plan-without-a-study": Case("plan", "--study ''", ("study: ", "JSON")),
    "plan-of-a-list": Case("plan", "--study []", ("configuration: [] is not allowed",)),
    "plan-of-nothing": Case("plan", "--study {}", ("configuration: the key 'models' is missing",)),
    "plan-on-a-negative-device": Case("ltpipe", "plan --device-memory -3", ("device_memory: -3.0", "above 0")),
    "plan-on-a-nan-device": Case("ltpipe", "plan --device-memory nan", ("device_memory: nan", "above 0")),
}  # fmt: skip
