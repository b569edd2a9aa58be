#!/usr/bin/env python3
"""Draws what tests/bench/run.sh has measured: SHAPE-SCENARIO.json in a directory become SHAPE-FIGURE.svg beside them.

    tools/plot_bench.py docs/figures [--page docs/engine-figures.md]

--page writes the table between the page's two comments "figures:begin" and "figures:end". Standard library only.
"""
import argparse
import json
import math
import pathlib
import sys

WIDTH, HEIGHT = 800, 400
INK, FAINT, GRID = "#222222", "#666666", "#dddddd"
COLOURS = {"base": "#555555", "first": "#0072b2", "second": "#d55e00", "third": "#009e73"}
BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"


# -- Scales ------------------------------------------------------------------------------------------

class Powers:
    """Powers of two, evenly; one that stands alone in the middle."""
    def __init__(self, values):
        self.ticks = [(v, f"{v:g}") for v in sorted(set(values))]
        self.low, self.high = math.log2(self.ticks[0][0]), math.log2(self.ticks[-1][0])

    def share(self, value):
        return (math.log2(value) - self.low) / (self.high - self.low) if self.high > self.low else 0.5


class Tail:
    """Shares of all events, so that each factor of ten in what is left has the same width: 0, 90, 99, 99.9 %."""
    def __init__(self, n_events):
        self.decades = min(4.0, max(1.0, math.log10(max(n_events, 10))))
        marks = [(0, "0"), (0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99")]
        self.ticks = [(p, text) for p, text in marks if -math.log10(1 - p) <= self.decades + 1e-9]

    def share(self, p):
        return min(1.0, -math.log10(max(1 - p, 1e-9)) / self.decades)


class Linear:
    """From 0 to a round number above the largest."""
    def __init__(self, largest, n_ticks=5):
        rough = max(largest, 1e-9) / n_ticks
        unit = 10 ** math.floor(math.log10(rough))
        step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough * 0.999)
        n = math.ceil(largest / step - 1e-9)
        self.high = n * step
        self.ticks = [(i * step, f"{i * step:g}") for i in range(n + 1)]

    def share(self, value):
        return value / self.high


# -- Drawing ------------------------------------------------------------------------------------------

def escape(text):
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def text_at(x, y, text, size=13, anchor="middle", colour=INK, weight="normal", turn=None):
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn is not None else ""
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" '
            f'font-weight="{weight}"{turned}>{escape(text)}</text>')


def line_at(x1, y1, x2, y2, colour, width=1.0, dash=None):
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"{dashed}/>'


def marker_at(x, y, shape, colour):
    if shape == "square":
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
    if shape == "triangle":
        return f'<path d="M{x:.1f} {y - 5.5:.1f}l5 9h-10z" fill="{colour}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.2" fill="{colour}"/>'


class Panel:
    """One pair of axes. Curves are lists of (x, y) or (x, y, lowest, highest)."""
    def __init__(self, left, width, x, y, x_title, y_title, title=None, top=92, bottom=58):
        self.left, self.right, self.top, self.bottom = left, left + width, top, HEIGHT - bottom
        self.x, self.y, self.parts = x, y, []
        self.draw_axes(x_title, y_title, title)

    def at(self, x, y):
        return (self.left + 12 + (self.right - self.left - 24) * self.x.share(x),
                self.bottom - (self.bottom - self.top) * self.y.share(y))

    def draw_axes(self, x_title, y_title, title):
        for value, text in self.y.ticks:
            y = self.at(self.x.ticks[0][0], value)[1]
            self.parts.append(line_at(self.left, y, self.right, y, GRID))
            if y_title: # a panel beside another one has the same axis
                self.parts.append(text_at(self.left - 8, y + 4.5, text, anchor="end"))
        for value, text in self.x.ticks:
            x = self.at(value, 0)[0]
            self.parts += [line_at(x, self.bottom, x, self.bottom + 5, INK), text_at(x, self.bottom + 21, text)]
        self.parts += [line_at(self.left, self.bottom, self.right, self.bottom, INK, 1.2),
                       text_at((self.left + self.right) / 2, self.bottom + 46, x_title, 14)]
        if y_title:
            self.parts.append(text_at(self.left - 56, (self.top + self.bottom) / 2, y_title, 14, turn=-90))
        if title:
            self.parts.append(text_at((self.left + self.right) / 2, self.top - 10, title, 14, weight="bold"))

    def curve(self, points, colour, marker=None, dash=None):
        if not points:
            return
        where = [self.at(p[0], p[1]) for p in points]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in where)
        self.parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashed}/>')
        for point, (x, y) in zip(points, where):
            if len(point) == 4:
                self.parts.append(line_at(x, self.at(point[0], point[2])[1], x, self.at(point[0], point[3])[1], colour, 1.4))
            if marker:
                self.parts.append(marker_at(x, y, marker, colour))

    def mark(self, x, text, low=False):
        """A vertical line with words at its right, or at its left where there is no room."""
        at = self.at(x, 0)[0]
        is_left = at > self.right - 8 * len(text)
        self.parts += [line_at(at, self.top, at, self.bottom, INK, 1.2, "5 4"),
                       text_at(at + (-6 if is_left else 6), self.bottom - 10 if low else self.top + 16, text, 12.5,
                               anchor="end" if is_left else "start")]

    def level(self, y, text):
        """A horizontal line: what was wanted."""
        at = self.at(self.x.ticks[0][0], y)[1]
        self.parts += [line_at(self.left, at, self.right, at, FAINT, 1.2, "2 4"),
                       text_at(self.right - 4, at - 6, text, 12, anchor="end", colour=FAINT)]


