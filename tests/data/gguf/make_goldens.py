# SPDX-License-Identifier: Apache-2.0
"""Writes goldens.txt: what the real ggml makes of the weights of weights.py, as digests.

    pip install numpy==2.4.6 libggml-python==0.20.2.post1 && python make_goldens.py

A line: type, distribution, "plain" or "weighted", FNV-1a of all bytes, hexadecimal bytes of the first block.
"fp4-scale" pins MXFP4's scale byte for maxima just below, at and just above powers of two. Lines "read" are the digests
of what the library's dequantizer makes of random blocks of a type.
"""
import ctypes
import os
import sys

import numpy as np

from weights import DISTRIBUTIONS, fnv1a, importance, splitmix, weights

# name: (ggml type id, values a block, bytes a block)
TYPES = {
    "q4_0": (2, 32, 18), "q4_1": (3, 32, 20), "q5_0": (6, 32, 22), "q5_1": (7, 32, 24), "q8_0": (8, 32, 34),
    "q2_k": (10, 256, 84), "q3_k": (11, 256, 110), "q4_k": (12, 256, 144), "q5_k": (13, 256, 176),
    "q6_k": (14, 256, 210), "iq4_nl": (20, 32, 18), "iq4_xs": (23, 256, 136), "tq1_0": (34, 256, 54),
    "tq2_0": (35, 256, 66), "mxfp4": (39, 32, 17), "nvfp4": (40, 64, 36), "q1_0": (41, 128, 18), "q2_0": (42, 64, 18),
    "iq2_xxs": (16, 256, 66), "iq2_xs": (17, 256, 74), "iq2_s": (22, 256, 82), "iq3_xxs": (18, 256, 98),
    "iq3_s": (21, 256, 110), "iq1_s": (19, 256, 50), "iq1_m": (29, 256, 56),
}
NEED_IMPORTANCE = {"iq2_xxs", "iq2_xs", "iq1_s"}  # the library stops without
LATTICES = {"iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq1_s", "iq1_m"}


def library():
    import libggml

    path = os.path.join(os.path.dirname(libggml.__file__), "lib64", "libggml-base.so")
    lib = ctypes.CDLL(path)
    f32 = ctypes.POINTER(ctypes.c_float)
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, f32, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [f32]
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    return lib


def quantize(lib, kind, x, q):
    ident, elems, size = TYPES[kind]
    out = np.zeros(x.size // elems * size, np.uint8)
    f32 = ctypes.POINTER(ctypes.c_float)
    pointer = q.ctypes.data_as(f32) if q is not None else None
    rows = x.shape[0]
    n = lib.ggml_quantize_chunk(ident, x.ctypes.data_as(f32), out.ctypes.data, 0, rows, x.shape[1], pointer)
    assert n == out.size, (kind, n, out.size)
    return out


def random_blocks(kind, count):
    """Any bytes; the exponent of the block's scale loses a bit, so that it is finite."""
    _, _, size = TYPES[kind]
    blocks = (splitmix(7, count * size) * 256).astype(np.uint8).reshape(count, size)
    blocks[:, 55 if kind == "iq1_m" else 1] &= 0xBF
    return blocks


def dequantized(lib, kind, blocks):
    out = np.zeros((blocks.shape[0], TYPES[kind][1]), np.float32)
    getattr(lib, f"dequantize_row_{kind}")(ctypes.c_void_p(blocks.ctypes.data), ctypes.c_void_p(out.ctypes.data),
                                          ctypes.c_int64(out.size))
    return out


def main():
    lib = library()
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens.txt"), "w") as out:
        for kind, (_, _, size) in TYPES.items():
            for distribution in DISTRIBUTIONS:
                x = weights(distribution)
                for name, q in (("plain", None), ("weighted", importance())):
                    if q is None and kind in NEED_IMPORTANCE:
                        continue
                    if (kind, distribution) == ("iq3_s", "sparse"):  # misplaces what follows 32 zeros: docs/reference/gguf.md
                        continue
                    data = quantize(lib, kind, x, q)
                    print(kind, distribution, name, fnv1a(data), data[:size].tobytes().hex(), file=out)
        maxima = []
        for exponent in range(-120, 121, 3):
            at = np.float32(2.0**exponent)
            down = at
            for _ in range(4):
                down = np.nextafter(down, np.float32(0), dtype=np.float32)
                maxima.append(down)
            maxima += [at, np.nextafter(at, np.float32(np.inf), dtype=np.float32)]
        x = np.zeros((len(maxima), 32), np.float32)
        x[:, 5] = maxima
        print("fp4-scale", fnv1a(quantize(lib, "mxfp4", x, None)), file=out)
        for kind in sorted(LATTICES):
            print("read", kind, fnv1a(dequantized(lib, kind, random_blocks(kind, 256)).view(np.uint8).ravel()), file=out)


if __name__ == "__main__":
    sys.exit(main())
