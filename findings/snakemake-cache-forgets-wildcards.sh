#!/usr/bin/env bash
# snakemake 9.27.1, Python 3.11
#
# The cache between workflows (`cache: True`) names an entry by the text of the shell command before it is filled in,
# the params, and the contents of the inputs in the order of their hashes. Wildcards are no part of it, nor which input
# is which: two jobs of one rule that differ only in these share an entry, and the second is given the first one's
# output, with exit status 0.
#
# Output seen:
#   mask-0.3.txt holds sparsity 0.3
#   mask-0.5.txt holds sparsity 0.3
#   forward.txt holds one-two
#   backward.txt holds one-two
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check snakemake==9.27.1

cat > Snakefile <<'RULES'
rule mask:
    output: "mask-{sparsity}.txt"
    cache: True
    shell: "echo sparsity {wildcards.sparsity} > {output}"

def parts(wildcards):
    names = ["one.txt", "two.txt"]
    return dict(zip(("first", "second"), names if wildcards.way == "forward" else names[::-1]))

rule joined:
    input: unpack(parts)
    output: "{way}.txt"
    wildcard_constraints: way="forward|backward"
    cache: True
    shell: "echo $(cat {input.first})-$(cat {input.second}) > {output}"
RULES
echo one > one.txt
echo two > two.txt

mkdir cache
export SNAKEMAKE_OUTPUT_CACHE="$folder/cache"
snakemake() { venv/bin/snakemake "$@" --cores 1 --cache > log.txt 2>&1 || { cat log.txt; exit 1; }; }
expect() { # file, what it holds
  if [ "$(cat "$1")" != "$2" ]; then
    echo "changed: $1 holds $(cat "$1"), not $2"
    exit 1
  fi
  echo "$1 holds $2"
}

# One call for each, since jobs of one call that share an entry may also race for it.
snakemake mask-0.3.txt
snakemake mask-0.5.txt
expect mask-0.3.txt "sparsity 0.3"
expect mask-0.5.txt "sparsity 0.3"
snakemake forward.txt
snakemake backward.txt
expect forward.txt "one-two"
expect backward.txt "one-two"
