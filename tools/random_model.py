#!/usr/bin/env python3
"""Writes a Hugging Face directory with random bf16 weights at the shape of a real model, for speed measurements.

    tools/random_model.py qwen2.5-0.5b /tmp/qwen05b
    build/src/lorad bench --model /tmp/qwen05b

or LoRA adapters for it as PEFT directories, /tmp/adapters/a0 and so on, on all linear maps:

    tools/random_model.py qwen2.5-0.5b /tmp/adapters --adapters 8 --rank 16

Standard library only. The same arguments give the same bytes. The text that such a model makes means nothing; its speed does.
"""
import argparse
import json
import pathlib
import random
import struct

SHAPES = {
    "qwen2.5-0.5b": dict(model_type="qwen2", hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
                         intermediate_size=4864, vocab_size=151936, tie_word_embeddings=True, max_position_embeddings=32768,
                         rope_theta=1e6, rms_norm_eps=1e-6),
    "llama-3.2-1b": dict(model_type="llama", hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
                         intermediate_size=8192, vocab_size=128256, tie_word_embeddings=True, max_position_embeddings=131072,
                         rope_theta=5e5, rms_norm_eps=1e-5),
}


def bf16(value):
    return struct.unpack("<I", struct.pack("<f", value))[0] >> 16


def tensors(c):
    """(name, shape, the standard deviation that keeps activations near 1; None: ones)"""
    h, f, hd = c["hidden_size"], c["intermediate_size"], c["hidden_size"] // c["num_attention_heads"]
    kv = hd * c["num_key_value_heads"]
    yield "model.embed_tokens.weight", (c["vocab_size"], h), 0.02
    for n in range(c["num_hidden_layers"]):
        p = f"model.layers.{n}."
        for name, rows in (("q", h), ("k", kv), ("v", kv)):
            yield p + f"self_attn.{name}_proj.weight", (rows, h), h ** -0.5
            if c["model_type"] == "qwen2":
                yield p + f"self_attn.{name}_proj.bias", (rows,), 0.02
        yield p + "self_attn.o_proj.weight", (h, h), h ** -0.5
        yield p + "mlp.gate_proj.weight", (f, h), h ** -0.5
        yield p + "mlp.up_proj.weight", (f, h), h ** -0.5
        yield p + "mlp.down_proj.weight", (h, f), f ** -0.5
        yield p + "input_layernorm.weight", (h,), None
        yield p + "post_attention_layernorm.weight", (h,), None
    yield "model.norm.weight", (h,), None


def block(deviation, seed, n=1 << 19):
    """Random values, to be repeated; an odd number of them, so that rows differ."""
    if deviation is None:
        return struct.pack("<H", bf16(1.0)) * n
    draw = random.Random(round(deviation * 1e9) + seed)
    return b"".join(struct.pack("<H", bf16(draw.gauss(0, deviation))) for _ in range(n - 1))


def adapter_tensors(c, rank):
    """A and B of every linear map; small, so that the adapted model's activations stay near 1."""
    for name, shape, _ in tensors(c):
        if name.endswith("_proj.weight"):
            path = "base_model.model." + name.removesuffix("weight")
            yield path + "lora_A.weight", (rank, shape[1]), 0.01
            yield path + "lora_B.weight", (shape[0], rank), 0.01


def write_tensors(path, entries, seed=0):
    header, offset, entries = {}, 0, list(entries)
    for name, shape, _ in entries:
        n_bytes = 2
        for d in shape:
            n_bytes *= d
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + n_bytes]}
        offset += n_bytes
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    blocks = {}
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, _, deviation in entries:
            if deviation not in blocks:
                blocks[deviation] = block(deviation, seed)
            data = blocks[deviation]
            begin, end = header[name]["data_offsets"]
            left = end - begin
            while left > 0:
                left -= out.write(data[:left])


def byte_level_tokenizer():
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in visible]
    characters = {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(others)}
    return {"version": "1.0", "added_tokens": [], "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
            "model": {"type": "BPE", "vocab": {characters[b]: b for b in range(256)}, "merges": []}}


def write_model(directory, config):
    (directory / "config.json").write_text(json.dumps({**config, "hidden_act": "silu", "torch_dtype": "bfloat16"}, indent=1))
    (directory / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer(), indent=1))
    write_tensors(directory / "model.safetensors", tensors(config))


def write_adapter(directory, config, rank, seed):
    directory.mkdir(exist_ok=True)
    sites = sorted({name.split(".")[-2] for name, _, _ in tensors(config) if name.endswith("_proj.weight")})
    (directory / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "target_modules": sites}, indent=1))
    write_tensors(directory / "adapter_model.safetensors", adapter_tensors(config, rank), seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--adapters", type=int, default=0, metavar="N", help="write N adapters, a0 and so on, and no model")
    parser.add_argument("--rank", type=int, default=16, metavar="R", help="their rank (16)")
    arguments = parser.parse_args()
    config = SHAPES[arguments.shape]
    arguments.directory.mkdir(parents=True, exist_ok=True)
    if not arguments.adapters:
        write_model(arguments.directory, config)
    for i in range(arguments.adapters):
        write_adapter(arguments.directory / f"a{i}", config, arguments.rank, seed=i + 1)


if __name__ == "__main__":
    main()
