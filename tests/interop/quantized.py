# SPDX-License-Identifier: Apache-2.0
"""Quantized checkpoints in transformers with compressed-tensors, and GPTQ words unpacked by numpy alone."""
import json

import numpy as np
import safetensors.torch
import torch
import transformers

Q = "model.layers.1.self_attn.q_proj"
DOWN = "model.layers.1.mlp.down_proj"


def quantize(tools, folder, technique, dense, params):
    inputs = {"model": ("model", dense)}
    if technique in ("quantize.gptq", "quantize.awq", "quantize.int8"):
        inputs["calibration"] = ("tokens", tools.tokens(folder, tools.PROSE))
    if technique == "quantize.gptq":
        params = {"targets": ["*.self_attn.*_proj.weight"], **params}  # few enough inputs for a short text
    return tools.step(folder, technique, inputs, params)


def compressed_tensors_loads(tools, folder, dense):
    """In f32, so that nothing is rounded between the two: the logits of our own reader."""
    cases = {
        "int4 groups": ("quantize.rtn", {}),
        "int8 rows": ("quantize.rtn", {"bits": 8, "sharing": "channel"}),
        "int8 matrix": ("quantize.rtn", {"bits": 8, "sharing": "tensor"}),
        "int2 groups": ("quantize.rtn", {"bits": 2, "group_size": 32}),
        "int4 with int8 down": ("quantize.rtn", {"bits_for": {"*.down_proj.weight": 8}}),
        "int4 without layer 0": ("quantize.rtn", {"ignore": ["model.layers.0.*"]}),
        "gptq, ordered, static groups": ("quantize.gptq", {"format": "compressed-tensors", "act_order": True,
                                                           "static_groups": True}),
        "awq": ("quantize.awq", {"format": "compressed-tensors", "symmetric": True}),
        "awq, rows": ("quantize.awq", {"format": "compressed-tensors", "symmetric": True, "sharing": "channel", "bits": 8}),
    }
    for name, (technique, params) in cases.items():
        tools.logits_agree(f"compressed-tensors, {name}", quantize(tools, folder, technique, dense, params))


FLOATS = {
    "fp8 rows": ("quantize.fp8", {}),
    "fp8 rows, inputs as they are": ("quantize.fp8", {"activations": "none"}),
    "fp8 matrix, static": ("quantize.fp8", {"sharing": "tensor", "activations": "static"}),
    "fp8 blocks": ("quantize.fp8", {"sharing": "block"}),
    "fp8 rows without layer 0": ("quantize.fp8", {"ignore": ["model.layers.0.*"]}),
    "nvfp4 plain": ("quantize.nvfp4", {"scales": "plain"}),
    "nvfp4 four over six": ("quantize.nvfp4", {}),
    "nvfp4 W4A4 with error feedback": ("quantize.nvfp4", {"activations": "static", "error_feedback": True,
                                                          "targets": ["*.self_attn.*_proj.weight"]}),
    "mxfp4": ("quantize.mxfp4", {}),
    "mxfp4 W4A4": ("quantize.mxfp4", {"activations": "dynamic"}),
}


def floats(tools, folder, dense, name):
    technique, params = FLOATS[name]
    inputs = {"model": ("model", dense)}
    if params.get("activations") == "static":
        inputs["calibration"] = ("tokens", tools.tokens(folder, tools.PROSE))
    return tools.step(folder, technique, inputs, params)


def loaded(model):
    """FP4 becomes bf16 in compressed-tensors 0.20 whatever the model's type, and a model in f32 then fails."""
    four = "fp4-pack-quantized" in (model / "config.json").read_text()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16 if four else torch.float32)
    theirs(torch.tensor([[1]]))  # unpacks
    torch.nn.Module.float(theirs)
    return theirs.eval(), four


