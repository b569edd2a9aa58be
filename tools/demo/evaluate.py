"""Held-out accuracy: writes the evaluation sets, and measures every adapter on every one of them.

An answer counts only if it is the expected text from the first character to the end token.
"""

import json
import random

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import tasks
from paths import ADAPTERS, BASE, HELD_OUT

COUNT = 100
MARGIN = 8


def write_sets():
    HELD_OUT.mkdir(parents=True, exist_ok=True)
    for task in tasks.TASKS:
        rng, drawn = random.Random(f"held out {task}"), {}
        while len(drawn) < COUNT:
            text, answer = tasks.draw(task, rng, evaluation=True)
            drawn[text] = answer
        with open(HELD_OUT / f"{task}.jsonl", "w") as out:
            for text, answer in drawn.items():
                out.write(json.dumps({"prompt": tasks.PROMPT.format(text), "answer": " " + answer}) + "\n")


def read_set(task):
    with open(HELD_OUT / f"{task}.jsonl") as lines:
        return [json.loads(line) for line in lines]


@torch.no_grad()
def answers(model, tokenizer, prompts, limit):
    """Greedy answers; None where none ended within `limit` tokens."""
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.eos_token
    batch = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    out = model.generate(**batch, do_sample=False, max_new_tokens=limit, pad_token_id=tokenizer.eos_token_id)
    texts = []
    for row in out[:, batch["input_ids"].shape[1]:].tolist():
        ended = tokenizer.eos_token_id in row
        texts.append(tokenizer.decode(row[:row.index(tokenizer.eos_token_id)]) if ended else None)
    return texts


def accuracy(model, tokenizer, task, show=0):
    examples = read_set(task)
    limit = MARGIN + max(len(tokenizer(e["answer"])["input_ids"]) for e in examples)
    got = answers(model, tokenizer, [e["prompt"] for e in examples], limit)
    wrong = [(e, g) for e, g in zip(examples, got) if g != e["answer"]]
    for example, text in wrong[:show]:
        print(f"  {example['prompt']!r}\n    expected {example['answer']!r}\n    got      {text!r}")
    return 100 * (1 - len(wrong) / len(examples))


def load(adapter=None):
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    return PeftModel.from_pretrained(base, ADAPTERS / adapter).eval() if adapter else base


def matrix():
    """Prints one row for the base and for each adapter, one column for each task."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    names = list(tasks.TASKS)
    print(f"{'':12}" + "".join(f"{name:>11}" for name in names))
    for adapter in [None] + names:
        model = load(adapter)
        row = [accuracy(model, tokenizer, task) for task in names]
        print(f"{adapter or 'base':12}" + "".join(f"{value:11.1f}" for value in row), flush=True)
    merged = [accuracy(load(name).merge_and_unload(), tokenizer, name) for name in names]
    print(f"{'own, merged':12}" + "".join(f"{value:11.1f}" for value in merged))
