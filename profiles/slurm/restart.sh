#!/bin/bash
# Clean up after a snakemake that was killed on a SLURM cluster, so that you can start it again. Run this in the
# working folder:
#
#   profiles/slurm/restart.sh --configfile my.yaml && snakemake --workflow-profile profiles/slurm --configfile my.yaml …
#
# A killed snakemake leaves its jobs behind, and a new one does not know them: it would run the same jobs a second time.
# So this script cancels them, waits until they are gone, and only then unlocks the folder. Finished jobs are kept.
set -euo pipefail

[[ -d .snakemake/log ]] || { echo "error: no snakemake has run in $PWD" >&2; exit 1; }
# Every snakemake names its jobs with its own run ID, which it logs before it submits the first one.
mapfile -t runs < <(find .snakemake/log -name '*.log' -exec sed -n 's/^SLURM run ID: //p' {} + | sort -u)
((${#runs[@]})) || { echo "no run on SLURM is known here" >&2; exit 0; }
for run in "${runs[@]}"; do scancel --me --name="$run"; done
left=yes
while [[ -n $left ]]; do
  sleep 1
  left=$(squeue --me --noheader --name="$(IFS=, && echo "${runs[*]}")") # ends this script if squeue does not answer
done
snakemake --unlock --cores 1 "$@"
