"""Prints what `lorad bench --scenario quality` found as the tables of docs/quality.md: quality_table.py REPORT.json..."""

import json
import sys


def short(value):
    """Three digits of what may be anything from nothing to nats."""
    if value < 1e-9:
        return "< 1e-9"
    return f"{value:.2g}" if value >= 1e-3 else f"{value:.1e}".replace("e-0", "e-")


def row(cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def print_base(report):
    base = report["base"]
    print(f"\n`{report['model']}`, {base['texts']} texts of its own, {base['positions']:,} positions, perplexity {base['perplexity']:.4f} in f32, "
          f"keys and values in {report['kv_type']}:\n")
    row(["weights", "bits", "perplexity", "divergence", "99 % below", "most", "same best token"])
    row(["---"] + ["---:"] * 6)
    for found in report["types"]:
        one = found["base"]
        row([f"`{found['weights']}`", f"{found['bits_per_weight']:.1f}", f"{one['perplexity']:.4f}", short(one["kl"]), short(one["kl_p99"]),
             short(one["kl_maximum"]), f"{100 * one['same_best']:.2f} %"])


def print_adapters(report):
    print("\nAdapters: divergence from f32 on the fly / merged / of merged from on the fly; answers right on the fly / merged:\n")
    row(["adapter", "rank"] + [f"`{found['weights']}`" for found in report["types"]] + ["right, all types"])
    row(["---", "---:"] + ["---:"] * (len(report["types"]) + 1))
    for i, adapter in enumerate(report["adapters"]):
        ways = [found["adapters"][i] for found in report["types"]]
        right = [min(way[name].get("right", 0) for way in ways) for name in ("on_the_fly", "merged")]
        row([f"`{adapter['id']}`" + (" (DoRA)" if adapter["dora"] else ""), adapter["rank"]]
            + [" / ".join(short(way[name]["kl"]) for name in ("on_the_fly", "merged", "merged_to_on_the_fly")) for way in ways]
            + [" / ".join(f"{100 * share:.0f} %" for share in right)])


def main():
    for path in sys.argv[1:]:
        with open(path) as file:
            report = json.load(file)
        print_base(report)
        if report["adapters"]:
            print_adapters(report)


main()
