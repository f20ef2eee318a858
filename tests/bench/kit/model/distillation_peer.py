# SPDX-License-Identifier: Apache-2.0
"""The pair of distillation_bench.cpp in PyTorch, as one would write it: teacher under no_grad, KL over whole logits, AdamW; in
f32 and under bf16 autocast. usage: distillation_peer.py [threads [steps]]; needs torch. Prints CPU seconds of a step."""
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

threads = int(sys.argv[1]) if len(sys.argv) > 1 else 2
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 5
torch.set_num_threads(threads)
torch.manual_seed(1)
D, L, KV, HEAD, V, B, T = 512, 8, 4, 64, 8192, 4, 256
frequencies = 1.0 / (10000 ** (torch.arange(0, HEAD, 2).float() / HEAD))
angles = torch.outer(torch.arange(T).float(), frequencies)
cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)


def rope(x):
    return x * cos + torch.cat([-x[..., HEAD // 2:], x[..., :HEAD // 2]], -1) * sin


class Block(nn.Module):
    def __init__(self, heads, ffn):
        super().__init__()
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.heads = heads
        self.n1, self.n2 = nn.RMSNorm(D, 1e-5), nn.RMSNorm(D, 1e-5)
        self.q, self.k, self.v = linear(D, heads * HEAD), linear(D, KV * HEAD), linear(D, KV * HEAD)
        self.o = linear(heads * HEAD, D)
        self.gate, self.up, self.down = linear(D, ffn), linear(D, ffn), linear(ffn, D)

    def forward(self, x):
        y = self.n1(x)
        q, k, v = (p(y).view(B, T, -1, HEAD).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = rope(q).to(v.dtype), rope(k).to(v.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != KV)
        x = x + self.o(mixed.transpose(1, 2).reshape(B, T, -1))
        y = self.n2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self, heads, ffn):
        super().__init__()
        self.embed, self.blocks = nn.Embedding(V, D), nn.ModuleList([Block(heads, ffn) for _ in range(L)])
        self.norm, self.head = nn.RMSNorm(D, 1e-5), nn.Linear(D, V, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


teacher, student = Llama(8, 1536).requires_grad_(False), Llama(4, 672)
optimizer = torch.optim.AdamW(student.parameters(), 1e-5, fused=True)
ids = torch.randint(0, V, (B, T))


def step(bf16):
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast('cpu', torch.bfloat16, enabled=bf16):
        with torch.no_grad():
            said = teacher(ids)
        logits = student(ids)
    p, q = (F.log_softmax(z.float().view(-1, V), -1) for z in (said, logits))
    F.kl_div(q, p, log_target=True, reduction='batchmean').backward()
    optimizer.step()


print(f'torch {torch.__version__}, {threads} threads')
for name, bf16 in (('f32', False), ('bf16', True)):
    step(bf16)
    wall, cpu = [], []
    for _ in range(steps):
        w, c = time.perf_counter(), time.process_time()
        step(bf16)
        wall.append(time.perf_counter() - w)
        cpu.append(time.process_time() - c)
    print(f'{name:5} distillation best of {steps}: CPU {min(cpu):6.3f} s, {B * T / min(cpu):5.0f} tokens/s; wall {min(wall):6.3f} s', flush=True)
