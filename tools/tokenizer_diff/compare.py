#!/usr/bin/env python3
"""Compares the tokenizer with Hugging Face `tokenizers`, call by call.

    compare.py --driver build/tests/tokenize_lines DIRECTORY...
    compare.py --driver build/tests/tokenize_lines --variants      (made-up tokenizer.json files, see variants.py)

Every DIRECTORY holds a tokenizer.json, and may hold cases.inp and cases.out (texts, and ids per text). Compared
are encode with and without special tokens, decode of those ids, decode of random ids, and the streamed pieces.
Ends with 1 if anything differs."""

import argparse
import collections
import os
import random
import sys
import tempfile

import tokenizers

import driver as driver_
import strings
import variants


class Report:
    def __init__(self, name, shown):
        self.name, self.shown, self.counts, self.bad = name, shown, collections.Counter(), collections.Counter()

    def check(self, what, given, expected, got):
        self.counts[what] += 1
        if expected != got:
            self.bad[what] += 1
            if self.bad[what] <= self.shown:
                print("%s: %s of %s\n   expected %s\n   got      %s" % (self.name, what, clip(given), clip(expected), clip(got)))

    def end(self):
        print("%-24s" % self.name + ", ".join("%s %d/%d" % (k, self.bad[k], self.counts[k]) for k in self.counts), flush=True)
        return sum(self.bad.values())


def clip(value):
    text = ascii(value)
    return text if len(text) < 400 else text[:300] + " ... " + text[-80:]


def is_streamable(text):
    """Where the text has replacement characters, pieces may cut an invalid run in another way."""
    return "\ufffd" not in text


def hf_encode(hf, texts, add_special_tokens):
    """Ids per text; None where the library panics, which it does in a few unusual configurations."""
    try:
        return [e.ids for e in hf.encode_batch_fast(texts, add_special_tokens=add_special_tokens)]
    except BaseException as error:  # a panic is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        half = len(texts) // 2
        if half == 0:
            return [None]
        return hf_encode(hf, texts[:half], add_special_tokens) + hf_encode(hf, texts[half:], add_special_tokens)


def compare_encode(report, hf, texts, ask):
    encoded = []
    for what, kind, special in (("encode", "E", False), ("with special", "S", True), ("special as text", "T", False)):
        hf.encode_special_tokens = kind == "T"
        rows = hf_encode(hf, texts, special)
        for text, row, answer in zip(texts, rows, ask([(kind, text.encode()) for text in texts])):
            if row is None:
                report.counts["panics of the other"] += 1
            else:
                report.check(what, text, row, answer[1])
        encoded = rows if special else encoded
    hf.encode_special_tokens = False
    return [row for row in encoded if row]


def compare_decode(report, hf, rows, ask):
    rows = [row for row in rows if row]
    answers = iter(ask([(kind, driver_.pack(row)) for row in rows for kind in "DKP"]))
    for row in rows:
        text = hf.decode(row, skip_special_tokens=False)
        report.check("decode", row, text, next(answers)[1].decode())
        report.check("decode skipping", row, hf.decode(row, skip_special_tokens=True), next(answers)[1].decode())
        pieces = next(answers)[1].decode()
        if is_streamable(text):
            report.check("pieces", row, text, pieces)


def random_rows(hf, count, seed):
    rng = random.Random(seed)
    ids = sorted(hf.get_vocab().values())
    short = [i for i in ids if len(hf.id_to_token(i)) <= 2 or hf.id_to_token(i).startswith("<0x")]
    rows = []
    for _ in range(count):
        pool = short if short and rng.random() < 0.5 else ids
        rows.append([rng.choice(pool if rng.random() < 0.9 else ids) for _ in range(rng.randint(1, 12))])
    return rows


def read_cases(directory):
    if not os.path.exists(os.path.join(directory, "cases.inp")):
        return []
    with open(os.path.join(directory, "cases.inp"), newline="", encoding="utf-8") as file:
        texts = file.read().split("\n__ggml_vocab_test__\n")
    with open(os.path.join(directory, "cases.out"), encoding="utf-8") as file:
        rows = [[int(word) for word in line.split()] for line in file.read().split("\n")]
    return list(zip(texts, rows))


def compare(name, directory, args, count):
    hf = tokenizers.Tokenizer.from_file(os.path.join(directory, "tokenizer.json"))
    hf.no_truncation()
    hf.no_padding()
    report = Report(name, args.show)
    ask = lambda requests: driver_.ask(args.driver, directory, requests)
    cases = read_cases(directory)
    for (text, row), answer in zip(cases, ask([("E", text.encode()) for text, _ in cases])):
        report.check("cases", text, row, answer[1])
    specials = [token.content for token in hf.get_added_tokens_decoder().values()]
    texts = strings.make(count, args.seed, specials) + (strings.code_points() if args.code_points else [])
    rows = compare_encode(report, hf, texts, ask)
    compare_decode(report, hf, rows + random_rows(hf, count // 2, args.seed), ask)
    return report.end()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--driver", required=True)
    parser.add_argument("--count", type=int, default=20000, help="random texts per tokenizer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=5, help="disagreements printed per kind")
    parser.add_argument("--code-points", action="store_true", help="and every code point there is")
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--only", default="", help="of the variants, those with this in the name")
    parser.add_argument("directories", nargs="*")
    args = parser.parse_args()
    n_bad = 0
    for directory in args.directories:
        n_bad += compare(os.path.basename(directory.rstrip("/")), directory, args, args.count)
    if args.variants:
        with tempfile.TemporaryDirectory() as root:
            for name, directory in variants.write(root):
                if args.only in name:
                    n_bad += compare(name, directory, args, max(args.count // 20, 200))
    sys.exit(1 if n_bad else 0)


if __name__ == "__main__":
    main()
