#!/usr/bin/env python3
"""Makes the whole demo from nothing: models/demo, adapters/*, tests/data/demo, and its table."""

import argparse

import torch

import adapters
import base
import evaluate
import tasks


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", metavar="PART",
                        help="base, refine, sets, table or the name of an adapter (default: everything)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--base-steps", type=int, default=1700)
    parser.add_argument("--refine-steps", type=int, default=400)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    wanted = args.what or ["base", "refine", "sets", *tasks.TASKS, "table"]
    for part in wanted:
        if part == "base":
            base.train(args.base_steps)
        elif part == "refine":
            base.refine(args.refine_steps)
        elif part == "sets":
            evaluate.write_sets()
        elif part == "table":
            evaluate.matrix()
        elif part in tasks.TASKS:
            adapters.train(part)
        else:
            parser.error(f"there is no part named {part}")


if __name__ == "__main__":
    main()