def legend(entries, left=70, y=62):
    parts, x = [], left
    for text, colour, marker, dash in entries:
        parts.append(line_at(x, y - 4, x + 28, y - 4, colour, 2, dash))
        if marker:
            parts.append(marker_at(x + 14, y - 4, marker, colour))
        parts.append(text_at(x + 35, y, text, 13, anchor="start"))
        x += 35 + 7.3 * len(text) + 22
    return parts


def write_figure(path, title, subtitle, panels, entries):
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
             'font-family="DejaVu Sans, Verdana, Helvetica, Arial, sans-serif">',
             f"<title>{escape(title)}</title>", f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
             text_at(16, 25, title, 17, anchor="start", weight="bold"),
             text_at(16, 43, subtitle, 12, anchor="start", colour=FAINT)]
    parts += legend(entries)
    for panel in panels:
        parts += panel.parts
    path.write_text("\n".join(parts + ["</svg>"]) + "\n")
    print(path)


# -- Figures -----------------------------------------------------------------------------------------------

def spread(x, figures):
    return (x, figures["median"], figures["minimum"], figures["maximum"])


def ratios(a, b):
    values = sorted(x / y for x, y in zip(a["values"], b["values"]))
    return values[0], values[-1]


def largest(curves):
    return max(point[-1] if len(point) == 4 else point[1] for curve in curves for point in curve)


def subtitle_of(report, more):
    return f"{report['model']}, {report['weights']}, {report['threads']} threads, {report['kernels']}; {more}"


def draw_adapters(report, path):
    points = report["counts"]
    curves = [[spread(p["adapters"], p[name]["tokens_per_second"]) for p in points] for name in ("base", "mixed")]
    panel = Panel(70, 705, Powers([p["adapters"] for p in points]), Linear(largest(curves) * 1.05),
                  f"adapters, each used by one request (at most {report['options']['clients']} run at a time)", "tokens per second")
    panel.curve(curves[0], COLOURS["base"], "square")
    panel.curve(curves[1], COLOURS["first"], "circle")
    write_figure(path, "Throughput over the number of adapters",
                 subtitle_of(report, f"rank {report['options']['rank']} on all linear sites, prompts of {report['options']['prompt']} tokens, "
                                     f"{report['options']['tokens']} new ones, prefill included"), [panel],
                 [("the same requests on the base", COLOURS["base"], "square", None),
                  ("each through its own adapter", COLOURS["first"], "circle", None)])


def draw_ranks(report, path):
    points = report["ranks"]
    curve = [(p["rank"], p["mixed_to_base"], *ratios(p["mixed"]["tokens_per_second"], p["base"]["tokens_per_second"])) for p in points]
    panel = Panel(70, 705, Powers([p["rank"] for p in points]), Linear(max(1.1, largest([curve]))), "rank of every adapter",
                  "decode rate, share of the base's")
    panel.level(1, "the base")
    panel.curve(curve, COLOURS["first"], "circle")
    for rank, ratio, *_ in curve:
        x, y = panel.at(rank, ratio)
        panel.parts.append(text_at(x, y + 24, f"{ratio:.2f}", 12.5))
    n = report["options"]["clients"]
    write_figure(path, "The cost of the rank", subtitle_of(report, f"{n} clients, each its own adapter on all linear sites"), [panel],
                 [(f"{n} clients on {n} adapters (median and range of the turns)", COLOURS["first"], "circle", None)])


