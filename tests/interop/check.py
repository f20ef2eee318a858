# SPDX-License-Identifier: Apache-2.0
"""check.py BUILD SOURCE: our GGUF files in the real llama.cpp, our blocks against the real ggml."""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np

from llama import Llama

BUILD, SOURCE = (pathlib.Path(p).resolve() for p in sys.argv[1:3])
SHARED = SOURCE.parent / "shared"
PROSE = SOURCE / "pipelines/data/prose-3m"
HELD = SOURCE / "pipelines/data/held-out.txt"
passed, failed, skipped = 0, 0, 0


def check(name, ok, detail=""):
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    print(f"{'ok    ' if ok else 'FAILED'} {name}{': ' + detail if detail else ''}", flush=True)


def probe(*words):
    done = subprocess.run([BUILD / "bin/interop_probe", *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"interop_probe {' '.join(map(str, words))}: {done.stderr.strip()}")
    return json.loads(done.stdout) if done.stdout.strip() else None


def nll(logits, targets):
    logits = logits.astype(np.float64)
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
    return float((log_sum - logits[np.arange(len(targets)), targets]).sum())


def their_perplexity(file, windows):
    total, count = 0.0, 0
    with Llama(file) as llama:
        for ids in windows:
            total += nll(llama.logits(ids)[:-1], ids[1:])
            count += len(ids) - 1
    return np.exp(total / count)


def agrees(name, mine, theirs, tolerance):
    check(name, abs(mine / theirs - 1) < tolerance, f"ours {mine:.4f}, llama.cpp {theirs:.4f}, {100 * (mine / theirs - 1):+.4f} %")


def perplexity_agrees(folder, checkpoint, held, kind, imatrix=None):
    """Our perplexity of the file is llama.cpp's: to 0.01 % where it has the weights as floats. Where it multiplies blocks it
    rounds the inputs of each product to 8 bits, which we do not: 0.1 % with four bits and more, 0.5 % with less."""
    file = folder / f"{checkpoint.name}-{kind}.gguf"
    if imatrix is None:
        probe("quantize", checkpoint, kind, file)
    else:
        made = step(folder, f"weighted-{kind}", "quantize.gguf", [MODEL, ("imatrix", "stats", imatrix, {})],
                    {"type": kind}, "model")
        (made / "model.gguf").rename(file)
    ours = probe("nll", file, held, 256, 0)
    mine = np.exp(ours["nll"])
    plain, low = kind in ("F32", "F16", "BF16"), kind.startswith("IQ")
    agrees(f"perplexity of {file.name}", mine, their_perplexity(file, ours["windows"]), 0.0001 if plain else 0.005 if low else 0.001)
    if not plain:
        back = step(folder, f"{checkpoint.name}-{kind}", "io.convert", [("model", "model", file, {})], {"to": "f32"}, "model")
        floats = folder / f"{checkpoint.name}-{kind}-F32.gguf"
        probe("quantize", back, "F32", floats)
        agrees(f"perplexity of {file.name}'s weights as F32", mine, their_perplexity(floats, ours["windows"]), 0.0001)


def step(folder, name, technique, inputs, params, port):
    """What one technique makes of its inputs [port, kind, path, attributes]; returns the path of its output."""
    out = folder / name
    description = folder / f"{name}.json"
    description.write_text(json.dumps({
        "plugin": technique.replace(".", "_"), "technique": technique, "params": params, "outputs": {port: str(out)},
        "inputs": [{"port": port, "kind": kind, "path": str(path), "attributes": attributes}
                   for port, kind, path, attributes in inputs]}))
    probe("step", description)
    return out


MODEL = ("model", "model", PROSE, {"layout": "hf"})


def pruned(folder, name, technique, params):
    """The checkpoint after one technique that needs the model alone."""
    return step(folder, name, technique, [MODEL], params, "model")


def importance(folder):
    """The importance matrix of the checkpoint, from our own pass over text."""
    text = ("text", "text", HELD, {})
    tokens = step(folder, "calibration", "data.tokens", [text, ("tokenizer", "model", PROSE, {"layout": "hf"})],
                  {"length": 256}, "tokens")
    return step(folder, "imatrix", "calibrate.imatrix", [MODEL, ("data", "tokens", tokens, {})], {}, "imatrix")


def tensors_of(checkpoint):
    """By name: dtype, shape, bytes."""
    data = (checkpoint / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    return {n: (t["dtype"], t["shape"], data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]])
            for n, t in header.items() if n != "__metadata__"}


