"""Trains the demo base: a tokenizer and a Llama of 3.5 million parameters, written to models/demo."""

import itertools
import json
import math
import shutil
import time

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import tasks
import text
from paths import BASE

VOCABULARY = 2048
END = "<|endoftext|>"
BATCH, LENGTH = 16, 256


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    sample = itertools.islice(text.documents(seed=1), 20000)
    prompt = [tasks.PROMPT.format("")] * 200
    tokenizer.train_from_iterator(itertools.chain(sample, prompt), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END,
                                   clean_up_tokenization_spaces=False, model_max_length=1024)


def make_model():
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=512, num_hidden_layers=5,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=1024,
        rope_theta=10000.0, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=None)
    return LlamaForCausalLM(config)


def batches(tokenizer, documents):
    """Documents end to end, each closed by END, cut into rows."""
    wanted, stream = BATCH * LENGTH + 1, []
    while True:
        while len(stream) < wanted:
            ids = tokenizer(list(itertools.islice(documents, 64)))["input_ids"]
            for document in ids:
                stream += document + [tokenizer.eos_token_id]
        rows = torch.tensor(stream[:wanted])
        stream = stream[wanted - 1:]
        yield rows[:-1].view(BATCH, LENGTH), rows[1:].view(BATCH, LENGTH)


def name_tokenizer_class():
    """The class by the name that every version of transformers knows; nothing about how it was read."""
    file = BASE / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    for passing in ("is_local", "local_files_only"):
        settings.pop(passing, None)
    file.write_text(json.dumps(settings, indent=2) + "\n")


def save(model, tokenizer):
    """Writes a Hugging Face directory in bfloat16, and nothing else."""
    shutil.rmtree(BASE, ignore_errors=True)
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy = copy.to(torch.bfloat16)
    copy.config.dtype = torch.bfloat16
    copy.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0)
    copy.save_pretrained(BASE)
    tokenizer.save_pretrained(BASE)
    name_tokenizer_class()
    for file in BASE.iterdir():
        file.chmod(0o644)


def rate(step, steps, warm_up, peak):
    """Linear up, then a cosine down to a fiftieth."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * (0.02 + 0.49 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))))


def learn(model, tokenizer, documents, steps, warm_up, peaks):
    """Trains on `steps` batches; `peaks` are the highest rates of Muon and of AdamW."""
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    other = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [torch.optim.Muon(hidden, lr=peaks[0], weight_decay=0.01, momentum=0.95),
                  torch.optim.AdamW(other, lr=peaks[1], betas=(0.9, 0.95), weight_decay=0.0)]
    start, shown = time.time(), 0.0
    for step, (inputs, targets) in zip(range(steps), batches(tokenizer, documents)):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=inputs, use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks):
            for group in optimizer.param_groups:
                group["lr"] = rate(step, steps, warm_up, peak)
            optimizer.step()
            optimizer.zero_grad()
        shown += loss.item()
        if (step + 1) % 50 == 0:
            tokens = (step + 1) * BATCH * LENGTH
            print(f"base: step {step + 1}, loss {shown / 50:.3f}, {tokens / 1e6:.2f}M tokens, "
                  f"{tokens / (time.time() - start):.0f} tokens/s", flush=True)
            shown = 0.0
        if (step + 1) % 500 == 0:
            save(model, tokenizer)
    save(model, tokenizer)


def train(steps):
    """The long first part."""
    torch.manual_seed(0)
    tokenizer, model = make_tokenizer(), make_model()
    print(f"base: {sum(p.numel() for p in model.parameters())} parameters, {steps} steps", flush=True)
    learn(model, tokenizer, text.documents(seed=2), steps, 100, [0.02, 0.003])


def refine(steps):
    """The last part, from what the first one has saved."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    print(f"base: {steps} steps more", flush=True)
    learn(model, tokenizer, text.documents(3, text.LATE_REGISTERS), steps, 20, [0.01, 0.0015])
