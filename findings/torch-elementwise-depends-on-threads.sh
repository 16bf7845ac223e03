#!/usr/bin/env bash
# torch 2.13.0 (CPU), Python 3.11, x86-64
#
# An elementwise function gives the same element other bits with another number of threads. Each thread gets a
# contiguous share; where its length is not a multiple of the vector width, the last elements go through scalar code,
# whose rounding of exp and the like differs from the vector code's. Functions that are rounded the same in both, such as
# exp itself, are not affected. With 1 and 2 threads these shares happen to end alike.
#
# Output seen (how many of the last places differ depends on the processor):
#   exp: same bits with 1 and 3 threads: True
#   silu: same bits with 1 and 3 threads: False
#   softplus: same bits with 1 and 3 threads: False
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2>/dev/null

cat > look.py <<'CODE'
import torch

values = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
for function in (torch.exp, torch.nn.functional.silu, torch.nn.functional.softplus):
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(function(values))
    print(f"{function.__name__}: same bits with 1 and 3 threads: {torch.equal(*found)}")
CODE
venv/bin/python look.py | tee seen

diff seen - <<'SEEN'
exp: same bits with 1 and 3 threads: True
silu: same bits with 1 and 3 threads: False
softplus: same bits with 1 and 3 threads: False
SEEN
echo "as seen"
