#!/usr/bin/env bash
# transformers 5.23.0, gguf 0.19.0, torch 2.13.0, Python 3.11
#
# A Llama in a GGUF file may say that its attention slides over a window, scale its rotary frequencies and have a bias
# on its queries: llama.cpp computes with all three. from_pretrained(gguf_file=…) drops them: it reports no missing and
# no unexpected key, warns of nothing, and the logits are those of the file without them, to the bit.
#
# Output seen:
#   missing keys: 0, unexpected keys: 0
#   sliding window of the configuration: None
#   largest difference of a logit from the file that says none of it: 0.0
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check \
  torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0 numpy==2.4.6

cat > look.py <<'CODE'
import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM

WIDTH, HEADS, INNER, WORDS = 32, 4, 64, 40


def write(path, says):
    numbers = np.random.default_rng(0)

    def drawn(*shape):
        return (numbers.standard_normal(shape) * 0.2).astype(np.float32)

    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(64)
    file.add_embedding_length(WIDTH)
    file.add_block_count(1)
    file.add_feed_forward_length(INNER)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_freq_base(10000.0)
    file.add_vocab_size(WORDS)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("default")
    file.add_token_list([f"w{number}" for number in range(WORDS)])
    file.add_token_types([1] * WORDS)
    file.add_token_merges(["w 0"])
    file.add_bos_token_id(0)
    file.add_eos_token_id(1)
    file.add_tensor("token_embd.weight", drawn(WORDS, WIDTH))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        file.add_tensor(f"blk.0.{name}.weight", drawn(WIDTH, WIDTH))
    for name, shape in (("gate", (INNER, WIDTH)), ("up", (INNER, WIDTH)), ("down", (WIDTH, INNER))):
        file.add_tensor(f"blk.0.ffn_{name}.weight", drawn(*shape))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        file.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    file.add_tensor("output.weight", drawn(WORDS, WIDTH))
    if says:
        file.add_sliding_window(4)
        file.add_tensor("rope_freqs.weight", np.linspace(1, 8, WIDTH // HEADS // 2).astype(np.float32))
        file.add_tensor("blk.0.attn_q.bias", np.ones(WIDTH, np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def load(path):
    model, report = AutoModelForCausalLM.from_pretrained(".", gguf_file=path, output_loading_info=True)
    with torch.no_grad():
        return model.config, report, model(torch.arange(32)[None]).logits


write("plain.gguf", says=False)
write("more.gguf", says=True)
config, report, logits = load("more.gguf")
print(f"missing keys: {len(report['missing_keys'])}, unexpected keys: {len(report['unexpected_keys'])}")
print(f"sliding window of the configuration: {getattr(config, 'sliding_window', None)}")
difference = (logits - load("plain.gguf")[2]).abs().max().item()
print(f"largest difference of a logit from the file that says none of it: {difference}")
CODE

venv/bin/python look.py 2> warnings.txt | tee seen.txt
grep -iE "unused|unexpected|not used|ignored|dropped" warnings.txt && { echo "changed: it warns now"; exit 1; }
diff seen.txt - <<'SEEN' || { echo "changed"; exit 1; }
missing keys: 0, unexpected keys: 0
sliding window of the configuration: None
largest difference of a logit from the file that says none of it: 0.0
SEEN
