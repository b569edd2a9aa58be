"""Tiny random base models in Hugging Face form, with shapes chosen to be awkward."""

import json
import shutil
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

N_TOKENS = 300  # entries of the tokenizer; a model may have more rows than that
EOS = N_TOKENS - 1
EOS_TEXT = "<|endoftext|>"

MERGES = """Ġ t|h e|Ġ a|i n|r e|o n|Ġt he|e r|Ġ s|a t|Ġ w|e n|o u|Ġ o|n d|i t|Ġ b|e s|o r|Ġ c|Ġ f|i s|in g|Ġ p|l l|Ġa nd|Ġ m
Ġo f|Ġ d|a n|a r|Ġt o|e d|Ġ in|Ġ h|a l|v e|l e|s t|o m|Ġ n|1 2|Ġ Ġ"""


def seed_of(name):
    return zlib.crc32(name.encode())


def generator(name):
    return torch.Generator().manual_seed(seed_of(name))


def byte_alphabet():
    """GPT-2's printable stand-ins: byte -> character, in the order in which they get their ids."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shown = {b: chr(b) for b in plain}
    for b in range(256):
        if b not in shown:
            shown[b] = chr(256 + len(shown) - len(plain))
    return list(shown.values())


def write_tokenizer(directory):
    merges = [m.split(" ") for m in MERGES.replace("\n", "|").split("|")]
    words = byte_alphabet() + ["".join(m) for m in merges]
    assert len(words) == len(set(words)) == EOS
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": EOS, "content": EOS_TEXT, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True}],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {w: i for i, w in enumerate([*words, EOS_TEXT])}, "merges": merges},
    }
    config = {"add_prefix_space": False, "added_tokens_decoder": {str(EOS): {
        "content": EOS_TEXT, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}},
        "bos_token": EOS_TEXT, "eos_token": EOS_TEXT, "unk_token": EOS_TEXT, "clean_up_tokenization_spaces": False,
        "model_max_length": 64, "tokenizer_class": "PreTrainedTokenizerFast"}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")) + "\n")
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def rope(theta=10000.0, kind="default", **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


def llama(kind="llama", **fields):
    base = dict(model_type=kind, vocab_size=N_TOKENS, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
                num_attention_heads=3, num_key_value_heads=1, max_position_embeddings=256, rms_norm_eps=1e-3,
                tie_word_embeddings=False, bos_token_id=EOS, eos_token_id=EOS, rope_parameters=rope())
    return {**base, **fields}


def gpt2(**fields):
    base = dict(model_type="gpt2", vocab_size=N_TOKENS, n_embd=24, n_layer=2, n_head=3, n_positions=64,
                bos_token_id=EOS, eos_token_id=EOS)
    return {**base, **fields}


# style: which transformers' habits the files follow ("v5" or "v4"); dtype: how the weights are stored.
MODELS = {
    "gpt2": dict(config=gpt2()),
    "gpt2-noprefix": dict(config=gpt2(n_head=2, n_inner=56), style="v4", prefix=False),
    "gpt2-variant": dict(config=gpt2(n_inner=40, scale_attn_by_inverse_layer_idx=True, activation_function="gelu",
                                     layer_norm_epsilon=1e-2, tie_word_embeddings=False)),
    "gpt2-bf16": dict(config=gpt2(), dtype=torch.bfloat16, style="v4"),
    "llama": dict(config=llama(num_attention_heads=6, num_key_value_heads=2, head_dim=8, num_hidden_layers=3)),
    "llama-tied-rope-llama3": dict(style="v4", config=llama(
        hidden_size=40, intermediate_size=28, num_attention_heads=5, num_key_value_heads=5, tie_word_embeddings=True, rope_parameters=rope(
            kind="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128))),
    "llama-rope-llama3": dict(config=llama(
        tie_word_embeddings=True, num_attention_heads=2, num_key_value_heads=1, head_dim=12, rope_parameters=rope(
            theta=50000.0, kind="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=64))),
    "llama-rope-linear": dict(config=llama(tie_word_embeddings=True, rope_parameters=rope(kind="linear", factor=2.5))),
    "llama-rope-linear-v4": dict(style="v4", config=llama(
        tie_word_embeddings=True, rope_parameters=rope(theta=500.0, kind="linear", factor=4.0))),
    "llama-bias": dict(config=llama(attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    "llama-bf16": dict(config=llama(), dtype=torch.bfloat16, style="v4"),
    "llama-f16": dict(config=llama(tie_word_embeddings=True), dtype=torch.float16),
    "llama-sharded": dict(config=llama(tie_word_embeddings=True), style="v4", shards=3),
    "mistral": dict(config=llama("mistral", sliding_window=None, head_dim=12, num_attention_heads=2)),
    "mistral-window": dict(style="v4", config=llama("mistral", sliding_window=8, tie_word_embeddings=True)),
    # the file names a window but switches it off, and has more rows than the tokenizer has entries
    "qwen2": dict(style="v4", vocab_rows=304, more={"sliding_window": 4, "use_sliding_window": False, "max_window_layers": 1},
                  config=llama("qwen2", vocab_size=304, rope_parameters=rope(1000000.0))),
    "qwen2-window": dict(config=llama("qwen2", use_sliding_window=True, sliding_window=6, max_window_layers=1,
                                      num_hidden_layers=3, num_key_value_heads=3, tie_word_embeddings=True)),
    "qwen3": dict(config=llama("qwen3", num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                               tie_word_embeddings=True, rope_parameters=rope(1000000.0))),
    "qwen3-untied": dict(style="v4", config=llama("qwen3", num_attention_heads=2, num_key_value_heads=1, head_dim=8)),
}


def randomise(model, name):
    """Spread everything: norms round 1, biases away from 0, logits over several nats. Small weights would hide errors."""
    g = generator("model " + name)
    head = model.get_output_embeddings().weight
    width = head.shape[1]
    gain = 2.0 if model.config.tie_word_embeddings else 1.3  # or a tied head would only ever repeat the last token
    for key, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=g)
        if p is head:
            value = noise * 2.0 / width**0.5
        elif p.ndim == 1:
            norm_gain = key.endswith("weight")
            value = 1 + 0.25 * noise if norm_gain else 0.3 * noise
        elif "wpe" in key:
            value = 0.4 * noise
        elif p is model.get_input_embeddings().weight:
            value = noise
        else:
            fan_in = p.shape[0] if model.config.model_type == "gpt2" else p.shape[1]
            value = noise * gain / fan_in**0.5
        p.data.copy_(value)


def stored_tensors(model, spec):
    head_is_tied = model.config.tie_word_embeddings
    tensors = {k: v.detach() for k, v in model.state_dict().items() if not (head_is_tied and k == "lm_head.weight")}
    if spec.get("prefix", True) is False:
        tensors = {k.removeprefix("transformer."): v for k, v in tensors.items()}
        n = model.config.n_positions
        for i in range(model.config.n_layer):  # the published gpt2 carries its causal masks along
            tensors[f"h.{i}.attn.bias"] = torch.tril(torch.ones(n, n)).view(1, 1, n, n)
    dtype = spec.get("dtype", torch.float32)
    return {k: v.to(dtype).contiguous() for k, v in tensors.items()}


def config_json(model, spec):
    """What save_pretrained of transformers 5 writes, or what version 4 wrote for the same model."""
    config = model.config.to_diff_dict()
    config["architectures"] = [type(model).__name__]
    dtype = str(spec.get("dtype", torch.float32)).removeprefix("torch.")
    config.pop("dtype", None)
    if spec.get("style", "v5") == "v5":
        config["dtype"] = dtype
    else:
        config["torch_dtype"] = dtype
        config["transformers_version"] = "4.46.3"
        config.pop("layer_types", None)
        rope_fields = config.pop("rope_parameters", None)
        if rope_fields:
            config["rope_theta"] = rope_fields.pop("rope_theta")
            config["rope_scaling"] = None if rope_fields["rope_type"] == "default" else rope_fields
            if rope_fields["rope_type"] == "linear":  # older still: "type"
                rope_fields["type"] = rope_fields.pop("rope_type")
        if config.get("head_dim") == config.get("hidden_size", 0) // config.get("num_attention_heads", 1):
            del config["head_dim"]
    config.update(spec.get("more", {}))
    return dict(sorted(config.items()))


def write_shards(directory, tensors, n_shards):
    names = sorted(tensors)
    weight_map, total = {}, 0
    for s in range(n_shards):
        part = {k: tensors[k] for k in names[s::n_shards]}
        file = f"model-{s + 1:05}-of-{n_shards:05}.safetensors"
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map.update({k: file for k in part})
        total += sum(t.numel() * t.element_size() for t in part.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_model(root, name):
    spec = MODELS[name]
    directory = Path(root) / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    fields = dict(spec["config"])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields), dtype=torch.float32)
    model.tie_weights()
    randomise(model, name)
    tensors = stored_tensors(model, spec)
    if "shards" in spec:
        write_shards(directory, tensors, spec["shards"])
    else:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config_json(model, spec), indent=2) + "\n")
    generation = {"_from_model_config": True, "bos_token_id": EOS, "eos_token_id": EOS, "transformers_version":
                  config_json(model, spec)["transformers_version"]}
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    write_tokenizer(directory)
    check_reload(directory, model, spec)


def check_reload(directory, model, spec):
    """The files must mean the model that was built, and a bias or a norm may not have kept its initial value."""
    again = load_base(directory)
    dtype = spec.get("dtype", torch.float32)
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value.to(dtype).float(), theirs[key]), key
        assert value.float().std() > 0.05, key
    if dtype == torch.float32:
        ids = torch.arange(40)[None]
        model = model.eval()
        model.config._attn_implementation = "eager"
        assert torch.allclose(model(ids).logits, again(ids).logits, atol=1e-5), f"{directory}: another model after reload"


def load_base(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
