"""The distribution that a token is drawn from, in vLLM's definitions; the order is in tests/golden/README.md."""

import json

import numpy as np

VOCAB = 50

PLAIN = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0,
             frequency_penalty=0.0, logit_bias={})
SETTINGS = [
    {},
    dict(temperature=0.7),
    dict(temperature=2.5),
    dict(top_k=1),
    dict(top_k=5),
    dict(top_k=500),
    dict(top_p=0.5),
    dict(top_p=0.9, temperature=1.4),
    dict(top_p=1e-6),
    dict(min_p=0.1),
    dict(min_p=1.0),
    dict(min_p=0.05, temperature=1.8),
    dict(top_k=10, top_p=0.8),
    dict(top_k=12, top_p=0.7, min_p=0.02, temperature=1.3),
    dict(repetition_penalty=1.5),
    dict(repetition_penalty=0.6),
    dict(presence_penalty=1.2),
    dict(presence_penalty=-2.0),
    dict(frequency_penalty=0.7),
    dict(frequency_penalty=-0.4, presence_penalty=0.3),
    dict(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.25, temperature=0.8),
    dict(logit_bias={3: 4.0, 17: -100.0, 49: 2.5}),
    dict(logit_bias={8: 100.0}),
    dict(logit_bias={1: -3.0, 2: 3.0}, repetition_penalty=1.4),
    dict(logit_bias={5: 3.0}, repetition_penalty=1.2, frequency_penalty=0.3, presence_penalty=0.1, temperature=0.9,
         min_p=0.01, top_k=15, top_p=0.92),
]


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def distribution(logits, prompt, output, s):
    x = logits.astype(np.float64).copy()
    for token, bias in s["logit_bias"].items():
        x[int(token)] += bias
    counts = np.bincount(output, minlength=VOCAB) if output else np.zeros(VOCAB)
    seen = counts > 0
    seen[prompt] = True
    r = s["repetition_penalty"]
    x[seen] = np.where(x[seen] > 0, x[seen] / r, x[seen] * r)
    x -= s["frequency_penalty"] * counts + s["presence_penalty"] * (counts > 0)
    x /= s["temperature"]
    p = softmax(x)
    x[p < s["min_p"] * p.max()] = -np.inf
    if 0 < s["top_k"] < VOCAB:
        x[x < np.sort(x)[-s["top_k"]]] = -np.inf
    if s["top_p"] < 1:
        order = np.argsort(x, kind="stable")
        below = np.cumsum(softmax(x)[order]) <= 1 - s["top_p"]
        below[-1] = False  # the best token always stays
        x[order[below]] = -np.inf
    return softmax(x)


def make(root):
    rng = np.random.default_rng(50)
    cases = []
    for i, changed in enumerate(SETTINGS):
        settings = {**PLAIN, **changed}
        logits = np.round(rng.normal(0, 2.5, VOCAB), 4).astype(np.float32)
        prompt = [int(t) for t in rng.integers(0, VOCAB, 8)]
        output = [int(t) for t in rng.integers(0, VOCAB // 2, 10)] if i % 5 != 4 else []
        if changed.get("frequency_penalty") or changed.get("presence_penalty"):
            output = [4, 9, 4, 4, 21, 9, 30]
        p = distribution(logits, prompt, output, settings)
        nudged = distribution(logits * np.float32(1 + 1e-6), prompt, output, settings)
        assert ((p > 0) == (nudged > 0)).all(), f"{changed}: a token sits on the edge of a filter"
        settings["logit_bias"] = {str(k): v for k, v in settings["logit_bias"].items()}
        cases.append({"settings": settings, "prompt": prompt, "output": output,
                      "logits": [round(float(v), 4) for v in logits], "probabilities": [float(f"{v:.9g}") for v in p]})
    lines = [json.dumps(c, separators=(",", ":")) for c in cases]
    (root / "sampling.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
    return len(cases)
