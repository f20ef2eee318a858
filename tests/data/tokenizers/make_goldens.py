# SPDX-License-Identifier: Apache-2.0
"""Writes variants.json, pythia.json and smollm.json beside itself: what the package `tokenizers` gives.

  python make_goldens.py ../../../../shared/tokenizers     (tokenizers 0.23.3)
"""
import itertools, json, os, sys
from tokenizers import Tokenizer

here = os.path.dirname(os.path.abspath(__file__))

TEXTS = [
    "", " ", "  \t\n", "The mill stands by the river; its wheel turns slowly.", "We'll file 12 burrs (1,250 g) off it, don't we?",
    "Ünïcödé and e\u0301cole, ﬁne ½ Ⅷ ٣٤", "ΑΣ İstanbul ẞ ǅ", "тихий дом", "静かな川　の 音", "نص قصير", "👩🏽‍🔧 🪚!",
    "a\u00a0b\u180ec\u0085d\u200be\u2028f", "x  y   z    ", "tab\tand\r\nline\n\nends\n", "<s>a</s>", "<tool>", "a <tool> b", "a<tool>b",
    "re<mask>do", "re <mask> do", "   <mask>   <mask>x", "<mask", "low lower lowest", "▁already▁there", "snake_case camelCase",
    "1234567 8.9", "--==--", "...Well?!", "a-b-c--d", "\u0301\u0302 marks", "zzz qqq", "\x00\x01\x7f", "’s ‘quoted’",
    "DON'T WE'LL", "ſo 'ſ 'S", "Å Å Å 한 한", "{\"k\": [1, 2]}\n    return x;", "naïve cafe\u0301 Café CAFÉ",
]

def alphabet():
    visible = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    out, n = [], 0
    for b in range(256):
        out.append(chr(b) if b in visible else chr(0x100 + n))
        n += b not in visible
    return out

def model(pieces, merges, **more):
    vocab = {}
    for p in pieces + [a + b for a, b in merges]:
        vocab.setdefault(p, len(vocab))
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": [list(m) for m in merges], **more}

MERGES = [("l", "o"), ("lo", "w"), ("e", "r"), ("t", "h"), ("th", "e"), ("i", "n"), ("n", "d"), ("l", "l"), ("w", "e"), ("we", "r"),
          ("r", "e"), ("s", "t"), ("1", "2"), ("-", "-"), ("a", "b")]
G, U = "\u0120", "\u2581"
BYTES = model(alphabet(), MERGES + [(G, "t"), (G + "t", "h"), (G, "low"), (G, G), (G + G, G + G)])
CHARS = ["<unk>", "<s>", "</s>"] + [chr(c) for c in range(0x21, 0x7F)] + list("éüïöα静か") + [U]
PIECES = model(CHARS, MERGES + [(U, "t"), (U + "t", "h"), (U, "low"), (U, U), (U + U, U + U)], unk_token="<unk>", fuse_unk=True)
FALLBACK = model(["<unk>"] + ["<0x%02X>" % b for b in range(256)] + CHARS[1:], MERGES + [(U, "t"), (U, U)], unk_token="<unk>",
                 fuse_unk=True, byte_fallback=True)
MODELS = {"bytes": BYTES, "pieces": PIECES, "pieces_single_unk": {**PIECES, "fuse_unk": False},
          "pieces_no_unk": {**PIECES, "unk_token": None}, "fallback": FALLBACK, "whole": {**BYTES, "ignore_merges": True}}

def added(content, id, **flags):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, **flags}

