# SPDX-License-Identifier: Apache-2.0
"""whole_files.py BUILD QUANTIZE CONVERTED CHECKPOINT [IMATRIX]: whole GGUF files against llama.cpp's own tools.

  QUANTIZE   llama-quantize, or a program with its command line
  CONVERTED  what convert_hf_to_gguf makes of CHECKPOINT, with --outtype of the checkpoint's own type
  IMATRIX    imatrix.gguf, from calibrate.imatrix or llama-imatrix

For each file type quantize.gguf writes CHECKPOINT and QUANTIZE writes CONVERTED; tensors must be the same by name,
order, type, shape and bytes. What the converter guesses from the name of the folder is given to quantize.gguf as
'metadata'; other differences of the metadata are told, but are no failure. Not part of ./dev interop, since neither tool
is in a Python package.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

TYPES = ("F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ4_NL "
         "IQ4_XS TQ1_0 TQ2_0 MXFP4_MOE Q1_0 Q2_0 IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS IQ3_XS IQ3_S IQ3_M").split()
WEIGHTED = "Q2_K_S IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ2_M IQ3_XXS IQ3_XS".split()  # not without an importance matrix
ALIGNMENT = 32


def run(*words):
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def contents(build, file):
    shown = json.loads(run(build / "bin/fettle", "inspect", file, "--json"))
    sizes = [t["bytes"] for t in shown["tensors"]]
    padded = sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)
    return shown["tensors"], shown["metadata"], file.read_bytes()[-padded:]


def main():
    build, quantize, converted, checkpoint = (pathlib.Path(p).resolve() for p in sys.argv[1:5])
    imatrix = pathlib.Path(sys.argv[5]).resolve() if len(sys.argv) > 5 else None
    guessed = {key: value for key, value in contents(build, converted)[1].items()
               if key in ("general.name", "general.basename", "general.size_label", "general.finetune", "general.version")}
    passed, failed = 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for kind in TYPES:
            if kind in WEIGHTED and imatrix is None:
                continue
            step = {"plugin": "quantize_gguf", "technique": "quantize.gguf", "params": {"type": kind, "metadata": guessed},
                    "outputs": {"model": str(folder / kind)},
                    "inputs": [{"port": "model", "kind": "model", "path": str(checkpoint), "attributes": {"layout": "hf"}}]}
            if imatrix:
                step["inputs"].append({"port": "imatrix", "kind": "stats", "path": str(imatrix)})
            (folder / "step.json").write_text(json.dumps(step))
            run(build / "bin/interop_probe", "step", folder / "step.json")
            ours, theirs = folder / kind / "model.gguf", folder / "theirs.gguf"
            try:
                run(quantize, *(["--imatrix", imatrix] if imatrix else []), converted, theirs, kind, 2)
            except RuntimeError as refused:  # rows of a length for which it knows no other type
                print(f"refused by QUANTIZE: {kind}: {str(refused).splitlines()[0].split(': ', 1)[-1]}", flush=True)
                continue
            (tensors, metadata, data), (their_tensors, their_metadata, their_data) = (
                contents(build, f) for f in (ours, theirs))
            differing = [t["name"] for t, u in zip(tensors, their_tensors) if t != u]
            same = tensors == their_tensors and data == their_data
            whole = same and ours.read_bytes() == theirs.read_bytes()
            keys = sorted(k for k in metadata.keys() | their_metadata.keys()
                          if metadata.get(k) != their_metadata.get(k))
            passed, failed = passed + same, failed + (not same)
            print(f"{'ok    ' if same else 'FAILED'} {kind}: {len(tensors)} tensors, {len(data)} bytes"
                  f"{', whole file' if whole else f', keys {keys}'}{f'; tensors {differing}' if differing else ''}", flush=True)
            ours.unlink()
    print(f"whole files of {checkpoint.name}{' with an importance matrix' if imatrix else ''}: {passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
