#!/usr/bin/env bash
# snakemake 9.27.1, Python 3.11
#
# With its default limit of 100 jobs a second, the scheduler is woken once a second for every job that has started so
# far, as long as a job waits for a free core: each turn that selects jobs, or finds no room for one, sets a timer for
# another turn. So the turns of a run grow with the square of its jobs. Here 40 jobs end at once, then two of ten
# seconds run on one core: the scheduler takes about 400 turns during the first of the two. In each turn it computes the
# params and resources of all waiting jobs anew and starts a thread. No value of --max-jobs-per-timespan means no limit.
#
# Output seen (the numbers differ by a few from run to run):
#   turns of the scheduler while 40 short jobs ran: 41
#   turns during a single job of 10 seconds: 409
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check snakemake==9.27.1

cat > Snakefile <<'RULES'
rule all:
    input: expand("long-{number}.txt", number=range(2))

rule short:
    output: "short-{number}.txt"
    shell: "echo > {output}"

rule long:
    input: expand("short-{number}.txt", number=range(40))
    output: "long-{number}.txt"
    shell: "sleep 10; echo > {output}"
RULES

venv/bin/snakemake --cores 1 --verbose > log.txt 2>&1
turns() { grep -c '^Resources before job selection' || true; }
first=$(grep -n 'rule long:' log.txt | head -1 | cut -d: -f1)
second=$(grep -n 'rule long:' log.txt | tail -1 | cut -d: -f1)
short=$(head -n "$first" log.txt | turns)
long=$(sed -n "${first},${second}p" log.txt | turns)
echo "turns of the scheduler while 40 short jobs ran: $short"
echo "turns during a single job of 10 seconds: $long"
test "$long" -gt 100