BL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
RAW = {**BL, "use_regex": False}
SP_NORM = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": U}, {"type": "Replace", "pattern": {"String": " "}, "content": U}]}
SP_DEC = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": U}, "content": " "}, {"type": "ByteFallback"},
                                           {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
def seq(*steps): return {"type": "Sequence", "pretokenizers": list(steps)}
def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
def meta(**kw): return {"type": "Metaspace", "replacement": U, **kw}

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
          r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

VARIANTS = []
def variant(name, model, **sections): VARIANTS.append({"name": name, "model": model, **sections})

variant("gpt2", "bytes", pre_tokenizer=BL, decoder=BL)
variant("prefix_space", "bytes", pre_tokenizer={**BL, "add_prefix_space": True}, decoder=BL)
variant("prefix_space_whole_text", "bytes", pre_tokenizer={**RAW, "add_prefix_space": True}, decoder=BL)
variant("llama3", "bytes", pre_tokenizer=seq(split({"Regex": LLAMA3}), RAW), decoder=BL)
variant("llama3_ignore_merges", "whole", pre_tokenizer=seq(split({"Regex": LLAMA3}), RAW), decoder=BL)
variant("tekken", "bytes", pre_tokenizer=seq(split({"Regex": TEKKEN}), RAW), decoder=BL)
variant("digits_each", "bytes", pre_tokenizer=seq({"type": "Digits", "individual_digits": True}, BL), decoder=BL)
variant("digits_runs", "bytes", pre_tokenizer=seq({"type": "Digits", "individual_digits": False}, RAW), decoder=BL)
variant("two_byte_levels", "bytes", pre_tokenizer=seq(BL, RAW), decoder=BL)
variant("split_after_byte_level", "bytes", pre_tokenizer=seq(RAW, split({"String": G})), decoder=BL)
for behavior, invert in itertools.product(["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"], [False, True]):
    variant("split_%s%s" % (behavior, "_inverted" if invert else ""), "bytes",
            pre_tokenizer=seq(split({"Regex": r"[-e]|\s"}, behavior, invert), RAW), decoder=BL)
variant("split_string", "bytes", pre_tokenizer=seq(split({"String": "--"}, "MergedWithPrevious"), RAW), decoder=BL)
variant("split_empty_matches", "bytes", pre_tokenizer=seq(split({"Regex": "l*"}), RAW), decoder=BL)
variant("split_word_classes", "bytes", pre_tokenizer=seq(split({"Regex": r"\w+|\W|[\w.]"}), RAW), decoder=BL)
variant("split_lines", "bytes", pre_tokenizer=seq(split({"Regex": r"^.|.$|(?<=o)."}), RAW), decoder=BL)
variant("whitespace", "pieces", pre_tokenizer={"type": "Whitespace"})
variant("whitespace_split", "pieces", pre_tokenizer={"type": "WhitespaceSplit"})
for behavior in ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
    variant("punctuation_" + behavior, "pieces", pre_tokenizer={"type": "Punctuation", "behavior": behavior})
for scheme in ["always", "first", "never"]:
    for cut in [True, False]:
        variant("metaspace_%s_%s" % (scheme, "split" if cut else "whole"), "pieces", pre_tokenizer=meta(prepend_scheme=scheme, split=cut),
                decoder=meta(prepend_scheme=scheme, split=cut))
variant("metaspace_after_split", "pieces", pre_tokenizer=seq({"type": "WhitespaceSplit"}, meta(prepend_scheme="first", split=True)))
variant("llama2", "fallback", normalizer=SP_NORM, decoder=SP_DEC)
variant("llama2_unknown", "pieces", normalizer=SP_NORM, decoder=SP_DEC)
variant("unknown_each", "pieces_single_unk", normalizer=SP_NORM)
variant("unknown_lost", "pieces_no_unk", normalizer=SP_NORM)
for form in ["NFC", "NFD", "NFKC", "NFKD"]:
    variant(form, "bytes", normalizer={"type": form}, pre_tokenizer=BL, decoder=BL)
variant("lowercase", "bytes", normalizer={"type": "Lowercase"}, pre_tokenizer=BL, decoder=BL)
variant("strip", "bytes", normalizer={"type": "Strip", "strip_left": True, "strip_right": True}, pre_tokenizer=BL, decoder=BL)
variant("strip_left", "bytes", normalizer={"type": "Strip", "strip_left": True, "strip_right": False}, pre_tokenizer=BL, decoder=BL)
variant("no_accents", "bytes", normalizer={"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}, pre_tokenizer=BL, decoder=BL)
variant("replace_regex", "bytes", normalizer={"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}, pre_tokenizer=BL, decoder=BL)
variant("no_decoder", "pieces", pre_tokenizer={"type": "Whitespace"})
variant("template", "fallback", normalizer=SP_NORM, decoder=SP_DEC, post_processor={"type": "Sequence", "processors": [
    BL, {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                                  {"SpecialToken": {"id": "</s>", "type_id": 0}}],
         "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
         "special_tokens": {"<s>": {"id": "<s>", "ids": [257], "tokens": ["<s>"]}, "</s>": {"id": "</s>", "ids": [258], "tokens": ["</s>"]}}}]})
for flags in [{}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}, {"single_word": True}, {"normalized": True, "special": False},
              {"lstrip": True, "normalized": True}]:
    name = "_".join(["added"] + sorted(flags))
    n = len(BYTES["vocab"])
    variant(name, "bytes", pre_tokenizer=BL, decoder=BL, normalizer={"type": "Lowercase"}, added_tokens=[
        added("<mask>", n, **flags), added("<tool>", n + 1, **flags), added("<s>", n + 2), added("</s>", n + 3), added("low", BYTES["vocab"]["low"], **flags),
        added("lower", n + 4, **flags), added("  ", n + 5, normalized=True, special=False)])
variant("added_prepended", "pieces", normalizer=SP_NORM, decoder=SP_DEC, added_tokens=[
    added("<s>", 1), added("<mask>", len(PIECES["vocab"]), normalized=True, special=False)])

def document(v):
    out = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
           "post_processor": None, "decoder": None}
    out.update({k: x for k, x in v.items() if k != "name"})
    out["model"] = MODELS[v["model"]]
    return out

def cases(t, texts):
    out = []
    for text in texts:
        ids = t.encode(text, add_special_tokens=False).ids
        with_special = t.encode(text, add_special_tokens=True).ids
        out.append({"text": text, "ids": ids, **({"ids_with_special": with_special} if with_special != ids else {}),
                    "decoded": t.decode(ids, skip_special_tokens=False)})
    return out

def lines(items): return "[\n" + ",\n".join(json.dumps(i, separators=(",", ":")) for i in items) + "\n]"

with open(os.path.join(here, "variants.json"), "w") as f:
    for v in VARIANTS:
        v["cases"] = [[c["text"], c["ids"], c.get("ids_with_special", c["ids"]), c["decoded"]]
                      for c in cases(Tokenizer.from_str(json.dumps(document(v))), TEXTS)]
    f.write('{"models": ' + json.dumps(MODELS, separators=(",", ":")) + ',\n"variants": ' + lines(VARIANTS) + "}\n")
for name in ["pythia", "smollm"]:
    t = Tokenizer.from_file(os.path.join(sys.argv[1], name, "tokenizer.json"))
    t.no_truncation(), t.no_padding()
    with open(os.path.join(here, name + ".json"), "w") as f:
        f.write(lines(cases(t, TEXTS)) + "\n")
