"""PEFT adapters with every option that matters, what they answer, and what several of them answer together."""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

import oracle
from tiny_models import generator, load_base

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
LINEAR = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]
SAVED_AS_TRAINED = 2e-5  # an adapter read back from its files against the model it was saved from
MERGED_AS_SERVED = 1e-4  # W + s·BA against Wx + s·B(Ax)
CHANGES = 0.05           # every adapter must move some log-probability at least this far from the base


# --- what is written after save_pretrained, as other writers and other versions leave it ---

def stored_as(dtype):
    return lambda config, tensors: (config, {k: v.to(dtype) for k, v in tensors.items()})


def keys(rename):
    return lambda config, tensors: (config, {rename(k): v for k, v in tensors.items()})


def adapter_name_in_key(key):
    for marker in ("lora_A", "lora_B", "lora_magnitude_vector"):
        key = key.replace(f".{marker}.", f".{marker}.default.")
    if key.endswith("lora_magnitude_vector"):
        key += ".default.weight"
    return key.replace("lora_embedding_A", "lora_embedding_A.default").replace("lora_embedding_B", "lora_embedding_B.default")


def raw_state_dict(config, tensors):
    """As trainers that dump the model's own state write it: the wrapper's copies under their internal names."""
    out = {}
    for key, value in tensors.items():
        module, _, leaf = key.rpartition(".")
        if "lora_" in key:
            out[adapter_name_in_key(key)] = value
        else:
            out[f"{module}.modules_to_save.default.{leaf}"] = value
            out[f"{module}.original_module.{leaf}"] = value * 0 + 7
    return config, out


def without_base_copies(config, tensors):
    """save_embedding_layers=False: PEFT otherwise adds the base's own embedding and head to adapters of them."""
    return config, {k: v for k, v in tensors.items() if not k.endswith(".base_layer.weight")}


def without_biases(config, tensors):
    """PEFT from November 2023 to August 2026 forgot to save what bias="lora_only" had trained."""
    return config, {k: v for k, v in tensors.items() if not k.endswith(".bias")}


def config_fields(**fields):
    return lambda config, tensors: ({**config, **fields}, tensors)


def only_fields(*names):
    return lambda config, tensors: ({k: config[k] for k in names}, tensors)


# --- the list: (model, name, LoraConfig fields); fields with a leading underscore are for this script ---

def spec(model, name, _files=None, _twin=False, _cases=1, **config):
    config.setdefault("target_modules", ["q_proj", "v_proj"])
    return dict(model=model, name=f"{model}.{name}", files=_files, twin=_twin, cases=_cases, config=config)


