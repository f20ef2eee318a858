# SPDX-License-Identifier: Apache-2.0
"""make.py FOLDER: a tiny random Phi-3 by transformers 5.23.0 (torch 2.15.0), and what it predicts.

Made with: python make.py tests/data/phi3
"""
import json
import pathlib
import sys

import torch
import transformers

folder = pathlib.Path(sys.argv[1])
torch.manual_seed(3)
config = transformers.Phi3Config(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, sliding_window=9, pad_token_id=0, bos_token_id=1, eos_token_id=2)
model = transformers.AutoModelForCausalLM.from_config(config)
for name, parameter in model.named_parameters():
    torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("norm.weight") else 0.0, std=0.3)
model.to(torch.bfloat16).save_pretrained(folder)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)  # rope tables in f32 too
(folder / "generation_config.json").unlink()
ids = [(i * 7 + i * i // 3) % 64 for i in range(24)]
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0]
rows = [3, 23]  # before and behind the window
(folder / "logits.json").write_text(json.dumps(
    {"ids": ids, "rows": rows, "logits": [[round(x, 5) for x in logits[r].tolist()] for r in rows]}) + "\n")
