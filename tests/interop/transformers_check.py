# SPDX-License-Identifier: Apache-2.0
"""transformers_check.py BUILD SOURCE: checkpoints that we write, loaded by the real transformers: same logits as ours."""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import safetensors.torch
import torch
import transformers

import quantized

BUILD, SOURCE = (pathlib.Path(p).resolve() for p in sys.argv[1:3])
PROSE = SOURCE / "pipelines/data/prose-3m"
HELD = SOURCE / "pipelines/data/held-out.txt"
TOLERANCE = 1e-4  # of logits, relative to the largest: both sides sum in f32, in different orders
passed, failed = 0, 0
transformers.utils.logging.disable_progress_bar()


def check(name, ok, detail=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    print(f"{'ok    ' if ok else 'FAILED'} {name}{': ' + detail if detail else ''}", flush=True)


def probe(*words):
    done = subprocess.run([BUILD / "bin/interop_probe", *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"interop_probe {' '.join(map(str, words))}: {done.stderr.strip()}")
    return json.loads(done.stdout) if done.stdout.strip() else None


def step(folder, technique, inputs, params, output="model"):
    """Runs one technique; inputs: {port: (kind, path)}. Returns the folder of the output."""
    out = pathlib.Path(tempfile.mkdtemp(dir=folder)) / output
    out.parent.joinpath("step.json").write_text(json.dumps({
        "plugin": technique.replace(".", "_"), "technique": technique,
        "inputs": [{"port": port, "kind": kind, "path": str(path),
                    "attributes": {"layout": "hf"} if kind == "model" else {}}
                   for port, (kind, path) in inputs.items()],
        "params": params, "outputs": {output: str(out)}}))
    probe("step", out.parent / "step.json")
    return out


def tokens(folder, model, sequences=16, length=128):
    texts = pathlib.Path(tempfile.mkdtemp(dir=folder))
    texts.joinpath("held-out.txt").write_bytes(HELD.read_bytes())
    return step(folder, "data.tokens", {"text": ("text", texts), "tokenizer": ("model", model)},
                {"sequences": sequences, "length": length}, "tokens")


def logits_agree(name, model, ids=None, theirs=None):
    """Loads `model` as anyone would, in f32, unless it is given as `theirs`, and compares one sequence's logits with
    ours."""
    theirs = theirs or transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    theirs.eval()
    vocab = theirs.config.vocab_size
    ids = ids or [(7 * i + i * i // 3) % vocab for i in range(64)]
    listed = model.parent / "ids.json"
    listed.write_text(json.dumps(ids))
    raw = model.parent / "logits.f32"
    shape = probe("logits", model, listed, raw)
    ours = np.fromfile(raw, np.float32).reshape(shape)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    difference = np.abs(ours - expected).max() / np.abs(expected).max()
    check(f"logits of {name}", ours.shape == expected.shape and difference <= TOLERANCE, f"relative difference {difference:.1e}")
    return theirs


def pruned_checkpoints(folder):
    """Every unstructured pruner on a trained model, at a share and at 2:4; and the 2:4 layout of PyTorch."""
    model, calibration = ("model", PROSE), ("tokens", tokens(folder, PROSE))
    for name in ("magnitude", "wanda", "ria", "sparsegpt"):
        inputs = {"model": model} if name == "magnitude" else {"model": model, "calibration": calibration}
        logits_agree(f"prune.{name} at 60 %", step(folder, f"prune.{name}", inputs, {"share": 0.6}))
        sparse = step(folder, f"prune.{name}", inputs, {"pattern": "2:4"})
        theirs = logits_agree(f"prune.{name} at 2:4", sparse)
        groups = theirs.model.layers[0].mlp.down_proj.weight.detach().reshape(-1, 4)
        check(f"transformers sees two of every four weights of prune.{name}", bool(((groups != 0).sum(1) <= 2).all()))
    mask = step(folder, "prune.magnitude", {"model": model}, {"pattern": "2:4"}, "mask")
    logits_agree("prune.refit", step(folder, "prune.refit",
                                     {"model": model, "mask": ("mask", mask), "calibration": calibration}, {}))
    compressed_as_pytorch_has_it(folder, sparse)


def compressed_as_pytorch_has_it(folder, sparse):
    """The values and metadata of our file, expanded by PyTorch, are the weights; what it makes of them is our file."""
    from torch.sparse._semi_structured_conversions import (
        sparse_semi_structured_from_dense_cutlass, sparse_semi_structured_to_dense_cutlass)
    packed = step(folder, "io.convert", {"model": ("model", sparse)}, {"to": "bf16", "compress": "2:4"})
    ours = safetensors.torch.load_file(packed / "model.safetensors")
    dense = safetensors.torch.load_file(sparse / "model.safetensors")
    names = [name for name in dense if name + "_values" in ours]
    there = back = len(names) == 4 * 7
    for name in names:
        values, meta = ours[name + "_values"], ours[name + "_meta"]
        there = there and bool((sparse_semi_structured_to_dense_cutlass(values, meta) == dense[name]).all())
        theirs = sparse_semi_structured_from_dense_cutlass(dense[name])
        back = back and torch.equal(theirs[0], values) and torch.equal(theirs[1], meta)
    check("PyTorch expands our compressed 2:4 file to the weights", there)
    check("PyTorch compresses the weights to our file", back)


def narrower_and_shallower(folder):
    """prune.width and prune.depth on a trained model: the files of the checkpoint come along, the sizes are real."""
    model = ("model", PROSE)
    calibration = ("tokens", tokens(folder, PROSE))
    scores = step(folder, "calibrate.importance", {"model": model, "calibration": calibration}, {}, "importance")
    importance = ("stats", scores)
    narrow = step(folder, "prune.width", {"model": model, "importance": importance},
                  {"ffn_size": 512, "hidden_size": 192, "head_count": 2})
    theirs = logits_agree("prune.width", narrow)
    check("transformers sees the cut sizes", (theirs.config.hidden_size, theirs.config.intermediate_size,
                                              theirs.config.num_attention_heads, theirs.config.head_dim) == (192, 512, 2, 64))
    text = "The captain looked at the sea."
    tokenizers = [transformers.AutoTokenizer.from_pretrained(path) for path in (PROSE, narrow)]
    check("the tokenizer comes along", tokenizers[0](text).input_ids == tokenizers[1](text).input_ids)
    shallow = step(folder, "prune.depth", {"model": model, "importance": importance}, {"layer_count": 3})
    theirs = logits_agree("prune.depth", shallow)
    check("transformers sees the blocks left", len(theirs.model.layers) == 3)


def random_tokens(folder, vocabulary, sequences=24, length=64):
    """Calibration text for a model without a tokenizer."""
    out = pathlib.Path(tempfile.mkdtemp(dir=folder))
    ids = torch.randint(0, vocabulary, (sequences, length), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    safetensors.torch.save_file({"ids": ids}, out / "tokens.safetensors",
                                {"tokenizer": "sha256:" + "0" * 64, "bos": "false"})
    return out


def every_family(folder):
    """Random models that transformers itself writes, cut along every axis: biases, norms of q and k, norms on both
    sides, scaled embeddings, windows of attention whose rhythm the removed block breaks."""
    sizes = dict(vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=16, max_position_embeddings=128)
    families = {
        "llama": (transformers.LlamaConfig, dict(attention_bias=True, mlp_bias=True)),
        "mistral": (transformers.MistralConfig, dict(sliding_window=16)),
        "qwen2": (transformers.Qwen2Config, dict(use_sliding_window=True, sliding_window=16, max_window_layers=2)),
        "qwen3": (transformers.Qwen3Config, dict(attention_bias=True)),
        "phi3": (transformers.Phi3Config, dict(sliding_window=16, pad_token_id=0, eos_token_id=2)),
        "gemma2": (transformers.Gemma2Config, dict(sliding_window=16)),
        "gemma3": (transformers.Gemma3TextConfig, dict(sliding_window=16)),
    }
    for name, (config, more) in families.items():
        torch.manual_seed(1)
        dense = pathlib.Path(tempfile.mkdtemp(dir=folder)) / "model"
        model = transformers.AutoModelForCausalLM.from_config(config(**sizes, **more))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(dense)
        cut = {"ffn_size": 96, "hidden_size": 48, "kv_head_count": 1, "head_count": 1, "score": "weight"}
        logits_agree(f"{name} after prune.width", step(folder, "prune.width", {"model": ("model", dense)}, cut))
        logits_agree(f"{name} after prune.depth",
                     step(folder, "prune.depth", {"model": ("model", dense)}, {"remove": [1]}))
        inputs = {"model": ("model", dense)}
        logits_agree(f"{name} after prune.magnitude", step(folder, "prune.magnitude", inputs, {"share": 0.5}))
        inputs["calibration"] = ("tokens", random_tokens(folder, sizes["vocab_size"]))
        logits_agree(f"{name} after prune.wanda", step(folder, "prune.wanda", inputs, {"share": 0.5}))
        logits_agree(f"{name} after prune.sparsegpt", step(folder, "prune.sparsegpt", inputs, {"pattern": "2:4"}))


def from_gguf(folder):
    """A Phi-3 with LongRoPE and mixtures of experts that became GGUF files and checkpoints again: what transformers computes
    is what it did."""
    dense = pathlib.Path(tempfile.mkdtemp(dir=folder)) / "model"
    torch.manual_seed(2)
    model = transformers.AutoModelForCausalLM.from_config(transformers.Phi3Config(
        vocab_size=1024, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, original_max_position_embeddings=64, sliding_window=16,
        pad_token_id=0, bos_token_id=0, eos_token_id=1, rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1 + i / 8 for i in range(8)],
            "long_factor": [2 + i for i in range(8)]}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(dense)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(PROSE / name, dense)
    gguf = step(folder, "quantize.gguf", {"model": ("model", dense)}, {"type": "F32"})
    back = step(folder, "io.convert", {"model": ("model", gguf)}, {"to": "f32"})
    logits_agree("phi3 as GGUF and back", back, theirs=model)
    again = logits_agree("phi3 as GGUF and back, loaded", back)
    ids = torch.arange(100)[None] % 1024  # beyond the original context
    with torch.no_grad():
        same = torch.equal(model(ids).logits, again(ids).logits)
    check("phi3 as GGUF and back computes the same beyond its original context", same)
    sizes = dict(vocab_size=1024, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=16, num_experts_per_tok=2, bos_token_id=0, eos_token_id=1)
    for name, config in (("mixtral", transformers.MixtralConfig(**sizes, num_local_experts=4)),
                         ("qwen3_moe", transformers.Qwen3MoeConfig(**sizes, num_experts=4, moe_intermediate_size=64,
                                                                   norm_topk_prob=True))):
        dense = pathlib.Path(tempfile.mkdtemp(dir=folder)) / "model"
        model = transformers.AutoModelForCausalLM.from_config(config)
        model.save_pretrained(dense)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(PROSE / file, dense)
        gguf = step(folder, "quantize.gguf", {"model": ("model", dense)}, {"type": "F32"})
        back = step(folder, "io.convert", {"model": ("model", gguf)}, {"to": "f32"})
        again = transformers.AutoModelForCausalLM.from_pretrained(back, dtype=torch.float32)
        with torch.no_grad():
            same = torch.equal(model(ids).logits, again(ids).logits)
        check(f"{name} as GGUF and back computes the same", same)


def main():
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        folder = pathlib.Path(name)
        pruned_checkpoints(folder)
        narrower_and_shallower(folder)
        every_family(folder)
        from_gguf(folder)
        quantized.check_all(sys.modules[__name__], folder)
    print(f"interop with transformers {transformers.__version__}: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
