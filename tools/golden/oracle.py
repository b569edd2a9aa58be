"""What a model answers: log-probabilities of a prompt and the greedy continuation, as plain numbers."""

import numpy as np
import torch

from tiny_models import N_TOKENS, seed_of

N_GREEDY = 12
MIN_GAP = 4e-3  # between the best two logits of every greedy step; rounding may then not change a token
PROMPT_LENGTHS = (12, 40)


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].float()


def log_probabilities(model, ids):
    return torch.log_softmax(logits(model, ids).double(), dim=-1)


def greedy(model, ids):
    """Whole forward pass for every token, no cache, end of text is a token like any other."""
    ids, tokens, gaps = list(ids), [], []
    for _ in range(N_GREEDY):
        best = torch.topk(logits(model, ids)[-1], 2)
        tokens.append(int(best.indices[0]))
        gaps.append(float(best.values[0] - best.values[1]))
        ids.append(tokens[-1])
    return tokens, gaps


def prompt_for(name, attempt, shortest):
    rng = np.random.default_rng([seed_of(name), attempt])
    length = rng.integers(shortest, PROMPT_LENGTHS[1] + 1)
    return [int(t) for t in rng.integers(0, N_TOKENS - 1, size=length)]


def make_case(name, model, fields, shortest=PROMPT_LENGTHS[0], n_rows=1):
    for attempt in range(50):
        ids = prompt_for(name, attempt, shortest)
        tokens, gaps = greedy(model, ids)
        if min(gaps) > MIN_GAP:
            break
    else:
        raise RuntimeError(f"{name}: no prompt without a near tie")
    rows = log_probabilities(model, ids)
    wanted = [len(ids) * (i + 1) // n_rows - 1 for i in range(n_rows)]
    return {
        "name": name, **fields, "input_ids": ids,
        "token_logprobs": [None] + [round(float(rows[i - 1, ids[i]]), 8) for i in range(1, len(ids))],
        "rows": {str(i): [round(float(v), 5) for v in rows[i]] for i in wanted},
        "greedy": tokens, "greedy_gaps": [round(g, 5) for g in gaps],
    }
