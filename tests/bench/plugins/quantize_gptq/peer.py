# SPDX-License-Identifier: Apache-2.0
"""peer.py BENCH: GPTQ of one layer by us and by plain PyTorch, in turns, on two threads each, with the same Gram matrix.

The PyTorch program is written from the paper's algorithm, block 128, groups of 128 fitted as they are reached, everything
in f32 on whole columns: what the public implementations do on a CPU. Prints seconds of the best of three turns.
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

THREADS, BITS, GROUP, BLOCK = 2, 4, 128, 128
torch.set_num_threads(THREADS)


def by_torch(w, gram):
    w, h = w.clone(), gram.float().clone()
    h[range(len(h)), range(len(h))] += 0.01 * h.diagonal().mean()
    u = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    q, maxq, zero = torch.zeros_like(w), 2**BITS - 1, 2 ** (BITS - 1)
    for first in range(0, w.shape[1], BLOCK):
        last = min(first + BLOCK, w.shape[1])
        w1, u1 = w[:, first:last].clone(), u[first:last, first:last]
        errors = torch.zeros_like(w1)
        for i in range(last - first):
            if (first + i) % GROUP == 0:
                scale = (w[:, first + i:first + i + GROUP].abs().amax(1) * 2 / maxq).half().float()
            column = w1[:, i]
            value = scale * (torch.clamp(torch.round(column / scale) + zero, 0, maxq) - zero)
            q[:, first + i] = value
            error = (column - value) / u1[i, i]
            w1[:, i:] -= error.unsqueeze(1) @ u1[i, i:].unsqueeze(0)
            errors[:, i] = error
        w[:, last:] -= errors @ u[first:last, last:]
    return q


def loss(w, q, gram):
    d = (w - q).double()
    return float(((d @ gram) * d).sum())


def main():
    bench = sys.argv[1]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for rows, cols in ((2048, 2048), (8192, 2048)):
            generator = torch.Generator().manual_seed(1)
            w = torch.randn(rows, cols, generator=generator) * 0.02
            x = torch.randn(4 * cols, cols, generator=generator) + torch.randn(4 * cols, 1, generator=generator)
            x *= torch.rand(cols, generator=generator) * 3
            gram = (x.T @ x).double()
            (folder / "w.f32").write_bytes(w.numpy().tobytes())
            (folder / "h.f64").write_bytes(gram.numpy().tobytes())
            ours, theirs = [], []
            for _ in range(3):
                done = subprocess.run([bench, folder / "w.f32", folder / "h.f64", str(rows), str(cols), str(THREADS),
                                       folder / "q.f32"], check=True, capture_output=True, text=True)
                ours.append(json.loads(done.stdout))
                before = time.perf_counter()
                q = by_torch(w, gram)
                theirs.append(time.perf_counter() - before)
            mine = min(r["factor"] + r["sweep"] for r in ours)
            best = {key: min(r[key] for r in ours) for key in ours[0]}
            own = torch.from_numpy(np.fromfile(folder / "q.f32", np.float32).reshape(rows, cols))
            print(f"{rows} x {cols}: ours {mine:.2f} s (factor {best['factor']:.2f}, sweep {best['sweep']:.2f}, "
                  f"its products alone {best['products']:.2f}), PyTorch {min(theirs):.2f} s, {min(theirs) / mine:.1f} times; "
                  f"loss ours / PyTorch {loss(w, own, gram) / loss(w, q, gram):.3f}")


if __name__ == "__main__":
    main()
