"""Adapters that must not load, each with the reason that must be named."""

import json
import shutil

import torch
from safetensors.torch import save, save_file

from tiny_models import generator

HIDDEN, Q_ROWS, RANK = 24, 48, 2  # of the model "llama"
BASE = "base_model.model."
Q = BASE + "model.layers.{}.self_attn.q_proj"


def pair(name, module, rows=Q_ROWS, columns=HIDDEN, rank=RANK):
    g = generator("refused " + name + module)
    return {f"{module}.lora_A.weight": 0.2 * torch.randn(rank, columns, generator=g),
            f"{module}.lora_B.weight": 0.2 * torch.randn(rows, rank, generator=g)}


def good(name):
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "llama", "r": RANK, "lora_alpha": 4,
              "lora_dropout": 0.0, "bias": "none", "target_modules": ["q_proj"], "fan_in_fan_out": False, "inference_mode": True,
              "init_lora_weights": True, "modules_to_save": None, "peft_version": "0.21.2"}
    return config, {k: v for i in (0, 2) for k, v in pair(name, Q.format(i)).items()}


REFUSED = {}


def refuse(name, status, *words, model="llama"):
    def keep(change):
        REFUSED[name] = (change, {"model": model, "status": status, "message_contains": list(words)})
    return keep


def field(key, value, status="mismatch", *words, name=None, **more):
    refuse(name or key.replace("_", "-"), status, key, *words)(lambda c, t: c.update({key: value}, **more))


# a kind that is not served
for kind in ("IA3", "VERA", "ADALORA", "LOHA", "PROMPT_TUNING", "UNHEARD_OF"):
    field("peft_type", kind, "mismatch", kind, name="peft-type-" + kind.lower().replace("_", "-"))
for start in ("pissa", "pissa_niter_4", "olora", "corda", "lora_ga", "loftq"):
    field("init_lora_weights", start, "mismatch", start, name="init-" + start.replace("_", "-"))
field("alora_invocation_tokens", [5, 6, 7])
field("target_parameters", ["mlp.experts.gate_up_proj"])
field("use_qalora", True, qalora_group_size=8)
field("use_bdlora", {"target_modules_bd_a": ["q_proj"], "nblocks": 2})
field("arrow_config", {"top_k": 2})
field("kasa_config", {"beta": 1e-4})
field("layer_replication", [[0, 2], [1, 3]])
field("megatron_config", {"tensor_model_parallel_size": 2})


