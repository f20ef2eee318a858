# SPDX-License-Identifier: Apache-2.0
"""The few functions of llama.cpp's C interface that the checks need, from the library inside a Python package."""
import ctypes as c
import os

import numpy as np


class _Params(c.Structure):
    """A parameter struct that is only passed through: any size not below the real one will do."""
    _fields_ = [("opaque", c.c_uint8 * 2048)]


class _Batch(c.Structure):
    _fields_ = [("n_tokens", c.c_int32), ("token", c.POINTER(c.c_int32)), ("embd", c.c_void_p),
                ("pos", c.POINTER(c.c_int32)), ("n_seq_id", c.POINTER(c.c_int32)),
                ("seq_id", c.POINTER(c.POINTER(c.c_int32))), ("logits", c.POINTER(c.c_int8))]


def _library():
    import xllamacpp

    lib = c.CDLL(os.path.join(os.path.dirname(xllamacpp.__file__), "xllamacpp.abi3.so"))
    for name in ("llama_model_default_params", "llama_context_default_params"):
        getattr(lib, name).restype = _Params
    lib.llama_model_load_from_file.restype = c.c_void_p
    lib.llama_model_load_from_file.argtypes = [c.c_char_p, _Params]
    lib.llama_init_from_model.restype = c.c_void_p
    lib.llama_init_from_model.argtypes = [c.c_void_p, _Params]
    lib.llama_model_get_vocab.restype = c.c_void_p
    lib.llama_model_get_vocab.argtypes = [c.c_void_p]
    lib.llama_vocab_n_tokens.argtypes = [c.c_void_p]
    lib.llama_tokenize.argtypes = [c.c_void_p, c.c_char_p, c.c_int32, c.POINTER(c.c_int32), c.c_int32, c.c_bool, c.c_bool]
    lib.llama_batch_init.restype = _Batch
    lib.llama_batch_init.argtypes = [c.c_int32] * 3
    lib.llama_decode.argtypes = [c.c_void_p, _Batch]
    lib.llama_get_logits.restype = c.POINTER(c.c_float)
    lib.llama_get_logits.argtypes = [c.c_void_p]
    lib.llama_get_memory.restype = c.c_void_p
    lib.llama_get_memory.argtypes = [c.c_void_p]
    lib.llama_memory_clear.argtypes = [c.c_void_p, c.c_bool]
    for name in ("llama_free", "llama_model_free"):
        getattr(lib, name).argtypes = [c.c_void_p]
    lib.quiet = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda level, text, data: None)
    lib.llama_log_set.argtypes = [c.c_void_p, c.c_void_p]
    if not os.environ.get("FETTLE_INTEROP_LOG"):
        lib.llama_log_set(lib.quiet, None)
    lib.llama_backend_init()
    return lib


_lib = None


class Llama:
    def __init__(self, path):
        global _lib
        _lib = _lib or _library()
        self.model = _lib.llama_model_load_from_file(str(path).encode(), _lib.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self.vocab = _lib.llama_model_get_vocab(self.model)
        self.size = _lib.llama_vocab_n_tokens(self.vocab)
        self.context = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.context:
            _lib.llama_free(self.context)
        _lib.llama_model_free(self.model)

    def tokenize(self, text):
        data = text.encode()
        ids = (c.c_int32 * (len(data) + 16))()
        n = _lib.llama_tokenize(self.vocab, data, len(data), ids, len(ids), False, True)
        return list(ids[:n])

    def logits(self, ids):
        """[len(ids), vocabulary]"""
        if not self.context:
            self.context = _lib.llama_init_from_model(self.model, _lib.llama_context_default_params())
        _lib.llama_memory_clear(_lib.llama_get_memory(self.context), True)
        batch = _lib.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        status = _lib.llama_decode(self.context, batch)
        assert status == 0, f"llama_decode: {status}"
        out = np.ctypeslib.as_array(_lib.llama_get_logits(self.context), (len(ids), self.size)).copy()
        _lib.llama_batch_free(batch)
        return out
