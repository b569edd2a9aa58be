#!/usr/bin/env python3
"""Writes what Hugging Face `tokenizers` makes of some texts, for the tests that run without it.

    golden.py [--count N] DIRECTORY...      reads DIRECTORY/tokenizer.json, writes DIRECTORY/cases.json"""

import argparse
import json
import os

import tokenizers

import strings


def case(hf, text):
    whole = hf.encode(text, add_special_tokens=True).ids
    out = {"text": text, "ids": hf.encode(text, add_special_tokens=False).ids}
    if whole != out["ids"]:
        out["with_special"] = whole
    decoded, skipped = hf.decode(whole, skip_special_tokens=False), hf.decode(whole, skip_special_tokens=True)
    if decoded != text:
        out["decoded"] = decoded
    if skipped != decoded:
        out["skipped"] = skipped
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=80)
    parser.add_argument("directories", nargs="+")
    args = parser.parse_args()
    for directory in args.directories:
        hf = tokenizers.Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
        hf.no_truncation()
        hf.no_padding()
        specials = [token.content for token in hf.get_added_tokens_decoder().values()]
        texts = [t for t in strings.make(20 * args.count, 3, specials) + strings.PHRASES + strings.CODE if len(t) < 60]
        texts = texts[:12] + texts[12::len(texts) // args.count]
        with open(os.path.join(directory, "cases.json"), "w", encoding="utf-8") as file:
            file.write("[\n" + ",\n".join(json.dumps(case(hf, t), separators=(",", ":")) for t in texts) + "\n]\n")


main()
