# SPDX-License-Identifier: Apache-2.0
"""make_family.py FAMILY FOLDER: a tiny random model of a family by transformers, and what it computes.

Made with transformers 5.23.0, torch 2.15.0:
  python make_family.py phi3 tests/data/phi3
  python make_family.py gemma2 tests/data/gemma2

model.safetensors is in bf16; the rest is of those weights in f32, on the CPU, eager attention. golden.safetensors:
  input_ids [2, 24]             longer than the window
  hidden.0 ... hidden.N         what goes into block 0 ... what comes out of the last block; hidden.final: normed
  logits, loss [1]              loss: mean over the 2 x 23 next tokens
  grad.NAME                     of that loss; of a fused tensor in parts, under the names of families that store them apart
"""
import pathlib
import sys

import torch
import transformers
from safetensors.torch import save_file

FAMILIES = {
    "phi3": (transformers.Phi3Config, dict(num_key_value_heads=2, sliding_window=9)),
    "gemma2": (transformers.Gemma2Config, dict(
        num_key_value_heads=2, head_dim=12, sliding_window=9, query_pre_attn_scalar=10, attn_logit_softcapping=3.0,
        final_logit_softcapping=5.0)),
}


def parts(name, gradient, config):
    """A gradient of a fused tensor as those of its parts."""
    heads, kv = config.num_attention_heads, config.num_key_value_heads
    width = config.hidden_size // heads
    if name.endswith("qkv_proj.weight"):
        pieces = gradient.split([heads * width, kv * width, kv * width])
        return {name.replace("qkv_proj", part): piece for part, piece in zip(("q_proj", "k_proj", "v_proj"), pieces)}
    if name.endswith("gate_up_proj.weight"):
        return {name.replace("gate_up_proj", part): piece
                for part, piece in zip(("gate_proj", "up_proj"), gradient.chunk(2))}
    return {name: gradient}


family, folder = sys.argv[1], pathlib.Path(sys.argv[2])
kind, keys = FAMILIES[family]
torch.manual_seed(3)
config = kind(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
              max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, **keys)
model = transformers.AutoModelForCausalLM.from_config(config)
for name, parameter in model.named_parameters():
    mean = 1.0 if name.endswith("norm.weight") and not family.startswith("gemma") else 0.0  # gemma stores w of 1 + w
    torch.nn.init.normal_(parameter, mean=mean, std=0.3)
model.to(torch.bfloat16).save_pretrained(folder)
(folder / "generation_config.json").unlink()
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
ids = torch.tensor([[1] + [(i * 7 + i * i // (3 + row)) % 64 for i in range(1, 24)] for row in range(2)])

golden = {"input_ids": ids}
layers = model.model.layers
layers[0].register_forward_pre_hook(lambda _, args: golden.update({"hidden.0": args[0].detach().clone()}))
for i, layer in enumerate(layers):
    layer.register_forward_hook(lambda _, args, out, i=i: golden.update(
        {f"hidden.{i + 1}": (out[0] if isinstance(out, tuple) else out).detach().clone()}))
model.model.norm.register_forward_hook(lambda _, args, out: golden.update({"hidden.final": out.detach().clone()}))
logits = model(ids, use_cache=False).logits
loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 64), ids[:, 1:].reshape(-1))
loss.backward()
golden |= {"logits": logits.detach(), "loss": loss.detach().reshape(1)}
for name, parameter in model.named_parameters():
    golden |= {f"grad.{part}": g.clone() for part, g in parts(name, parameter.grad, config).items()}
save_file({name: tensor.contiguous() for name, tensor in golden.items()}, folder / "golden.safetensors")
