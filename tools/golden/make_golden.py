#!/usr/bin/env python3
"""Makes everything under tests/golden with transformers and PEFT. Deterministic; see README.md beside this file."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent))
import oracle
import tiny_models

ROOT = Path(__file__).resolve().parents[2] / "tests" / "golden"


def base_cases():
    for name in tiny_models.MODELS:
        model = tiny_models.load_base(ROOT / "models" / name)
        for n in (1, 2):
            yield oracle.make_case(f"{name}/base/{n}", model, {"model": name, "adapters": [], "scale": 1.0},
                                   shortest=20 if "window" in name else 12, n_rows=3 if n == 1 else 1)


def write_cases(cases):
    """One case a line: small, and a change shows in the diff as the case that changed."""
    lines = [json.dumps(c, separators=(",", ":")) for c in cases]
    (ROOT / "cases.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-only", action="store_true", help="models and their own cases, no adapters")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()

    for name in tiny_models.MODELS:
        tiny_models.write_model(ROOT / "models", name)
    cases = list(base_cases())
    if not options.base_only:
        import adapters
        import refused
        import sampling

        cases += adapters.make(ROOT)
        print(f"{refused.make(ROOT)} refused adapters, {sampling.make(ROOT)} sampling settings", file=sys.stderr)
    write_cases(cases)
    print(f"{len(cases)} cases", file=sys.stderr)


if __name__ == "__main__":
    main()