def draw_merge(report, path):
    panels = []
    families = (("one_adapter", "all sequences through one adapter"), ("own_adapters", "each through its own"))
    looks = (("on_the_fly", "first", "circle", None), ("merged", "second", "square", None), ("auto", "third", "triangle", "3 4"))
    curves = {(family, mode): [spread(p["sequences"], p[mode]["tokens_per_second"]) for p in report[family]["points"] if p[mode]]
              for family, _ in families for mode, *_ in looks}
    top = Linear(largest(c for c in curves.values() if c) * 1.05)
    for i, (family, title) in enumerate(families):
        points = report[family]["points"]
        panel = Panel(70 + i * 365, 340, Powers([p["sequences"] for p in points]), top, "sequences at a time",
                      None if i else "tokens per second", title, top=106)
        for mode, colour, marker, dash in looks:
            panel.curve(curves[family, mode], COLOURS[colour], marker, dash)
        if report[family]["crossing"]:
            panel.mark(report[family]["crossing"], f"cross at {report[family]['crossing']:.1f}")
        panels.append(panel)
    write_figure(path, "Merged against on the fly", subtitle_of(report, f"rank {report['options']['rank']} on all linear sites"), panels,
                 [("on the fly (W x + s B A x)", COLOURS["first"], "circle", None), ("merged (W' x)", COLOURS["second"], "square", None),
                  ("auto", COLOURS["third"], "triangle", "3 4")])


def draw_swap(report, path):
    curves = []
    for name in ("quiet", "loading"):
        values = report[f"{name}_quantiles_ms"]
        curves.append([(i / len(values), v) for i, v in enumerate(values)])
    n_events = min(report["inter_token_quiet_ms"]["n"], report["inter_token_loading_ms"]["n"])
    panel = Panel(70, 705, Tail(n_events), Linear(largest(curves) * 1.05), "share of all tokens, %", "ms since the token before")
    panel.curve(curves[0], COLOURS["base"])
    panel.curve(curves[1], COLOURS["second"])
    if n_events >= 100:
        panel.mark(0.99, f"99 %: {report['inter_token_quiet_ms']['p99']:.1f} quiet, {report['inter_token_loading_ms']['p99']:.1f} loading "
                         f"(ratio {report['loading_to_quiet_p99']:.2f})", low=True)
    options = report["options"]
    write_figure(path, "Time between tokens while adapters load and merge",
                 subtitle_of(report, f"{options['clients']} running streams; rank {options['rank']}"), [panel],
                 [("undisturbed", COLOURS["base"], None, None),
                  (f"while {options['adapters']} adapters load and {options['merges']} merge", COLOURS["second"], None, None)])


FIGURES = {"adapters": draw_adapters, "ranks": draw_ranks, "merge": draw_merge, "swap": draw_swap}


# -- The page's table ----------------------------------------------------------------------------------------

def number(value, digits=2, unit=""):
    return "–" if value is None else f"{value:.{digits}f}{unit}"


def mode_of_auto(point):
    answers = {name: n for name, n in point["auto"]["answers"].items() if n}
    return ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in answers.items())


def steady_rows(r):
    yield "Decode, one client on the base", f"{r['decode_tokens_per_second']:.1f} tokens/s", ""
    yield "… share of the memory bandwidth", number(r["share_of_memory_bandwidth"]), ""
    yield f"Prefill, {r['prompt_tokens']} tokens", f"{r['prefill_tokens_per_second']:.0f} tokens/s", ""


def mix_rows(r):
    n = r["options"]["clients"]
    yield f"{n} clients on the base", f"{r['base']['tokens_per_second']['median']:.1f} tokens/s", ""
    yield f"{n} clients on {r['options']['adapters']} adapters, of the base's rate", number(r["mixed_to_base"]), "≥ 0.90" if n <= 8 else "≥ 0.85"
    yield "… of the rate on one adapter", number(r["mixed_to_same"]), "≥ 0.95" if n <= 8 else ""


def ranks_rows(r):
    ranks = [str(p["rank"]) for p in r["ranks"]]
    yield (f"{r['options']['clients']} clients, each its own adapter of rank {' / '.join(ranks)}, of the base's rate",
           " / ".join(number(p["mixed_to_base"]) for p in r["ranks"]), "")


def adapters_rows(r):
    last = r["counts"][-1]
    yield f"{last['adapters']} adapters resident and used, of the base's rate", number(last["mixed_to_base"]), ""