LLAMA = [
    dict(name="plain", r=4, lora_alpha=8, _cases=2),
    dict(name="all-modules", r=3, lora_alpha=5, target_modules=LINEAR),
    dict(name="rank-1", r=1, lora_alpha=2, target_modules=["o_proj", "down_proj"]),
    dict(name="rank-32", r=32, lora_alpha=16, target_modules=["layers.1.mlp.gate_proj"]),
    dict(name="float-alpha", r=4, lora_alpha=8, target_modules=["k_proj"], _files=config_fields(lora_alpha=8.0)),
    dict(name="rslora", r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "v_proj", "up_proj"], _cases=2),
    dict(name="patterns", r=3, lora_alpha=6, target_modules=LINEAR,
         rank_pattern={"layers.0.self_attn.q_proj": 6, "down_proj": 2, "layers\\.[12]\\.self_attn\\.k_proj": 5},
         alpha_pattern={"self_attn.v_proj": 12, "^model.layers.1.mlp.up_proj": 3, "proj_that_is_not_there": 99}, _cases=2),
    dict(name="patterns-rslora", r=2, lora_alpha=4, use_rslora=True, target_modules=["q_proj", "o_proj"],
         rank_pattern={"o_proj": 5}, alpha_pattern={"layers.2.self_attn.q_proj": 1}),
    dict(name="regex", r=3, lora_alpha=6, target_modules=r".*layers\.[02]\.self_attn\.(q|o)_proj"),
    dict(name="regex-lazy", r=2, lora_alpha=4, target_modules=
         r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj))|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:k_proj|up_proj)))"),
    dict(name="all-linear", r=2, lora_alpha=4, target_modules="all-linear"),
    dict(name="all-linear-literal", r=2, lora_alpha=3, target_modules="all-linear",
         _files=config_fields(target_modules="all-linear")),
    dict(name="default-targets", r=2, lora_alpha=4, target_modules=None, _files=config_fields(target_modules=None)),
    dict(name="layer-list", r=3, lora_alpha=6, layers_to_transform=[0, 2]),
    dict(name="layer-one", r=3, lora_alpha=6, layers_to_transform=1, layers_pattern="layers"),
    dict(name="exclude", r=3, lora_alpha=6, target_modules=ATTENTION, exclude_modules=["layers.1.self_attn.k_proj", "v_proj"]),
    dict(name="exclude-regex", r=3, lora_alpha=6, exclude_modules=r".*\.layers\.0\..*"),
    dict(name="bias-all-without-biases", r=2, lora_alpha=4, bias="all"),
    dict(name="lora-bias", r=3, lora_alpha=9, lora_bias=True, _cases=2),
    dict(name="save-head", r=2, lora_alpha=4, modules_to_save=["lm_head"]),
    dict(name="save-embed", r=2, lora_alpha=4, modules_to_save=["embed_tokens"]),
    dict(name="save-norms", r=2, lora_alpha=4, modules_to_save=["norm"]),
    dict(name="save-one-norm", r=2, lora_alpha=4, modules_to_save=["layers.1.input_layernorm"]),
    dict(name="save-linear", r=2, lora_alpha=4, modules_to_save=["layers.0.mlp.down_proj"]),
    dict(name="save-norm-raw-keys", r=2, lora_alpha=4, modules_to_save=["model.norm"], _files=raw_state_dict, _twin=True),
    dict(name="dora", r=3, lora_alpha=6, use_dora=True, _cases=2),
    dict(name="dora-all-rslora", r=2, lora_alpha=4, use_dora=True, use_rslora=True, target_modules=LINEAR),
    dict(name="dora-head", r=2, lora_alpha=4, use_dora=True, target_modules=["v_proj", "lm_head"],
         _files=without_base_copies),
    dict(name="dora-embed", r=2, lora_alpha=4, use_dora=True, target_modules=["embed_tokens", "v_proj"],
         _files=without_base_copies),
    dict(name="dora-old-keys", r=2, lora_alpha=4, use_dora=True, _files=keys(adapter_name_in_key), _twin=True),
    dict(name="embed", r=4, lora_alpha=8, target_modules=["embed_tokens", "q_proj"]),
    dict(name="head", r=4, lora_alpha=8, target_modules=["lm_head", "q_proj"]),
    dict(name="embed-head", r=3, lora_alpha=6, use_rslora=True, target_modules=["lm_head", "embed_tokens"],
         _files=without_base_copies),
    dict(name="embed-old-keys", r=2, lora_alpha=4, target_modules=["embed_tokens"], _twin=True,
         _files=lambda c, t: keys(adapter_name_in_key)(*without_base_copies(c, t))),
    dict(name="tokens", r=2, lora_alpha=4, trainable_token_indices=[*range(3, 300, 5)]),
    dict(name="tokens-by-name", r=2, lora_alpha=4, trainable_token_indices={"embed_tokens": [*range(299, 3, -6)]}),
    dict(name="bf16", r=4, lora_alpha=8, _files=stored_as(torch.bfloat16)),
    dict(name="f16", r=4, lora_alpha=8, _files=stored_as(torch.float16)),
    dict(name="dora-bf16", r=4, lora_alpha=8, use_dora=True, _files=stored_as(torch.bfloat16)),
    dict(name="old-keys", r=3, lora_alpha=6, _files=keys(adapter_name_in_key), _twin=True),
    dict(name="no-prefix", r=3, lora_alpha=6, _files=keys(lambda k: k.removeprefix("base_model.model.")), _twin=True),
    dict(name="compiled-keys", r=3, lora_alpha=6, _twin=True,
         _files=keys(lambda k: k.replace("base_model.model.", "base_model.model._orig_mod."))),
    dict(name="old-config", r=3, lora_alpha=6,
         _files=only_fields("peft_type", "task_type", "r", "lora_alpha", "target_modules", "bias", "fan_in_fan_out")),
    dict(name="fan-in-fan-out", r=3, lora_alpha=6, _files=config_fields(fan_in_fan_out=True)),
    dict(name="pissa-converted", r=3, lora_alpha=6, init_lora_weights="pissa"),
    dict(name="olora-converted-rslora", r=3, lora_alpha=6, use_rslora=True, init_lora_weights="olora"),
    dict(name="pissa-converted-patterns", r=3, lora_alpha=6, init_lora_weights="pissa", rank_pattern={"v_proj": 2},
         alpha_pattern={"layers.0.self_attn.q_proj": 3}),
]

