#!/usr/bin/env python3
"""Makes a tokenizer.json of a vocabulary in a GGUF file, so that its known vectors can be checked.

    from_gguf.py vocab.gguf OUT_DIRECTORY

Understands tokenizer.ggml.model "llama" (scores) and "gpt2" (merges, with the splits of deepseek-llm)."""

import json
import os
import struct
import sys

import variants

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

# Line ends, cased letters, punctuation, final spaces, Han and Hangul, numbers.
SPLITS = ["[\\r\\n]", "\\s?[\\p{Lu}\\p{Ll}\\p{Lt}]+", "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", "\\s+$",
          "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", "\\p{N}+"]


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def scalar(self, kind):
        value, = struct.unpack_from("<" + kind, self.data, self.at)
        self.at += struct.calcsize(kind)
        return value

    def text(self):
        n = self.scalar("Q")
        self.at += n
        return self.data[self.at - n:self.at].decode("utf-8", "surrogateescape")

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            item, n = self.scalar("I"), self.scalar("Q")
            return [self.value(item) for _ in range(n)]
        return self.scalar(SCALARS[kind])

    def metadata(self):
        self.at = 4
        _, _, n = self.scalar("I"), self.scalar("Q"), self.scalar("Q")
        return {self.text(): self.value(self.scalar("I")) for _ in range(n)}


def merges_by_score(tokens, scores):
    """All ways to put a token together from two others, the best token first."""
    known, out = {t: i for i, t in enumerate(tokens)}, []
    for id_, token in enumerate(tokens):
        parts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in known and token[i:] in known]
        out += [(-scores[id_], known[a], known[b], a, b) for a, b in parts]
    return [[a, b] for _, _, _, a, b in sorted(out, key=lambda item: item[0])]


def convert(meta):
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    special = [(t, {}) for t, kind in zip(tokens, types) if kind in (2, 3)]
    vocab = {t: i for i, t in enumerate(tokens)}
    model = {"type": "BPE", "vocab": vocab}
    if meta["tokenizer.ggml.model"] == "llama":
        model.update(unk_token="<unk>", fuse_unk=True, byte_fallback=True,
                     merges=merges_by_score(tokens, meta["tokenizer.ggml.scores"]))
        return variants.tokenizer(model, special, variants.LLAMA_NORMALIZER, None, None, variants.LLAMA_DECODER)
    model["merges"] = [line.split(" ") for line in meta["tokenizer.ggml.merges"]]
    added = [(t, dict(special=False)) for t, kind in zip(tokens, types) if kind == 4]
    splits = [variants.split(pattern, "Isolated") for pattern in SPLITS]
    return variants.tokenizer(model, special + added, None, variants.sequence("pretokenizers", *splits,
                                                                              variants.byte_level(False, False)),
                              None, variants.LEVEL_DECODER)


def main():
    source, directory = sys.argv[1:]
    with open(source, "rb") as file:
        meta = Reader(file.read()).metadata()
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "tokenizer.json"), "w", encoding="utf-8") as file:
        json.dump(convert(meta), file, ensure_ascii=False)
    for name in ("cases.inp", "cases.out"):
        with open(os.path.join(os.path.dirname(source), name), "rb") as file:
            data = file.read()
        with open(os.path.join(directory, name), "wb") as file:
            file.write(data)


main()