def merge_rows(r):
    for family, words in (("one_adapter", "all through one adapter"), ("own_adapters", "each through its own")):
        points = r[family]["points"]
        sizes = " / ".join(str(p["sequences"]) for p in points)
        yield (f"Merged against on the fly, {sizes} sequences, {words}",
               " / ".join(number(p["merged_to_on_the_fly"]) for p in points), "")
        yield "… they cross at", number(r[family]["crossing"], 1, " sequences") if r[family]["crossing"] else "no size measured", ""
        yield "… answers of `auto`", "; ".join(f"{p['sequences']}: {mode_of_auto(p)}" for p in points), ""


def swap_rows(r):
    o = r["options"]
    quiet, loading = r["inter_token_quiet_ms"], r["inter_token_loading_ms"]
    yield f"Time between tokens, {o['clients']} streams, p50 / p99", f"{quiet['p50']:.1f} / {quiet['p99']:.1f} ms", ""
    yield (f"… while {o['adapters']} adapters load and {o['merges']} merge", f"{loading['p50']:.1f} / {loading['p99']:.1f} ms", "")
    yield "… p99 of the undisturbed", number(r["loading_to_quiet_p99"], 2, " ×"), "≤ 1.10 ×"
    added = r["first_token_added_ms"]
    yield ("First token after a load, beyond its prefill, p50 / maximum", f"{added['p50']:.1f} / {added['maximum']:.1f} ms", "≤ 50 ms")


def starvation_rows(r):
    o = r["options"]
    yield "First token of one request each second, idle server, p95", number(r["first_token_idle_ms"]["p95"], 0, " ms"), ""
    yield (f"… while another adapter has sent {o['flood']} requests", number(r["first_token_flooded_ms"]["p95"], 0, " ms"), "")
    yield "… of the idle server's", number(r["flooded_to_idle_p95"], 2, " ×"), "≤ 3 ×"


def prefix_rows(r):
    cached = r["cached_tokens"]["median"]
    yield (f"First token, prompt of {r['options']['prompt']} tokens, {r['common_tokens']} of them shared: first / later requests",
           f"{r['first_token_cold_ms']['p50']:.0f} / {r['first_token_warm_ms']['p50']:.0f} ms", "")
    yield "… tokens that were not computed again", f"{cached:.0f}", ""


TABLE = (("steady", steady_rows), ("mix-8", mix_rows), ("mix-32", mix_rows), ("ranks", ranks_rows), ("adapters", adapters_rows),
         ("merge", merge_rows), ("swap", swap_rows), ("starvation", starvation_rows), ("prefix", prefix_rows))


def shape_section(shape, reports, directory, page):
    lines = [f"### {shape}", "", "| measured | | wanted |", "| --- | ---: | ---: |"]
    for scenario, rows in TABLE:
        if scenario in reports:
            lines += [f"| {what} | {value} | {wanted} |" for what, value, wanted in rows(reports[scenario])]
    lines.append("")
    for scenario in FIGURES:
        path = directory / f"{shape}-{scenario}.svg"
        if scenario in reports:
            lines += [f"![{shape}, {scenario}]({path.resolve().relative_to(page.resolve().parent)})", ""]
    return lines


def write_page(page, directory, shapes):
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"{page}: must have one '{BEGIN}' and one '{END}'")
    lines = [BEGIN, ""]
    machine = directory / "machine.json"
    if machine.exists():
        m = json.loads(machine.read_text())
        lines += [f"Measured on {m['date']} at {m['commit']}: {m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB.", ""]
    for shape, reports in shapes.items():
        lines += shape_section(shape, reports, directory, page)
    head, rest = text.split(BEGIN)
    page.write_text(head + "\n".join(lines) + END + rest.split(END)[1])
    print(page)


def read_reports(directory):
    """{shape: {scenario: report}}; "mix-8" and "mix-32" are two."""
    shapes = {}
    names = [name for name, _ in TABLE]
    for path in sorted(directory.glob("*.json"), reverse=True):
        scenario = next((name for name in names if path.stem.endswith("-" + name)), None)
        if scenario:
            shapes.setdefault(path.stem[:-len(scenario) - 1], {})[scenario] = json.loads(path.read_text())
    return shapes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--page", type=pathlib.Path)
    arguments = parser.parse_args()
    shapes = read_reports(arguments.directory)
    if not shapes:
        sys.exit(f"{arguments.directory}: no figures")
    for shape, reports in shapes.items():
        for scenario, draw in FIGURES.items():
            if scenario in reports:
                draw(reports[scenario], arguments.directory / f"{shape}-{scenario}.svg")
    if arguments.page:
        write_page(arguments.page, arguments.directory, shapes)


if __name__ == "__main__":
    main()
