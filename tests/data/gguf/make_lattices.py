# SPDX-License-Identifier: Apache-2.0
"""Writes sdk/fettle_kit/tensor/lattice_points.cpp: the points that IQ1, IQ2 and IQ3 blocks index, as the real ggml reads
them.

    pip install numpy==2.4.6 libggml-python==0.20.2.post1 && python make_lattices.py

Each lattice is probed through the library's dequantizer: blocks of scale 1 that hold every index once, with all signs
positive. The values tell the levels of a point: level 0 is the smallest value of the type. Points turn out to be indexed in
the order of their numbers, so that a set of bits is all there is to store; this, the values of the levels and the rule of
the signs are asserted.
"""
import os
import sys

import numpy as np

from make_goldens import dequantized, library

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "..", "..", "sdk", "fettle_kit", "tensor", "lattice_points.cpp")

IQ2_LEVELS, IQ3_XXS_LEVELS, IQ3_S_LEVELS = [8, 25, 43], [4, 12, 20, 28, 36, 44, 52, 62], [1, 3, 5, 7, 9, 11, 13, 15]


def blocks_of(count, size, scale):
    """Zero blocks that begin with `scale` as f16."""
    blocks = np.zeros((count, size), np.uint8)
    blocks[:, :2] = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    return blocks


def levels(values, expected):
    """Values to ranks among the expected ones, which must be all there are."""
    assert np.array_equal(np.unique(values), np.float32(expected)), (np.unique(values), expected)
    return np.searchsorted(np.float32(expected), values)


def numbers(ranks, dims, levels_of_type):
    """Points as numbers whose digits are the levels, the first value's the lowest."""
    return (ranks.reshape(-1, dims) * levels_of_type ** np.arange(dims)).sum(axis=1)


def iq2_xxs(lib):  # a byte indexes 8 values; scale code 0 means d / 8
    blocks = blocks_of(8, 66, 8)
    blocks[:, 2:].reshape(8, 8, 8)[:, :, :4] = np.arange(256).reshape(8, 8, 4)
    return numbers(levels(dequantized(lib, "iq2_xxs", blocks), IQ2_LEVELS), 8, 3)


def iq2_xs(lib):  # nine bits of a 16-bit word
    blocks = blocks_of(16, 74, 8)
    blocks[:, 2:66] = np.arange(512, dtype=np.uint16).reshape(16, 32).view(np.uint8)
    return numbers(levels(dequantized(lib, "iq2_xs", blocks), IQ2_LEVELS), 8, 3)


def iq2_s(lib):  # a byte, and two bits more of another byte
    index = np.arange(1024).reshape(32, 8, 4)
    blocks = blocks_of(32, 82, 8)
    blocks[:, 2:34] = (index & 255).reshape(32, 32)
    blocks[:, 66:74] = ((index >> 8) << (2 * np.arange(4))).sum(axis=2)
    return numbers(levels(dequantized(lib, "iq2_s", blocks), IQ2_LEVELS), 8, 3)


def iq3_xxs(lib):  # a byte indexes 4 values; scale code 0 means d / 4
    blocks = blocks_of(4, 98, 4)
    blocks[:, 2:66] = np.arange(256).reshape(4, 64)
    return numbers(levels(dequantized(lib, "iq3_xxs", blocks), IQ3_XXS_LEVELS), 4, 8)


def iq3_s(lib):  # a byte and a bit of another
    index = np.arange(512).reshape(8, 8, 8)
    blocks = blocks_of(8, 110, 1)
    blocks[:, 2:66] = (index & 255).reshape(8, 64)
    blocks[:, 66:74] = ((index >> 8) << np.arange(8)).sum(axis=2)
    return numbers(levels(dequantized(lib, "iq3_s", blocks), IQ3_S_LEVELS), 4, 8)


def iq1(lib):  # a byte and three bits of a 16-bit word; 1/8 is added to each of -1, 0, 1
    index = np.arange(2048).reshape(64, 8, 4)
    blocks = blocks_of(64, 50, 1)
    blocks[:, 2:34] = (index & 255).reshape(64, 32)
    high = ((index >> 8) << (3 * np.arange(4))).sum(axis=2).astype(np.uint16)
    blocks[:, 34:50] = high.view(np.uint8)
    return numbers(levels(dequantized(lib, "iq1_s", blocks), [-0.875, 0.125, 1.125]), 8, 3)


def check_signs(lib):
    """Seven bits of a sign code are the signs of the first seven values; the eighth makes their number even."""
    codes = np.arange(128, dtype=np.uint16).reshape(4, 32)
    blocks = blocks_of(4, 74, 8)
    blocks[:, 2:66] = (codes << 9).view(np.uint8)
    negative = (dequantized(lib, "iq2_xs", blocks) < 0).reshape(128, 8)
    bits = (codes.reshape(128, 1) >> np.arange(7)) & 1
    assert np.array_equal(negative, np.concatenate([bits, bits.sum(axis=1, keepdims=True) & 1], axis=1) == 1)


HEADER = """// SPDX-License-Identifier: Apache-2.0
// Which points the lattices of the IQ1, IQ2 and IQ3 types have: facts of the file format. A point is a number whose digits
// are its levels, the first value's the lowest: eight digits of base 3, or four of base 8 for IQ3. Bit b of word w says
// whether 64 w + b is a point. Written by tests/data/gguf/make_lattices.py, which reads them from the real library's
// dequantizer.
#include "fettle_kit/tensor/lattice.h"

namespace fettle::kit::block {

// clang-format off
"""


def main():
    lib = library()
    check_signs(lib)
    with open(OUT, "w") as out:
        out.write(HEADER)
        for name, probe in (("iq2_xxs", iq2_xxs), ("iq2_xs", iq2_xs), ("iq2_s", iq2_s), ("iq3_xxs", iq3_xxs),
                            ("iq3_s", iq3_s), ("iq1", iq1)):
            points = probe(lib)
            assert np.all(np.diff(points) > 0), f"{name}: the index is not the rank of the point"
            bits = np.zeros(4096 if name.startswith("iq3") else 64 * 103, np.uint8)  # 103 words hold 3^8 bits
            bits[points] = 1
            words = np.packbits(bits, bitorder="little").view(np.uint64)
            out.write(f"const std::uint64_t {name}_members[{len(words)}] = {{\n")
            for at in range(0, len(words), 5):
                out.write("  " + ", ".join(f"0x{w:016x}" for w in words[at:at + 5]) + ",\n")
            out.write("};\n\n")
        out.write("// clang-format on\n\n}  // namespace fettle::kit::block\n")


if __name__ == "__main__":
    sys.exit(main())