@refuse("task-score-head", "mismatch", "SEQ_CLS")
def _(c, t):
    c.update(task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    t[BASE + "score.weight"] = torch.ones(2, HIDDEN)


# a field that is malformed
field("r", 0, "bad_input", name="rank-zero")
field("r", -2, "bad_input", name="rank-negative")
field("r", "8", "bad_input", name="rank-text")
field("r", 2.5, "bad_input", name="rank-fraction")
field("lora_alpha", "16", "bad_input", name="alpha-text")
field("bias", "some", "bad_input", name="bias-unknown")
field("target_modules", "*.q_proj(", "bad_input", name="target-regex-broken")
field("rank_pattern", {"q_proj": 0}, "bad_input", name="pattern-rank-zero")
field("layers_to_transform", ["one"], "bad_input", name="layers-text")
refuse("peft-type-missing", "bad_input", "peft_type")(lambda c, t: c.pop("peft_type"))

# tensors that do not belong together, or not to this base
refuse("half-pair-a", "mismatch", "layers.2.self_attn.q_proj")(lambda c, t: t.pop(Q.format(2) + ".lora_B.weight"))
refuse("half-pair-b", "mismatch", "layers.2.self_attn.q_proj")(lambda c, t: t.pop(Q.format(2) + ".lora_A.weight"))
refuse("leftover-tensor", "mismatch", "lora_C")(lambda c, t: t.update({Q.format(0) + ".lora_C.weight": torch.ones(2, 2)}))
refuse("leftover-top-level", "mismatch", "step_count")(lambda c, t: t.update({"step_count": torch.ones(1)}))
refuse("lora-diag", "mismatch", "lora_diag")(lambda c, t: t.update({Q.format(0) + ".lora_diag": torch.ones(2)}))
refuse("layer-beyond-base", "mismatch", "layers.3.")(lambda c, t: t.update(pair("layer-beyond-base", Q.format(3))))
refuse("other-hidden-size", "mismatch", "q_proj", "32")(lambda c, t: t.update(
    {k: v for i in (0, 2) for k, v in pair("other-hidden-size", Q.format(i), 32, 32).items()}))
refuse("wrong-in", "mismatch", "lora_A")(lambda c, t: t.update({Q.format(0) + ".lora_A.weight": torch.ones(RANK, 23)}))
refuse("wrong-out", "mismatch", "lora_B")(lambda c, t: t.update({Q.format(0) + ".lora_B.weight": torch.ones(24, RANK)}))
refuse("transposed", "mismatch", "q_proj")(lambda c, t: t.update({k: v.T.contiguous() for k, v in t.items()}))
refuse("rank-of-pair-differs", "mismatch", "q_proj")(lambda c, t: t.update({Q.format(0) + ".lora_A.weight": torch.ones(3, HIDDEN)}))
refuse("rank-against-config", "mismatch", "q_proj")(lambda c, t: c.update(r=4))
refuse("rank-against-pattern", "mismatch", "q_proj")(lambda c, t: c.update(rank_pattern={"layers.2.self_attn.q_proj": 3}))
refuse("three-dimensions", "mismatch", "lora_A")(lambda c, t: t.update({Q.format(0) + ".lora_A.weight": torch.ones(1, RANK, HIDDEN)}))
refuse("outside-targets", "mismatch", "k_proj")(lambda c, t: t.update(
    pair("outside-targets", BASE + "model.layers.0.self_attn.k_proj", 16)))
refuse("bias-without-base-bias", "mismatch", "q_proj", "bias")(lambda c, t: (
    c.update(bias="lora_only"), t.update({Q.format(0) + ".base_layer.bias": torch.ones(Q_ROWS)})))
refuse("pair-and-module-to-save", "mismatch", "q_proj")(lambda c, t: (
    c.update(modules_to_save=["layers.0.self_attn.q_proj"]), t.update({Q.format(0) + ".weight": torch.ones(Q_ROWS, HIDDEN)})))
refuse("module-to-save-wrong-shape", "mismatch", "model.norm")(lambda c, t: (
    c.update(modules_to_save=["model.norm"]), t.update({BASE + "model.norm.weight": torch.ones(HIDDEN + 1)})))
refuse("module-to-save-undeclared", "mismatch", "model.norm")(lambda c, t: t.update({BASE + "model.norm.weight": torch.ones(HIDDEN)}))
refuse("dora-without-magnitude", "mismatch", "lora_magnitude_vector")(lambda c, t: c.update(use_dora=True))
refuse("magnitude-without-dora", "mismatch", "lora_magnitude_vector")(
    lambda c, t: t.update({Q.format(0) + ".lora_magnitude_vector": torch.ones(Q_ROWS)}))
refuse("magnitude-wrong-length", "mismatch", "lora_magnitude_vector")(lambda c, t: (c.update(use_dora=True), t.update(
    {Q.format(i) + ".lora_magnitude_vector": torch.ones(Q_ROWS - i) for i in (0, 2)})))
refuse("token-index-beyond-vocab", "mismatch", "trainable_token_indices", "300")(lambda c, t: (
    c.update(trainable_token_indices=[7, 300]),
    t.update({BASE + "model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, HIDDEN)})))
refuse("token-indices-miscounted", "mismatch", "trainable_tokens_delta")(lambda c, t: (
    c.update(trainable_token_indices=[7, 8, 9]),
    t.update({BASE + "model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, HIDDEN)})))
refuse("another-base-embedding", "mismatch", "embed_tokens.base_layer.weight")(lambda c, t: (
    c.update(target_modules=["embed_tokens", "q_proj"]), t.update({
        BASE + "model.embed_tokens.lora_embedding_A": torch.ones(RANK, 300),
        BASE + "model.embed_tokens.lora_embedding_B": torch.ones(HIDDEN, RANK),
        BASE + "model.embed_tokens.base_layer.weight": torch.ones(300, HIDDEN, dtype=torch.float16)})))
refuse("vision-tower", "mismatch", "vision_tower")(lambda c, t: t.update(
    pair("vision-tower", BASE + "vision_tower.encoder.layers.0.self_attn.q_proj")))


@refuse("other-family", "mismatch", "c_attn")
def _(c, t):
    c.update(target_modules=["c_attn"], fan_in_fan_out=True)
    t.clear()
    t.update(pair("other-family", BASE + "transformer.h.0.attn.c_attn", 72))


@refuse("other-family-on-gpt2", "mismatch", "q_proj", model="gpt2")
def _(c, t):
    pass


@refuse("empty", "mismatch", "tensor")
def _(c, t):
    t.clear()


@refuse("two-adapter-names", "mismatch", "default", "other")
def _(c, t):
    for key in list(t):
        name = "default" if "layers.0" in key else "other"
        t[key.replace(".weight", f".{name}.weight")] = t.pop(key)


@refuse("same-tensor-twice", "mismatch", "q_proj.lora_A")
def _(c, t):
    t[Q.format(0) + ".lora_A.default.weight"] = torch.ones(RANK, HIDDEN)


# values and number types
for word, value in (("nan", float("nan")), ("infinity", float("inf"))):
    for half, half_dtype in (("lora_A", torch.float32), ("lora_B", torch.bfloat16)):
        def poison(c, t, half=half, value=value, dtype=half_dtype):
            t.update({k: v.to(dtype) for k, v in t.items()})
            t[Q.format(2) + f".{half}.weight"][1, 1] = value
        refuse(f"{word}-in-{half.lower().replace('_', '-')}", "bad_input", f"layers.2.self_attn.q_proj.{half}")(poison)
refuse("integers", "mismatch", "q_proj.lora_A", "I32")(lambda c, t: t.update(
    {Q.format(0) + ".lora_A.weight": torch.ones(RANK, HIDDEN, dtype=torch.int32)}))

# files
FILES = {
    "pickle-only": ("mismatch", ["adapter_model.bin"]),
    "weights-missing": ("not_found", ["adapter_model.safetensors"]),
    "config-missing": ("not_found", ["adapter_config.json"]),
    "config-not-json": ("bad_input", ["adapter_config.json"]),
    "config-a-list": ("bad_input", ["adapter_config.json"]),
    "weights-truncated": ("bad_input", ["adapter_model.safetensors"]),
    "weights-header-truncated": ("bad_input", ["adapter_model.safetensors"]),
    "weights-empty-file": ("bad_input", ["adapter_model.safetensors"]),
    "weights-header-beyond-file": ("bad_input", ["adapter_model.safetensors"]),
}


def write_broken_files(directory, name):
    config, tensors = good(name)
    text, data = json.dumps(config, indent=2) + "\n", save(tensors, metadata={"format": "pt"})
    if name == "config-not-json":
        text = text[: len(text) // 2]
    elif name == "config-a-list":
        text = f"[{text}]\n"
    elif name == "weights-truncated":
        data = data[:-40]
    elif name == "weights-header-truncated":
        data = data[:100]
    elif name == "weights-empty-file":
        data = b""
    elif name == "weights-header-beyond-file":
        data = (1 << 62).to_bytes(8, "little") + data[8:]
    if name != "config-missing":
        (directory / "adapter_config.json").write_text(text)
    if name == "pickle-only":
        (directory / "adapter_model.bin").write_bytes(b"PK\x03\x04 not opened by anyone")
    elif name != "weights-missing":
        (directory / "adapter_model.safetensors").write_bytes(data)


def expect(directory, expectation):
    (directory / "expect.json").write_text(json.dumps(expectation, indent=2) + "\n")


def make(root):
    shutil.rmtree(root / "refused", ignore_errors=True)
    for name, (change, expectation) in REFUSED.items():
        directory = root / "refused" / name
        directory.mkdir(parents=True)
        config, tensors = good(name)
        change(config, tensors)
        (directory / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
        expect(directory, expectation)
    for name, (status, words) in FILES.items():
        directory = root / "refused" / name
        directory.mkdir(parents=True)
        write_broken_files(directory, name)
        expect(directory, {"model": "llama", "status": status, "message_contains": words})
    return len(REFUSED) + len(FILES)
