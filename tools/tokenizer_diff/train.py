#!/usr/bin/env python3
"""Trains small tokenizers, from the texts of strings.py and of this folder.

    train.py golden DIRECTORY       byte-level/ and sentencepiece/, about 500 tokens each
    train.py llama2 DIRECTORY       one of 6,000 tokens that is put together like Llama-2's"""

import json
import os
import sys

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

import strings
import variants


def texts(count):
    maker = strings.Maker(7)
    here = os.path.dirname(os.path.abspath(__file__))
    out = list(strings.PHRASES) * 3 + list(strings.CODE)
    for name in sorted(os.listdir(here)):
        if name.endswith(".py"):
            with open(os.path.join(here, name), encoding="utf-8") as file:
                out += file.read().split("\n\n")
    return out + [maker.prose() + " " + maker.number() for _ in range(count)]


def save(tokenizer, directory, edit=None):
    content = json.loads(tokenizer.to_str())
    if edit:
        edit(content)
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "tokenizer.json"), "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


def byte_level(directory, size, count):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(variants.LLAMA3 + r"|\s+(?!\S)|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size - 4, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts(count), trainer)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", tokenizers.AddedToken("<|im_end|>", rstrip=True, special=True)])
    tokenizer.add_tokens([tokenizers.AddedToken("<think>", normalized=False)])
    begin = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", begin)])])
    save(tokenizer, directory)


def llama2(directory, size, count):
    fallback = ["<0x%02X>" % byte for byte in range(256)]
    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")  # words, for the training alone
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>", "<s>", "</s>"] + fallback, limit_alphabet=120,
                                  show_progress=False)
    tokenizer.train_from_iterator(texts(count), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])

    def edit(content):
        content["pre_tokenizer"] = None
        content["added_tokens"] = content["added_tokens"][:3]
    save(tokenizer, directory, edit)


def main():
    what, directory = sys.argv[1:]
    if what == "golden":
        byte_level(os.path.join(directory, "byte-level"), 500, 300)
        llama2(os.path.join(directory, "sentencepiece"), 560, 300)
    else:
        llama2(directory, 6000, 4000)


main()
