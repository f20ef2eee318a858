# SPDX-License-Identifier: Apache-2.0
"""Test weights that Python and C++ make alike, bit for bit (tests/unit/kit/compress/weights.h is the same in C++)."""
import numpy as np

ROWS, COLS = 8, 512
DISTRIBUTIONS = ["normal", "heavy", "positive", "sparse", "scaled", "negative"]


def splitmix(seed, n):
    """n uniform doubles in [0, 1): the top 53 bits of splitmix64."""
    with np.errstate(over="ignore"):
        z = (np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(seed, n):
    """Nearly normal: twelve uniforms minus six, added in order."""
    u = splitmix(seed, 12 * n).reshape(n, 12)
    total = u[:, 0]
    for k in range(1, 12):
        total = total + u[:, k]
    return total - 6.0


def weights(distribution, rows=ROWS, cols=COLS):
    i = np.arange(rows * cols)
    v = normal(1 + DISTRIBUTIONS.index(distribution), rows * cols)
    if distribution == "heavy":
        v = v * v * v
    elif distribution == "positive":
        v = np.abs(v) + 0.25
    elif distribution == "sparse":  # zero runs of every length, one constant row piece, single outliers
        v = np.where((i // 32) % 3 == 0, 0.0, v)
        v = np.where((i // 256) % 5 == 4, 0.0, v)
        v = np.where((i // 32) % 11 == 5, 0.5, v)
        v = np.where(i % 97 == 0, v * 40.0, v)
    elif distribution == "scaled":  # powers of two from 2^-12 to 2^6, another every 64 columns
        v = v * np.exp2((i // 64 * 7 % 19 - 12).astype(np.float64))
    elif distribution == "negative":
        v = -np.abs(v)
    return (v * 0.02).astype(np.float32).reshape(rows, cols)


def importance(cols=COLS):
    v = splitmix(99, cols)
    v = v * v * 30.0
    i = np.arange(cols)
    v = np.where((i // 32) % 7 == 3, 0.0, v)  # columns that no token ever excited
    return v.astype(np.float32)


def fnv1a(data):
    h = 0xCBF29CE484222325
    for byte in bytes(data):
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"