def compressed_floats_load(tools, folder, dense):
    """Weights alone: the client's rounding of inputs is switched off, and ours are spelled out, FP4 in bf16 as theirs."""
    for name in FLOATS:
        model = floats(tools, folder, dense, name)
        theirs, four = loaded(model)
        for module in theirs.modules():
            module.quantization_enabled = False
        ours = tools.step(folder, "io.convert", {"model": ("model", model)}, {"to": "bf16" if four else "f32"})
        tools.logits_agree(f"compressed-tensors, weights of {name}", ours, theirs=theirs)


def tokens_agree(tools, folder, name, model):
    """With rounded inputs, and the same weights to the bit. Sums differ in their last bits, so now and then an input
    falls on the other side of a tie, and from there on everything differs by such steps: single tokens, most of which
    must agree as if nothing were rounded."""
    ids = range(1, 17)
    theirs, _ = loaded(model)
    plain = tools.step(folder, "io.convert", {"model": ("model", model)}, {"to": "f32"})
    theirs.load_state_dict(safetensors.torch.load_file(plain / "model.safetensors"), strict=False)
    agreeing, off = 0, 0.0
    for i in ids:
        listed, raw = model.parent / "ids.json", model.parent / "logits.f32"
        listed.write_text(json.dumps([i]))
        shape = tools.probe("logits", model, listed, raw)
        ours = np.fromfile(raw, np.float32).reshape(shape)
        with torch.no_grad():
            expected = theirs(torch.tensor([[i]])).logits[0].numpy()
        difference = np.abs(ours - expected).max() / np.abs(expected).max()
        agreeing, off = agreeing + (difference < 1e-5), max(off, difference)
    tools.check(f"inputs rounded as compressed-tensors does, {name}", agreeing >= len(ids) // 2,
                f"{agreeing} of {len(ids)} tokens to 1e-5, the worst {off:.1e}")


def inputs_are_rounded_alike(tools, folder, dense):
    for name in ("fp8 rows", "fp8 matrix, static", "fp8 blocks", "nvfp4 W4A4 with error feedback", "mxfp4 W4A4"):
        tokens_agree(tools, folder, name, floats(tools, folder, dense, name))


def cache_scales_fit(tools, folder, dense):
    """The scales are what transformers itself caches on the calibration tokens, and its model with compressed-tensors
    takes them up and rounds keys and values by them. With that rounding off, the logits are those of our reader, which
    leaves the cache alone."""
    tokens = tools.tokens(folder, tools.PROSE)
    ids = safetensors.torch.load_file(tokens / "tokens.safetensors")["ids"].long()
    plain = transformers.AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32).eval()
    with torch.no_grad():
        cached = plain(ids, use_cache=True).past_key_values.layers
    for technique in ("quantize.fp8", "quantize.nvfp4"):
        inputs = {"model": ("model", dense), "calibration": ("tokens", tokens)}
        common = {"kv_cache": "fp8", "propagation": "dense", "held_out": 0, "activations": "none"}
        model = tools.step(folder, technique, inputs, common)
        tensors = safetensors.torch.load_file(model / "model.safetensors")
        off = 0.0
        for i, layer in enumerate(cached):
            for kind, states in (("k", layer.keys), ("v", layer.values)):
                scale = float(tensors[f"model.layers.{i}.self_attn.{kind}_scale"])
                off = max(off, abs(scale * 448 / float(states.abs().max()) - 1))
        tools.check(f"scales of the cache are what transformers caches, {technique}", off < 1e-5, f"off by {off:.1e}")
        theirs, four = loaded(model)
        taken = all(float(layer.self_attn.k_scale) == float(tensors[f"model.layers.{i}.self_attn.k_scale"].to(
            torch.bfloat16 if four else torch.float32)) for i, layer in enumerate(theirs.model.layers))
        tools.check(f"compressed-tensors takes the scales of the cache, {technique}", taken)
        with torch.no_grad():
            rounded = theirs(ids[:1]).logits
            for module in theirs.modules():
                module.quantization_enabled = False
            unrounded = theirs(ids[:1]).logits
        difference = float((rounded - unrounded).abs().max() / unrounded.abs().max())
        tools.check(f"compressed-tensors rounds the cache by them, {technique}", 0 < difference < 0.1,
                    f"relative difference {difference:.1e}")
        ours = tools.step(folder, "io.convert", {"model": ("model", model)}, {"to": "bf16" if four else "f32"})
        tools.logits_agree(f"compressed-tensors, {technique} with scales of the cache", ours, theirs=theirs)


