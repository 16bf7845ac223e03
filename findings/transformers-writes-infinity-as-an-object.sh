#!/usr/bin/env bash
# transformers 5.23.0, Python 3.11
#
# A number that is not finite, such as the default upper limit of Mamba 2's time steps, is written to config.json as
# {"__float__": "Infinity"}. AutoConfig.from_pretrained takes that back. AutoConfig.for_model and the class itself, given
# the parsed JSON, refuse it: a configuration that was read with a plain JSON parser cannot be built.
#
# Output seen:
#   written: [0.0, {'__float__': 'Infinity'}]
#   from_pretrained: [0.0, inf]
#   for_model: StrictDataclassFieldValidationError
#   Mamba2Config: StrictDataclassFieldValidationError
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.23.0

cat > look.py <<'CODE'
import json
from pathlib import Path

from transformers import AutoConfig, Mamba2Config

config = Mamba2Config(hidden_size=32, num_heads=4, head_dim=16, num_hidden_layers=1)
config.save_pretrained("model")
content = json.loads(Path("model/config.json").read_text())
print("written:", content["time_step_limit"])
print("from_pretrained:", list(AutoConfig.from_pretrained("model").time_step_limit))
for name, build in (("for_model", AutoConfig.for_model), ("Mamba2Config", Mamba2Config)):
    given = {key: value for key, value in content.items() if name == "for_model" or key != "model_type"}
    try:
        print(f"{name}:", build(**given).time_step_limit)
    except Exception as error:
        print(f"{name}:", type(error).__name__)
CODE
venv/bin/python look.py 2>/dev/null | tee seen

diff seen - <<'SEEN'
written: [0.0, {'__float__': 'Infinity'}]
from_pretrained: [0.0, inf]
for_model: StrictDataclassFieldValidationError
Mamba2Config: StrictDataclassFieldValidationError
SEEN
echo "as seen"