C_ATTN = dict(target_modules=["c_attn"], fan_in_fan_out=True)
C_ALL = dict(target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
GPT2 = [
    dict(name="plain", r=4, lora_alpha=8, **C_ATTN, _cases=2),
    dict(name="all-modules", r=3, lora_alpha=6, **C_ALL, _cases=2),
    dict(name="flag-false", r=3, lora_alpha=6, **C_ALL, _files=config_fields(fan_in_fan_out=False)),
    dict(name="attention-output", r=3, lora_alpha=6, target_modules=["attn.c_proj"], fan_in_fan_out=True),
    dict(name="default-targets", r=2, lora_alpha=4, target_modules=None, fan_in_fan_out=True,
         _files=config_fields(target_modules=None)),
    dict(name="rslora", r=4, lora_alpha=4, use_rslora=True, **C_ALL),
    dict(name="patterns", r=3, lora_alpha=6, **C_ALL, rank_pattern={"attn.c_proj": 5, "h.1.mlp.c_fc": 2},
         alpha_pattern={"mlp.c_proj": 12, "transformer.h.0.attn.c_attn": 2}),
    dict(name="regex", r=3, lora_alpha=6, target_modules=r"transformer\.h\.1\.(attn\.c_attn|mlp\.c_fc)", fan_in_fan_out=True),
    dict(name="all-linear", r=2, lora_alpha=4, target_modules="all-linear", fan_in_fan_out=True),
    dict(name="layers", r=3, lora_alpha=6, **C_ATTN, layers_to_transform=[1], layers_pattern="h"),
    dict(name="exclude", r=3, lora_alpha=6, **C_ALL, exclude_modules=["mlp.c_proj"]),
    dict(name="bias-all", r=3, lora_alpha=6, **C_ATTN, bias="all"),
    dict(name="bias-lora-only", r=3, lora_alpha=6, **C_ALL, bias="lora_only"),
    dict(name="bias-lora-only-lost", r=3, lora_alpha=6, **C_ATTN, bias="lora_only", _files=without_biases),
    dict(name="bias-old-keys", r=3, lora_alpha=6, **C_ATTN, bias="all", _twin=True,
         _files=keys(lambda k: k.replace(".base_layer.bias", ".bias"))),
    dict(name="lora-bias", r=3, lora_alpha=9, lora_bias=True, **C_ALL),
    dict(name="save-norm", r=2, lora_alpha=4, **C_ATTN, modules_to_save=["ln_f"]),
    dict(name="save-embed", r=2, lora_alpha=4, **C_ATTN, modules_to_save=["wte"]),
    dict(name="save-positions", r=2, lora_alpha=4, **C_ATTN, modules_to_save=["wpe"]),
    dict(name="save-conv", r=2, lora_alpha=4, **C_ATTN, modules_to_save=["h.0.attn.c_proj"]),
    dict(name="dora", r=3, lora_alpha=6, use_dora=True, **C_ALL, _cases=2),
    dict(name="dora-bias", r=3, lora_alpha=6, use_dora=True, **C_ATTN, bias="lora_only"),
    dict(name="embed", r=4, lora_alpha=8, target_modules=["wte", "c_attn"], fan_in_fan_out=True),
    dict(name="positions", r=4, lora_alpha=8, target_modules=["wpe"], fan_in_fan_out=True),
    dict(name="head", r=3, lora_alpha=6, target_modules=["lm_head"]),
    dict(name="tokens", r=2, lora_alpha=4, **C_ATTN, trainable_token_indices=[*range(3, 300, 5)]),
    dict(name="bf16", r=4, lora_alpha=8, **C_ATTN, _files=stored_as(torch.bfloat16)),
]

BIAS_OPTIONS = [
    dict(name="all", r=2, lora_alpha=4, bias="all"),
    dict(name="lora-only", r=2, lora_alpha=4, bias="lora_only"),
    dict(name="lora-bias", r=2, lora_alpha=6, lora_bias=True),
    dict(name="dora-bias", r=2, lora_alpha=4, use_dora=True, bias="all"),
]
TIED_OPTIONS = [
    dict(name="embed", r=3, lora_alpha=6, target_modules=["embed_tokens", "v_proj"]),
    dict(name="head", r=3, lora_alpha=6, target_modules=["lm_head", "v_proj"]),
    dict(name="save-embed", r=2, lora_alpha=4, modules_to_save=["embed_tokens"]),
    dict(name="tokens", r=2, lora_alpha=4, trainable_token_indices=[*range(3, 300, 5)]),
    dict(name="embed-tying", r=3, lora_alpha=6, target_modules=["embed_tokens", "v_proj"], ensure_weight_tying=True,
         _files=without_base_copies),
    dict(name="save-embed-tying", r=2, lora_alpha=4, modules_to_save=["embed_tokens"], ensure_weight_tying=True),
]
PLAIN = dict(name="plain", r=3, lora_alpha=6)
RSLORA = dict(name="rslora-all", r=2, lora_alpha=3, use_rslora=True, target_modules="all-linear")
DORA = dict(name="dora", r=2, lora_alpha=4, use_dora=True, target_modules=["k_proj", "o_proj", "down_proj"])
C_PLAIN = dict(name="plain", r=3, lora_alpha=6, **C_ALL)
C_DORA = dict(name="dora", r=2, lora_alpha=4, use_dora=True, **C_ALL)

ADAPTERS = [spec(model, f.get("name"), **{k: v for k, v in f.items() if k != "name"}) for model, options in {
    "llama": LLAMA,
    "gpt2": GPT2,
    "gpt2-noprefix": [C_PLAIN, C_DORA],
    "gpt2-variant": [C_PLAIN],
    "gpt2-bf16": [C_PLAIN, C_DORA],
    "llama-bias": BIAS_OPTIONS,
    "llama-tied-rope-llama3": [PLAIN],
    "llama-rope-llama3": [PLAIN],
    "llama-rope-linear": [PLAIN],
    "llama-bf16": [PLAIN, RSLORA, DORA],
    "llama-f16": [PLAIN, DORA],
    "llama-sharded": [PLAIN],
    "mistral": [PLAIN, RSLORA, DORA],
    "mistral-window": [PLAIN, RSLORA, DORA],
    "qwen2": [PLAIN, RSLORA, DORA, dict(name="bias-all", r=2, lora_alpha=4, bias="all", target_modules=["q_proj", "o_proj"]),
              dict(name="embed", r=2, lora_alpha=4, target_modules=["embed_tokens", "lm_head"])],
    "qwen2-window": [RSLORA],
    "qwen3": [PLAIN, RSLORA, DORA, *TIED_OPTIONS, dict(name="save-qk-norm", r=2, lora_alpha=4, modules_to_save=["q_norm", "k_norm"])],
    "qwen3-untied": [RSLORA],
}.items() for f in options]

MIXES = [
    ("llama", [("plain", 0.7), ("all-modules", 1.25)], 1.0),
    ("llama", [("rslora", 1.0), ("patterns", 0.5), ("rank-1", -0.8)], 1.0),
    ("llama", [("plain", 1.0), ("regex", 1.0), ("exclude-regex", 0.3)], 0.5),
    ("llama", [("embed-head", 0.6), ("plain", 0.9)], 1.0),
    ("llama", [("lora-bias", 0.5), ("plain", 0.5)], 1.0),
    ("llama", [("bf16", 1.5), ("f16", 0.0)], 1.0),
    ("gpt2", [("plain", 0.75), ("all-modules", 0.5)], 1.0),
    ("gpt2", [("rslora", 0.4), ("patterns", -0.6), ("layers", 1.0)], 1.0),
    ("mistral", [("plain", 0.5), ("rslora-all", 0.5)], 1.0),
    ("qwen2", [("plain", 0.5), ("rslora-all", 1.0)], 2.0),
    ("qwen3", [("plain", 1.0), ("rslora-all", 0.25)], 1.0),
    ("llama-bf16", [("plain", 1.0), ("rslora-all", 1.0)], 1.0),
]
SCALES = [("llama", "plain"), ("llama", "rslora"), ("llama", "patterns"), ("llama", "lora-bias"), ("llama", "embed-head"),
          ("gpt2", "all-modules"), ("gpt2", "lora-bias"), ("mistral-window", "plain")]
WEIGHTS = [("llama", "plain", 0.4), ("gpt2", "all-modules", -1.5)]
UNSCALABLE = [("llama", "dora", "dora"), ("gpt2", "dora", "dora"), ("llama", "save-head", "modules_to_save"),
              ("llama", "tokens", "trainable_token_indices"), ("gpt2", "bias-all", "bias"), ("llama-bias", "lora-only", "bias")]


def randomise(model, name):
    """Gives every trained tensor a size that shows: s·BA about half of W, magnitudes and biases well off the base."""
    g = generator("adapter " + name)

    def noise(p):
        return torch.randn(p.shape, generator=g)

    for _, layer in sorted((n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer)):
        for adapter in [a for a in layer.scaling if a in layer.lora_A or a in layer.lora_embedding_A]:
            size = 0.6 / (layer.scaling[adapter] * layer.r[adapter] ** 0.5)
            if adapter in layer.lora_A:
                a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
                a.data[:] = noise(a) / a.shape[1] ** 0.5
                b.data[:] = noise(b) * size
                if layer.lora_B[adapter].bias is not None:
                    layer.lora_B[adapter].bias.data[:] = noise(layer.lora_B[adapter].bias) * size
            else:
                a, b = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
                a.data[:] = noise(a)
                b.data[:] = noise(b) * size * float(layer.get_base_layer().weight.std())
            if adapter in layer.lora_magnitude_vector:
                m = layer.lora_magnitude_vector[adapter].weight
                m.data[:] = m.data * (1 + 0.3 * noise(m)).abs().clamp(min=0.2)
    for key, p in sorted(model.named_parameters()):
        if p.requires_grad and "lora_" not in key:
            spread = float(p.data.std())
            p.data[:] = p.data + noise(p) * (0.3 if p.ndim == 1 else 0.7 * (spread or 1.0))


def nudge(model, name):
    """A decomposition that was trained on: A and B are moved from where they started."""
    g = generator("adapter " + name)
    for key, p in sorted(model.named_parameters()):
        if p.requires_grad:
            p.data[:] = p.data + torch.randn(p.shape, generator=g) * float(p.data.std()) * 0.5


def save(model, directory, **options):
    model.save_pretrained(directory, **options)
    (directory / "README.md").unlink(missing_ok=True)
    config = json.loads((directory / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = Path(config["base_model_name_or_path"]).name
    # a set in memory: its order in the file would change from run to run
    for field in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(config[field], list):
            config[field] = sorted(config[field])
    write(directory, config, load_file(directory / "adapter_model.safetensors"))


def write(directory, config, tensors):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file({k: v.contiguous() for k, v in tensors.items()}, directory / "adapter_model.safetensors", metadata={"format": "pt"})


def read(directory):
    return json.loads((directory / "adapter_config.json").read_text()), load_file(directory / "adapter_model.safetensors")


def train(root, s):
    """Makes the adapter as people do and leaves its directory. Returns the trained model."""
    directory = root / "adapters" / s["name"]
    shutil.rmtree(directory, ignore_errors=True)
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", **s["config"])
    model = get_peft_model(load_base(root / "models" / s["model"]), config).eval()
    if isinstance(s["config"].get("init_lora_weights"), str):
        with tempfile.TemporaryDirectory() as start:
            model.peft_config["default"].init_lora_weights = True
            model.save_pretrained(start)
            nudge(model, s["name"])
            save(model, directory, path_initial_model_for_weight_conversion=start)
    else:
        randomise(model, s["name"])
        save(model, directory)
    return model


def load(root, s, directory=None):
    return PeftModel.from_pretrained(load_base(root / "models" / s["model"]), directory or root / "adapters" / s["name"]).eval()


def distance(a, b, ids):
    return float((oracle.log_probabilities(a, ids) - oracle.log_probabilities(b, ids)).abs().max())


def served_model(root, s, notes):
    """Trains and saves, reads back, and holds the two and the merged model against each other."""
    directory = root / "adapters" / s["name"]
    ids = oracle.prompt_for(s["name"], 0, 30)
    trained = train(root, s)
    served = load(root, s)
    as_trained = distance(trained, served, ids)
    assert as_trained < SAVED_AS_TRAINED, f"{s['name']}: what PEFT saved differs from what was trained by {as_trained:.3g}"
    if s["files"]:
        with tempfile.TemporaryDirectory() as kept:
            original = Path(shutil.copytree(directory, Path(kept) / "original"))
            write(directory, *s["files"](*read(directory)))
            edited = None
            try:
                edited = load(root, s)
            except Exception as problem:
                notes.append(f"{s['name']}: PEFT cannot read this form: {type(problem).__name__}")
            if not s["twin"]:
                served = edited
            elif edited and distance(served, edited, ids) > SAVED_AS_TRAINED:
                notes.append(f"{s['name']}: PEFT reads this form and ignores some of it")
            elif edited:
                notes.append(f"{s['name']}: PEFT reads this form well")
            reload_from = original if s["twin"] else directory
            merged = load(root, s, reload_from)
    else:
        merged = load(root, s)
    base = load_base(root / "models" / s["model"])
    assert distance(base, served, ids) > CHANGES, f"{s['name']} changes nothing"
    try:
        merged = merged.merge_and_unload()
        apart = distance(merged, served, ids)
        if apart > MERGED_AS_SERVED:
            notes.append(f"{s['name']}: PEFT's merged model differs by {apart:.3g}")
    except Exception as problem:
        notes.append(f"{s['name']}: PEFT does not merge it: {str(problem)[:90]}")
    return served


def named(model, names):
    return [{"dir": f"{model}.{n}", "weight": w} for n, w in names]


def mixed_model(root, model, parts, scale):
    """All adapters active at once, each with its own scale times its weight: the sum of the deltas."""
    first, *others = [n for n, _ in parts]
    mix = PeftModel.from_pretrained(load_base(root / "models" / model), root / "adapters" / f"{model}.{first}", adapter_name=first)
    for n in others:
        mix.load_adapter(root / "adapters" / f"{model}.{n}", adapter_name=n)
    mix.base_model.set_adapter([n for n, _ in parts])
    for layer in mix.modules():
        if isinstance(layer, LoraLayer):
            for n, w in parts:
                if n in layer.scaling:
                    layer.scaling[n] *= w * scale
    return mix.eval()


def summed_model(root, model, parts, scale):
    """The same by hand: W + sum of weight · s · BA, as a plain model without PEFT."""
    mix = mixed_model(root, model, parts, scale)
    for layer in [m for m in mix.modules() if isinstance(m, LoraLayer)]:
        weight = layer.get_base_layer().weight
        for n in layer.active_adapters:
            if n in layer.lora_A or n in layer.lora_embedding_A:
                weight.data += layer.get_delta_weight(n)
    return mix.unload()


def concatenated_model(root, model, parts, scale):
    """The same by add_weighted_adapter(combination_type="cat")."""
    first, *others = [n for n, _ in parts]
    mix = PeftModel.from_pretrained(load_base(root / "models" / model), root / "adapters" / f"{model}.{first}", adapter_name=first)
    for n in others:
        mix.load_adapter(root / "adapters" / f"{model}.{n}", adapter_name=n)
    mix.add_weighted_adapter([n for n, _ in parts], [w * scale for _, w in parts], adapter_name="all", combination_type="cat")
    mix.set_adapter("all")
    for layer in mix.modules():
        if isinstance(layer, LoraLayer) and "all" in layer.scaling:
            layer.scaling["all"] = 1.0  # PEFT means 1, but keeps the first adapter's use_rslora and so gets sqrt(r)
    return mix.eval()


def mix_cases(root, notes):
    for i, (model, parts, scale) in enumerate(MIXES):
        name = f"{model}/mix-{i + 1}/" + "+".join(n for n, _ in parts)
        mix = mixed_model(root, model, parts, scale)
        ids = oracle.prompt_for(name, 0, 30)
        if "lora-bias" not in name:  # neither a matrix nor add_weighted_adapter holds B's bias
            apart = distance(mix, summed_model(root, model, parts, scale), ids)
            assert apart < MERGED_AS_SERVED, f"{name}: the summed deltas differ by {apart:.3g}"
            try:
                apart = distance(mix, concatenated_model(root, model, parts, scale), ids)
                assert apart < MERGED_AS_SERVED, f"{name}: add_weighted_adapter differs by {apart:.3g}"
            except ValueError as problem:
                notes.append(f"{name}: add_weighted_adapter refuses: {str(problem)[:90]}")
        yield oracle.make_case(name, mix, {"model": model, "adapters": named(model, parts), "scale": scale})
    for model, n, weight in WEIGHTS:
        mix = mixed_model(root, model, [(n, weight)], 1.0)
        yield oracle.make_case(f"{model}/{n}/weight {weight}", mix,
                               {"model": model, "adapters": named(model, [(n, weight)]), "scale": 1.0})


def scale_cases(root):
    for model, n in SCALES:
        base = load_base(root / "models" / model)
        for scale in (0.5, 2.0, 0.0):
            scaled = mixed_model(root, model, [(n, 1.0)], scale)
            fields = {"model": model, "adapters": named(model, [(n, 1.0)]), "scale": scale}
            case = oracle.make_case(f"{model}/{n}/scale {scale}", scaled, fields)
            if scale == 0:
                case["equals_base"] = True
                assert torch.equal(oracle.logits(base, case["input_ids"]), oracle.logits(scaled, case["input_ids"]))
            yield case


def refused_requests(root):
    """Requests that name good adapters in a way that has no meaning: only a low-rank delta can be scaled or mixed."""
    for model, n, word in UNSCALABLE:
        base = load_base(root / "models" / model)
        fields = {"model": model, "adapters": named(model, [(n, 1.0)]), "scale": 0.0}
        yield {**oracle.make_case(f"{model}/{n}/scale 0", base, fields), "equals_base": True}
        yield {"name": f"{model}/{n}/scale 0.5", **fields, "scale": 0.5, "input_ids": [1, 2, 3],
               "expect_error": {"status": "bad_input", "message_contains": [word]}}
    for model, names in (("llama", ["plain", "dora"]), ("llama", ["dora", "dora-head"]), ("gpt2", ["dora", "plain"])):
        yield {"name": f"{model}/mix/" + "+".join(names), "model": model, "adapters": named(model, [(n, 0.5) for n in names]),
               "scale": 1.0, "input_ids": [1, 2, 3], "expect_error": {"status": "bad_input", "message_contains": ["dora"]}}


class Notes(list):
    def append(self, note):
        super().append(note)
        print(note, flush=True)


def make(root):
    shutil.rmtree(root / "adapters", ignore_errors=True)
    cases, notes = [], Notes()
    for s in ADAPTERS:
        served = served_model(root, s, notes)
        for n in range(1, s["cases"] + 1):
            fields = {"model": s["model"], "adapters": [{"dir": s["name"], "weight": 1.0}], "scale": 1.0}
            option = s["name"].split(".", 1)[1]
            cases.append(oracle.make_case(f"{s['model']}/{option}/{n}", served, fields,
                                          shortest=20 if "window" in s["model"] else 12))
    cases += mix_cases(root, notes)
    cases += scale_cases(root)
    cases += refused_requests(root)
    return cases
