# SPDX-License-Identifier: Apache-2.0
"""The model of training_bench.cpp in PyTorch: a full AdamW step in f32 and under bf16 autocast.
usage: training_peer.py [threads [steps [--eager]]]; needs torch. --eager: attention and AdamW as written out, not PyTorch's
fused ones. Prints what training_bench prints."""
import math
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 5
eager = '--eager' in sys.argv
torch.set_num_threads(threads)
torch.manual_seed(1)
D, L, H, FFN, V, B, T = 512, 8, 8, 1376, 32000, 4, 256
HEAD = D // H
frequencies = 1.0 / (10000 ** (torch.arange(0, HEAD, 2).float() / HEAD))
angles = torch.outer(torch.arange(T).float(), frequencies)
cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)


def rope(x):
    return x * cos + torch.cat([-x[..., HEAD // 2:], x[..., :HEAD // 2]], -1) * sin


mask = torch.full((T, T), float('-inf')).triu(1)


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
        q, k = rope(q).to(v.dtype), rope(k).to(v.dtype)
        if eager:
            weights = F.softmax(q @ k.transpose(-1, -2) / math.sqrt(HEAD) + mask, -1)
            mixed = weights.to(v.dtype) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
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
optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=not eager)
ids, labels = torch.randint(0, V, (B, T)), torch.randint(0, V, (B, T))


def step(bf16):
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
        logits = model(ids)
    F.cross_entropy(logits.float().view(-1, V), labels.view(-1)).backward()
    optimizer.step()


print(f'torch {torch.__version__}, {threads} threads')
for name, bf16 in (('train f32', False), ('train bf16', True)):
    step(bf16)
    wall, cpu = [], []
    for _ in range(steps):
        w, c = time.perf_counter(), time.process_time()
        step(bf16)
        wall.append(time.perf_counter() - w)
        cpu.append(time.process_time() - c)
    print(f'{name:26} best of {steps}: {min(wall) * 1e3:6.0f} ms, {B * T / min(wall):6.0f} tokens/s; CPU {min(cpu):6.3f} s, '
          f'{B * T * threads / min(cpu):6.0f} tokens/s if all cores were ours', flush=True)