def write_like(out, tensors, keys):
    """The trained model's folder with other tensors, and with these keys in its config."""
    shutil.copytree(PROSE, out, ignore=lambda *_: ("model.safetensors", "config.json"))
    entries, at = {}, 0
    for name, (dtype, shape, content) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(content)]}
        at += len(content)
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    (out / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(t[2] for t in tensors.values()))
    (out / "config.json").write_text(json.dumps(json.loads((PROSE / "config.json").read_text()) | keys))
    return out


def as_phi3(folder, name, keys):
    """The trained model as a Phi-3 with these keys in its config: the same weights, q, k and v in one tensor, gate and up."""
    tensors = tensors_of(PROSE)
    for whole, parts in (("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
                         ("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj"))):
        for first in [n for n in tensors if parts[0] in n]:
            pieces = [tensors.pop(first.replace(parts[0], part)) for part in parts]
            tensors[first.replace(parts[0], whole)] = (pieces[0][0], [sum(p[1][0] for p in pieces), pieces[0][1][1]],
                                                       b"".join(p[2] for p in pieces))
    return write_like(folder / name, tensors, {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]} | keys)


def as_mixture(folder, name, dense, keys, module, matrices, count=4):
    """A mixture of experts that computes what the dense checkpoint does: each expert is its MLP, neurons in another order,
    and the weights of those in use sum to 1. An expert with a matrix of another one would compute something else."""
    tensors = tensors_of(dense)
    random = np.random.default_rng(1)
    for gate in [n for n in tensors if n.endswith("mlp.gate_proj.weight")]:
        prefix = gate.removesuffix("mlp.gate_proj.weight")
        parts = [tensors.pop(f"{prefix}mlp.{part}_proj.weight") for part in ("gate", "up", "down")]
        gate, up, down = (np.frombuffer(content, np.uint16).reshape(shape) for _, shape, content in parts)
        router = (random.standard_normal((count, gate.shape[1])).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        tensors[f"{prefix}{module}.gate.weight"] = ("BF16", list(router.shape), router.tobytes())
        for expert in range(count):
            order = random.permutation(gate.shape[0])
            for matrix, value in zip(matrices, (gate[order], up[order], down[:, order])):
                tensors[f"{prefix}{module}.experts.{expert}.{matrix}.weight"] = ("BF16", list(value.shape), value.tobytes())
    return write_like(folder / name, tensors, keys)


def mixtures(folder):
    """Mixtral and Qwen3's mixture of experts, which we write but do not compute: llama.cpp computes what we do of the dense
    checkpoint."""
    mixtral = as_mixture(folder, "mixtral", PROSE, {
        "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2},
        "block_sparse_moe", ("w1", "w3", "w2"))
    keys = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    one = np.full(64, 0x3f80, np.uint16).tobytes()
    norms = {n.replace("q_proj", norm): ("BF16", [64], one)
             for n in tensors_of(PROSE) if "q_proj" in n for norm in ("q_norm", "k_norm")}
    qwen3 = write_like(folder / "qwen3", tensors_of(PROSE) | norms, keys)
    qwen3_moe = as_mixture(folder, "qwen3_moe", qwen3, {
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 768, "norm_topk_prob": True}, "mlp", ("gate_proj", "up_proj", "down_proj"))
    for mixture, dense in ((mixtral, PROSE), (qwen3_moe, qwen3)):
        file = folder / f"{mixture.name}.gguf"
        probe("quantize", mixture, "F32", file)
        ours = probe("nll", dense, HELD, 256, 0)
        agrees(f"perplexity of {mixture.name}, its experts the MLP of a dense model", np.exp(ours["nll"]),
               their_perplexity(file, ours["windows"]), 0.0001)


def phi3(folder):
    """Architecture phi3: its fused tensors, and LongRoPE on both sides of the original context."""
    pairs = json.loads((PROSE / "config.json").read_text())["head_dim"] // 2
    short, long = [1 + i / pairs for i in range(pairs)], [1 + i / 4 for i in range(pairs)]
    plain = as_phi3(folder, "phi3", {})
    for kind in ("F32", "Q4_K_M"):
        perplexity_agrees(folder, plain, HELD, kind)
    agrees("perplexity of prose-3m as a Phi-3", np.exp(probe("nll", plain, HELD, 256, 0)["nll"]),
           np.exp(probe("nll", PROSE, HELD, 256, 0)["nll"]), 1e-9)
    rope = {"type": "longrope", "short_factor": short, "long_factor": long}
    within = as_phi3(folder, "phi3-short", {"max_position_embeddings": 2048, "original_max_position_embeddings": 512,
                                            "rope_scaling": rope})
    perplexity_agrees(folder, within, HELD, "F32")
    # llama.cpp takes the long factors for a context of 512 beyond 256. We compute those of the original context alone: so
    # here they stand as the short ones of the other side.
    beyond = as_phi3(folder, "phi3-long", {"max_position_embeddings": 1024, "original_max_position_embeddings": 256,
                                           "rope_scaling": rope})
    ours = as_phi3(folder, "phi3-swapped", {
        "max_position_embeddings": 1024, "original_max_position_embeddings": 256,
        "rope_scaling": rope | {"short_factor": long, "long_factor": short}})
    file = folder / "phi3-long.gguf"
    probe("quantize", beyond, "F32", file)
    mine = probe("nll", ours, HELD, 256, 0)
    agrees("perplexity of LongRoPE beyond the original context", np.exp(mine["nll"]), their_perplexity(file, mine["windows"]),
           0.0001)


def generates(folder, checkpoint):
    """Greedy continuation is words of the vocabulary, and its logits are finite."""
    with Llama(folder / f"{checkpoint.name}-Q8_0.gguf") as llama:
        ids = [0] + llama.tokenize("It was a cold evening in November when")
        for _ in range(16):
            logits = llama.logits(ids)[-1]
            assert np.isfinite(logits).all()
            ids.append(int(logits.argmax()))
    check("llama.cpp generates from our file", len(set(ids[-16:])) > 4, str(ids[-16:]))


def tokenizes_alike(folder, checkpoint, texts):
    file = folder / f"{checkpoint.name}-vocab.gguf"
    probe("quantize", checkpoint, "Q8_0", file)
    listed = folder / "texts.json"
    listed.write_text(json.dumps(texts))
    from_checkpoint, from_file = probe("tokenize", checkpoint, listed), probe("tokenize", file, listed)
    check(f"our tokenizer from {file.name} equals tokenizer.json's", from_checkpoint == from_file)
    with Llama(file) as llama:
        wrong = [(t, ids, theirs) for t, ids in zip(texts, from_file) if (theirs := llama.tokenize(t)) != ids]
    detail = f"{len(texts) - len(wrong)} of {len(texts)} texts" + (f"; first difference {wrong[0]!r}" if wrong else "")
    check(f"llama.cpp tokenizes with {file.name} as we do", not wrong, detail)


def goldens_are_ggmls(folder):
    """The stored digests are what this version of the real library produces."""
    data = SOURCE / "tests/data/gguf"
    for name in ("weights.py", "make_goldens.py"):
        (folder / name).write_bytes((data / name).read_bytes())
    subprocess.run([sys.executable, folder / "make_goldens.py"], check=True)
    check("golden blocks equal ggml's", (folder / "goldens.txt").read_text() == (data / "goldens.txt").read_text())


def texts():
    stored = SHARED / "goldens/tokenizers/prose-1k.json"
    plain = HELD.read_text(encoding="utf-8").split("\n\n")[:100]
    if not stored.exists():
        return plain
    return plain + [case["text"] for case in json.loads(stored.read_text(encoding="utf-8"))]


def main():
    global skipped
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        folder = pathlib.Path(name)
        goldens_are_ggmls(folder)
        for kind in ("F32", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ3_S"):
            perplexity_agrees(folder, PROSE, HELD, kind)
        imatrix = importance(folder)
        for kind in ("IQ3_XXS", "IQ2_M", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"):
            perplexity_agrees(folder, PROSE, HELD, kind, imatrix)
        phi3(folder)
        mixtures(folder)
        narrow = {"ffn_size": 512, "hidden_size": 192, "head_count": 2, "score": "weight"}
        perplexity_agrees(folder, pruned(folder, "narrow", "prune.width", narrow), HELD, "Q8_0")
        perplexity_agrees(folder, pruned(folder, "shallow", "prune.depth", {"remove": [1]}), HELD, "Q8_0")
        generates(folder, PROSE)
        tokenizes_alike(folder, PROSE, texts())
        for other in ("prose-34m", "stories260K"):
            if (SHARED / "models" / other).exists():
                tokenizes_alike(folder, SHARED / "models" / other, texts())
            else:
                skipped += 1
    print(f"interop: {passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
