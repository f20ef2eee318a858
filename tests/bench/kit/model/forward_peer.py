# SPDX-License-Identifier: Apache-2.0
"""The scoring of forward_bench.cpp in PyTorch, without gradients, in f32 and in bf16 (weights and activations).
usage: forward_peer.py [threads [repeats]]; needs torch. Prints what forward_bench prints."""
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 5
torch.set_num_threads(threads)
torch.manual_seed(1)
D, L, H, FFN, V, B, T = 512, 8, 8, 1376, 32000, 4, 256
HEAD = D // H
frequencies = 1.0 / (10000 ** (torch.arange(0, HEAD, 2).float() / HEAD))
angles = torch.outer(torch.arange(T).float(), frequencies)
cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)


def rope(x):
    return (x * cos + torch.cat([-x[..., HEAD // 2:], x[..., :HEAD // 2]], -1) * sin).to(x.dtype)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.n1, self.n2 = nn.RMSNorm(D, 1e-5), nn.RMSNorm(D, 1e-5)
        self.q, self.k, self.v, self.o = (linear(D, D) for _ in range(4))
        self.gate, self.up, self.down = linear(D, FFN), linear(D, FFN), linear(FFN, D)

    def forward(self, x):
        y = self.n1(x)
        q, k, v = (p(y).view(B, T, H, HEAD).transpose(1, 2) for p in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(rope(q), rope(k), v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(B, T, D))
        y = self.n2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.blocks = nn.Embedding(V, D), nn.ModuleList([Block() for _ in range(L)])
        self.norm, self.head = nn.RMSNorm(D, 1e-5), nn.Linear(D, V, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


model = Llama()
ids = torch.randint(0, V, (B, T))
print(f'torch {torch.__version__}, {threads} threads')
for name, dtype in (('score f32', torch.float32), ('score bf16', torch.bfloat16)):
    model.to(dtype)
    wall, cpu = [], []
    for _ in range(repeats + 1):
        w, c = time.perf_counter(), time.process_time()
        with torch.no_grad():
            logits = model(ids)[:, :-1].float()
            nll = F.cross_entropy(logits.reshape(-1, V), ids[:, 1:].reshape(-1))
        wall.append(time.perf_counter() - w)
        cpu.append(time.process_time() - c)
    print(f'{name:13} best of {repeats}: {min(wall) * 1e3:6.0f} ms, {B * T / min(wall):7.0f} tokens/s; CPU {min(cpu):6.3f} s, '
          f'{B * T * threads / min(cpu):7.0f} tokens/s if all cores were ours; nll {nll.item():.4f}', flush=True)
