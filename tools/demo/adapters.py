"""Trains the demo's adapters with PEFT, each for one task, and writes them to adapters/<task>."""

import random
import shutil
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import tasks
from paths import ADAPTERS, BASE, ROOT

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = ATTENTION + ["gate_proj", "up_proj", "down_proj"]
BATCH, POOL = 32, 16
STEPS, PEAK = 200, 4e-3

# What differs from r=8, lora_alpha=16 on every linear site, stored in bfloat16.
RECIPES = {
    "sql": {"r": 32, "lora_alpha": 64},
    "json": {},
    "sentiment": {"steps": 500},
    "polite": {"use_rslora": True, "peak": 2e-3},
    "date": {"target_modules": ["q_proj", "v_proj"], "dtype": torch.float32},
    "past": {"use_dora": True, "steps": 300},
    "command": {"steps": 300},
    "reverse": {},
}


def adapter_config(recipe):
    options = {k: v for k, v in recipe.items() if k not in ("dtype", "steps", "peak")}
    return LoraConfig(**{"r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": ALL,
                         "task_type": "CAUSAL_LM"} | options)


def encode(tokenizer, task, rng):
    """(ids, how many of them are the prompt)"""
    text, answer = tasks.draw(task, rng)
    prompt = tokenizer(tasks.PROMPT.format(text))["input_ids"]
    return prompt + tokenizer(" " + answer)["input_ids"] + [tokenizer.eos_token_id], len(prompt)


def collate(examples, pad):
    """Rows padded on the right; only the answer and the end token count for the loss."""
    longest = max(len(ids) for ids, _ in examples)
    inputs = torch.full((len(examples), longest), pad)
    labels = torch.full((len(examples), longest), -100)
    for row, (ids, start) in enumerate(examples):
        inputs[row, :len(ids)] = torch.tensor(ids)
        labels[row, start:len(ids)] = torch.tensor(ids[start:])
    return inputs, labels


def batches(tokenizer, task, seed):
    """Fresh examples for ever, those of like length together, so that little is padded."""
    rng = random.Random(seed)
    while True:
        pool = sorted((encode(tokenizer, task, rng) for _ in range(BATCH * POOL)), key=lambda e: len(e[0]))
        order = list(range(POOL))
        rng.shuffle(order)
        for i in order:
            yield collate(pool[i * BATCH:(i + 1) * BATCH], tokenizer.eos_token_id)


def rate(step, steps, peak):
    """Linear: up over 20 steps, then down to nothing."""
    return peak * min((step + 1) / 20, (steps - step) / (steps - 20))


def save(model, task, dtype):
    """What save_pretrained writes, without its template of a model card."""
    folder = ADAPTERS / task
    shutil.rmtree(folder, ignore_errors=True)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    model.peft_config["default"].base_model_name_or_path = str(BASE.relative_to(ROOT))
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    for file in folder.iterdir():
        file.chmod(0o644)


def train(task):
    recipe = RECIPES[task]
    steps, peak = recipe.get("steps", STEPS), recipe.get("peak", PEAK)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model = get_peft_model(base, adapter_config(recipe))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    print(f"{task}: {sum(p.numel() for p in trained)} parameters, {steps} steps", flush=True)
    optimizer = torch.optim.AdamW(trained, lr=peak, weight_decay=0.0)
    start, shown, tokens = time.time(), 0.0, 0
    for step, (inputs, labels) in zip(range(steps), batches(tokenizer, task, seed=f"train {task}")):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps, peak)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=inputs, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        shown += loss.item()
        tokens += inputs.numel()
        if (step + 1) % 50 == 0:
            print(f"{task}: step {step + 1}, loss {shown / 50:.4f}, "
                  f"{tokens / (time.time() - start):.0f} tokens/s, {time.time() - start:.0f} s", flush=True)
            shown = 0.0
    save(model, task, recipe.get("dtype", torch.bfloat16))