def compressed_floats_decompress(tools, folder, dense):
    """Matrix by matrix, bit for bit in f32."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import dequantize
    for name in FLOATS:
        model = floats(tools, folder, dense, name)
        config = json.loads((model / "config.json").read_text())["quantization_config"]
        QuantizationConfig.model_validate(config)
        scheme = QuantizationScheme(targets=["Linear"], weights=config["config_groups"]["group_0"]["weights"])
        tensors = safetensors.torch.load_file(model / "model.safetensors")
        parts = {key.removeprefix(Q + "."): t for key, t in tensors.items() if key.startswith(Q + ".")}
        if "weight_packed" in parts:
            packed, scale = parts["weight_packed"], parts["weight_scale"]
            codes = unpack_fp4_from_uint8(packed, packed.shape[0], packed.shape[1] * 2, dtype=torch.float32)
            scale = scale.float() if scale.dtype != torch.uint8 else 2.0 ** (scale.int() - 127).float()
            theirs = dequantize(codes, scale, args=scheme.weights, global_scale=parts.get("weight_global_scale"),
                                dtype=torch.float32)
        else:
            theirs = BaseCompressor.get_value_from_registry(config["format"]).decompress(parts, scheme)["weight"]
        plain = tools.step(folder, "io.convert", {"model": ("model", model)}, {"to": "f32"})
        ours = safetensors.torch.load_file(plain / "model.safetensors")[f"{Q}.weight"]
        tools.check(f"compressed-tensors unpacks {name}", torch.equal(ours, theirs.float()))


def modelopt_files_convert(tools, folder, dense):
    """NVFP4 through compressed-tensors' own converter of ModelOpt files, FP8 by torch's float8 alone."""
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.entrypoints.convert import ModelOptNvfp4Converter
    for technique, params in (("quantize.fp8", {"sharing": "tensor", "activations": "static"}), ("quantize.fp8", {}),
                              ("quantize.fp8", {"sharing": "block", "activations": "none"}), ("quantize.nvfp4", {}),
                              ("quantize.nvfp4", {"activations": "static"})):
        inputs = {"model": ("model", dense)}
        if params.get("activations") == "static":
            inputs["calibration"] = ("tokens", tools.tokens(folder, tools.PROSE))
        model = tools.step(folder, technique, inputs, {"format": "modelopt", **params})
        algorithm = json.loads((model / "hf_quant_config.json").read_text())["quantization"]["quant_algo"]
        tensors = safetensors.torch.load_file(model / "model.safetensors")
        plain = tools.step(folder, "io.convert", {"model": ("model", model)}, {"to": "f32"})
        ours = safetensors.torch.load_file(plain / "model.safetensors")[f"{Q}.weight"]
        if technique == "quantize.nvfp4":
            tensors = ModelOptNvfp4Converter(ignore=["lm_head"], targets=["re:.*proj$"]).process(tensors)
            packed, scale = tensors[f"{Q}.weight_packed"], tensors[f"{Q}.weight_scale"].float()
            codes = unpack_fp4_from_uint8(packed, packed.shape[0], packed.shape[1] * 2, dtype=torch.float32)
            theirs = codes * (scale / tensors[f"{Q}.weight_global_scale"]).repeat_interleave(16, 1)
        else:
            codes, scale = tensors[f"{Q}.weight"].float(), tensors[f"{Q}.weight_scale"]
            if scale.dim() == 4:
                scale = scale.expand(-1, 128, -1, 128).reshape(codes.shape)
            theirs = codes * (scale[:, None] if scale.dim() == 1 else scale)
        error = float((ours - theirs).abs().max() / theirs.abs().max())
        tools.check(f"ModelOpt's {algorithm}", error < 1e-6, f"relative difference {error:.1e}")


def compressed_tensors_decompresses(tools, folder, dense):
    """Matrix by matrix: transformers 5.23 with compressed-tensors 0.20 loads no asymmetric model, its own neither (it
    expects the zero points of pack-quantized unpacked)."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme
    for bits, sharing in ((4, "group"), (8, "channel"), (2, "group")):
        model = quantize(tools, folder, "quantize.rtn", dense, {"bits": bits, "sharing": sharing, "symmetric": False})
        config = json.loads((model / "config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
        scheme = QuantizationScheme(targets=["Linear"], weights=config["weights"])
        tensors = safetensors.torch.load_file(model / "model.safetensors")
        parts = {name.removeprefix(Q + "."): t for name, t in tensors.items() if name.startswith(Q + ".")}
        compressor = BaseCompressor.get_value_from_registry("pack-quantized")
        theirs = compressor.decompress(parts, scheme)["weight"].numpy()
        plain = tools.step(folder, "io.convert", {"model": ("model", model)}, {"to": "f32"})
        ours = safetensors.torch.load_file(plain / "model.safetensors")[f"{Q}.weight"].numpy()
        tools.check(f"compressed-tensors unpacks int{bits} asymmetric, {sharing}", np.array_equal(ours, theirs))


def compressed_config_is_valid(tools, folder):
    from compressed_tensors.quantization import QuantizationConfig
    model = quantize(tools, folder, "quantize.rtn", tools.PROSE, {})
    config = json.loads((model / "config.json").read_text())["quantization_config"]
    QuantizationConfig.model_validate(config)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model, dtype="auto")
    text = transformers.AutoTokenizer.from_pretrained(model)("The captain looked at the", return_tensors="pt")
    out = theirs.generate(**text, max_new_tokens=8, do_sample=False)
    tools.check("transformers generates from compressed-tensors in bf16", out.shape[1] == text.input_ids.shape[1] + 8)


def unpacked_gptq(tensors, module, bits, offset):
    """The words as published, written from their description alone: a bit stream along the inputs."""
    words = tensors[f"{module}.qweight"].numpy().view(np.uint32)
    zeros = tensors[f"{module}.qzeros"].numpy().view(np.uint32)
    scales = tensors[f"{module}.scales"].numpy().astype(np.float32)
    index = tensors[f"{module}.g_idx"].numpy()

    def stream(lines):  # [lines, words] -> [lines, codes]
        as_bits = ((lines[:, :, None] >> np.arange(32, dtype=np.uint32)) & 1).reshape(len(lines), -1)
        return (as_bits.reshape(len(lines), -1, bits) << np.arange(bits)).sum(-1).astype(np.int64)

    codes, zero = stream(words.T), stream(zeros).T + offset  # [out, in], [out, groups]
    return scales.T[:, index] * (codes - zero[:, index]).astype(np.float32)


def int8_loads(tools, folder, dense):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    for name, params in (("dynamic", {}), ("static", {"activations": "static"})):
        model = quantize(tools, folder, "quantize.int8", dense, params)
        config = json.loads((model / "config.json").read_text())["quantization_config"]
        scheme = QuantizationConfig.model_validate(config).config_groups["group_0"]
        tensors = safetensors.torch.load_file(model / "model.safetensors")
        parts = {n.removeprefix(Q + "."): t for n, t in tensors.items() if n.startswith(Q + ".")}
        theirs = BaseCompressor.get_value_from_registry("int-quantized").decompress(parts, scheme)["weight"].numpy()
        plain = tools.step(folder, "io.convert", {"model": ("model", model)}, {"to": "f32"})
        ours = safetensors.torch.load_file(plain / "model.safetensors")[f"{Q}.weight"].numpy()
        tools.check(f"compressed-tensors unpacks W8A8, {name}", np.array_equal(ours, theirs))
        tokens_agree(tools, folder, f"W8A8 {name}", model)


def unpacked_awq(tensors, module):
    """The words as published, written from their description alone: eight outputs a word, in their own order."""
    nibble_of = [0, 4, 1, 5, 2, 6, 3, 7]

    def outputs(words):  # [lines, words] -> [lines, outputs]
        nibbles = (words.numpy().view(np.uint32)[:, :, None] >> (4 * np.array(nibble_of, np.uint32))) & 15
        return nibbles.reshape(len(words), -1).astype(np.int64)

    codes, zeros = outputs(tensors[f"{module}.qweight"]), outputs(tensors[f"{module}.qzeros"])
    scales = tensors[f"{module}.scales"].numpy().astype(np.float32)
    group = np.arange(len(codes)) // (len(codes) // len(zeros))
    return ((codes - zeros[group]).astype(np.float32) * scales[group]).T


def awq_words_mean_what_we_read(tools, folder, dense):
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.entrypoints.convert import AutoAWQConverter
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    cases = [("quantize.awq", {}), ("quantize.awq", {"group_size": 32, "symmetric": True}),
             ("quantize.awq", {"sharing": "channel"}), ("quantize.rtn", {"format": "awq", "symmetric": False})]
    for technique, params in cases:
        model = quantize(tools, folder, technique, dense, params)
        plain = tools.step(folder, "io.convert", {"model": ("model", model)}, {"to": "f32"})
        tensors = safetensors.torch.load_file(model / "model.safetensors")
        read = safetensors.torch.load_file(plain / "model.safetensors")
        for module in (Q, DOWN):
            name = f"{module.split('.')[-1]}, {technique} {params or ''}"
            ours = read[f"{module}.weight"].numpy()
            tools.check(f"AWQ words, {name}", np.array_equal(ours, unpacked_awq(tensors, module)))
            config = json.loads((model / "config.json").read_text())["quantization_config"]
            if config["group_size"] < 0:
                continue  # compressed-tensors' converter knows groups only
            parts = {n: t for n, t in tensors.items() if n.startswith(module + ".")}
            packed = AutoAWQConverter.from_autoawq_config(config).process(parts)
            weights = QuantizationArgs(num_bits=4, symmetric=False, strategy="group", group_size=config["group_size"])
            theirs = BaseCompressor.get_value_from_registry("pack-quantized").decompress(
                {n.removeprefix(module + "."): t for n, t in packed.items()},
                QuantizationScheme(targets=["Linear"], weights=weights))["weight"].float().numpy()
            error = np.abs(ours - theirs).max() / np.abs(theirs).max()  # it multiplies in f16
            tools.check(f"compressed-tensors converts AWQ, {name}", error < 1e-3, f"relative difference {error:.1e}")


def gptq_words_mean_what_we_read(tools, folder, dense):
    cases = [(bits, form, extra) for bits in (2, 3, 4, 8) for form, extra in
             (("gptq", {}), ("gptq_v2", {"symmetric": False}), ("gptq", {"act_order": True}))]
    for bits, form, extra in cases:
        model = quantize(tools, folder, "quantize.gptq", dense, {"bits": bits, "format": form, **extra})
        plain = tools.step(folder, "io.convert", {"model": ("model", model)}, {"to": "f32"})
        tensors = safetensors.torch.load_file(model / "model.safetensors")
        ours = safetensors.torch.load_file(plain / "model.safetensors")[f"{Q}.weight"].numpy()
        theirs = unpacked_gptq(tensors, Q, bits, 1 if form == "gptq" else 0)
        tools.check(f"GPTQ words, {bits} bits, {form} {extra or ''}", np.array_equal(ours, theirs))


def gptqmodel_dequantizes(tools, folder, dense):
    try:
        from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    except ImportError:
        print("skipped gptqmodel's TorchLinear: not installed (pip install gptqmodel)")
        return
    for bits in (2, 3, 4, 8):
        model = quantize(tools, folder, "quantize.gptq", dense, {"bits": bits, "act_order": True})
        tensors = safetensors.torch.load_file(model / "model.safetensors")
        rows, cols = tensors[f"{Q}.scales"].shape[1], tensors[f"{Q}.g_idx"].shape[0]
        layer = TorchLinear(bits=bits, group_size=128, sym=True, desc_act=True, in_features=cols, out_features=rows,
                            bias=False, pack_dtype=torch.int32, register_buffers=True)
        for name in ("qweight", "qzeros", "scales", "g_idx"):
            getattr(layer, name).copy_(tensors[f"{Q}.{name}"])
        from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module
        layer.qzero_format(1)
        convert_gptq_v1_to_v2_format_module(module=layer, bits=bits, pack_dtype=torch.int32)
        layer.post_init()
        theirs = layer.dequantize_weight().T.float().numpy()
        plain = tools.step(folder, "io.convert", {"model": ("model", model)}, {"to": "f32"})
        ours = safetensors.torch.load_file(plain / "model.safetensors")[f"{Q}.weight"].numpy()
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        tools.check(f"gptqmodel's TorchLinear, {bits} bits", error < 1e-3, f"relative difference {error:.1e}")


def gptqmodel_loads_whole_models(tools, folder, dense):
    """Its plain PyTorch kernels; they multiply by weights in f16, hence the tolerance. AWQ through transformers, which
    hands over to it; GPTQ by its own loader, since transformers wants a further package for those."""
    try:
        from gptqmodel import BACKEND, GPTQModel
    except ImportError:
        print("skipped gptqmodel with AWQ and GPTQ models: not installed (pip install gptqmodel)")
        return

    def compare(name, model, theirs, tolerance):
        ids = [(7 * i + i * i // 3) % theirs.config.vocab_size for i in range(64)]
        (model.parent / "ids.json").write_text(json.dumps(ids))
        shape = tools.probe("logits", model, model.parent / "ids.json", model.parent / "logits.f32")
        ours = np.fromfile(model.parent / "logits.f32", np.float32).reshape(shape)
        with torch.no_grad():
            expected = theirs.eval()(torch.tensor([ids])).logits[0].float().numpy()
        difference = np.abs(ours - expected).max() / np.abs(expected).max()
        tools.check(f"logits of {name}", difference < tolerance, f"relative difference {difference:.1e}")

    for params in ({}, {"group_size": 32, "symmetric": True}):
        model = quantize(tools, folder, "quantize.awq", dense, params)
        config = json.loads((model / "config.json").read_text())
        config["quantization_config"]["backend"] = "torch_awq"  # else it compiles a kernel for this machine
        (model / "config.json").write_text(json.dumps(config))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, device_map="cpu")
        compare(f"AWQ {params or ''} in transformers with gptqmodel", model, theirs, 1e-3)
    for params in ({"act_order": True}, {"bits": 3}, {"bits": 8, "sharing": "channel"}):
        model = quantize(tools, folder, "quantize.gptq", dense, {**params, "targets": ["*.layers.*_proj.weight"]})
        theirs = GPTQModel.load(str(model), backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16).model
        compare(f"GPTQ {params} in gptqmodel", model, theirs, 3e-3)  # f16 throughout: it offers no f32


def check_all(tools, folder):
    dense = tools.step(folder, "io.convert", {"model": ("model", tools.PROSE)}, {"to": "f32"})
    compressed_tensors_loads(tools, folder, dense)
    compressed_tensors_decompresses(tools, folder, dense)
    compressed_floats_load(tools, folder, dense)
    cache_scales_fit(tools, folder, dense)
    compressed_floats_decompress(tools, folder, dense)
    inputs_are_rounded_alike(tools, folder, dense)
    modelopt_files_convert(tools, folder, dense)
    compressed_config_is_valid(tools, folder)
    gptq_words_mean_what_we_read(tools, folder, dense)
    awq_words_mean_what_we_read(tools, folder, dense)
    int8_loads(tools, folder, dense)
    gptqmodel_dequantizes(tools, folder, dense)
    gptqmodel_loads_whole_models(tools, folder, dense)
