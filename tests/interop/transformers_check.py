# SPDX-License-Identifier: Apache-2.0
"""transformers_check.py BUILD SOURCE: checkpoints that we write, loaded by the real transformers: same logits as ours."""
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers

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


def logits_agree(name, model, ids=None):
    """Loads `model` as anyone would, in f32, and compares one sequence's logits with ours."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
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
    sparse = step(folder, "prune.magnitude", {"model": ("model", PROSE)}, {"pattern": "2:4"})
    model = logits_agree("prune.magnitude at 2:4", sparse)
    groups = model.model.layers[0].mlp.down_proj.weight.detach().reshape(-1, 4)
    check("transformers sees two of every four weights", bool(((groups != 0).sum(1) <= 2).all()))


def main():
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        folder = pathlib.Path(name)
        pruned_checkpoints(folder)
    print(f"interop with transformers {transformers.__version__}: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
