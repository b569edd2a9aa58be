#!/usr/bin/env python3
"""Compares lorad with llama.cpp and ik_llama.cpp on this machine, in one run, and prints a Markdown table.

    tests/bench/peers.py --lorad build-bench/src/lorad --llama DIR --ik DIR --gguf DIR [--shape NAME]... [flags]

The contestants take turns: each repeat starts every program afresh, one after the other, since a process can be lucky or unlucky with its pages
for all its life. Medians over the repeats are printed. What is missing, or fails, is left out with a remark. While other processes, or other
guests of the same host, take more than a twentieth of the cores, nothing is measured; what was disturbed is measured again, and counted when it could not be
had otherwise. --llama and --ik are the
directories with their programs: llama-bench, llama-batched-bench and llama-server. They read GGUF files from --gguf, made from the models and
adapters in --models that tools/random_model.py makes: SHAPE-bf16.gguf, SHAPE-q8_0.gguf and so on, and SHAPE-a0.gguf to SHAPE-a7.gguf.

    prefill   512 tokens
    decode    64 tokens of one sequence after 512
    batch     64 tokens of 8 sequences at once after 128 each: all tokens per second
    clients   8 HTTP clients at once, 128 tokens each in and out, on the base: all tokens, in and out, per second
    adapters  the same, each client on an adapter of its own (rank 16, all linear maps)

Standard library only. The exit code is 0 when all was measured, 1 when something was left out, 2 for a wrong command line.
"""
import argparse
import concurrent.futures
import contextlib
import fcntl
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

PROMPT, CONTEXT, NEW = 512, 512, 64  # prefill; decode, and what is in the context before it
SEQUENCES, BATCH_PROMPT = 8, 128     # batch
CLIENT_TOKENS = 128                  # clients and adapters: in, and out
FIGURES = {"prefill": f"prefill {PROMPT}", "decode": f"decode at {CONTEXT}", "batch": f"decode, {SEQUENCES} sequences",
           "clients": f"{SEQUENCES} clients, base", "adapters": f"{SEQUENCES} clients, {SEQUENCES} adapters"}
SHAPES = ("qwen2.5-0.5b", "llama-3.2-1b")
# What the peers hold weights as, where lorad has bf16, q8 and q4: their fastest at as many bits, and the 4-bit type that most people use.
# "q4_0-pure" is what llama-quantize --pure makes: q4_0 in all matrices, embedding and output too, as in lorad's q4.
LLAMA_TYPES = {"bf16": ["bf16"], "q8": ["q8_0"], "q4": ["q4_0-pure", "q4_K_M"]}
IK_TYPES = {"bf16": ["bf16", "bf16 -rtr"], "q8": ["q8_0 -rtr"], "q4": ["q4_0-pure -rtr", "q4_K_M -rtr"]}
REPACKED = " -rtr"  # ik_llama.cpp: weights are rearranged at load
DISTURBED = 0.05  # of the cores, by others
TRIES, PATIENCE_S = 4, 600  # to measure undisturbed; to wait for it each time
WAIT_S = 600  # for a program, a server or an answer; far more than any takes


class Failed(Exception):
    """Why something could not be measured, in one line."""


# -- Programs ------------------------------------------------------------------------------------------

def last_line(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "nothing was printed"


def output_of(command, with_stderr=False):
    try:
        done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
                              stderr=subprocess.STDOUT if with_stderr else subprocess.PIPE, text=True, errors="replace", timeout=WAIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(str(error)) from error
    if done.returncode != 0:
        raise Failed(f"{pathlib.Path(command[0]).name}: exit code {done.returncode}: {last_line(done.stderr or done.stdout)}")
    return done.stdout


def parse_lorad_bench(text):
    """(prefill, decode)"""
    report = json.loads(text)
    return report["prefill_tokens_per_second"], report["decode_tokens_per_second"]


def parse_llama_bench(text):
    """ik_llama.cpp may print a line or two before the JSON."""
    try:
        return json.loads(text[text.index("[\n"):])[0]["avg_ts"]
    except (ValueError, LookupError) as error:
        raise Failed(f"not understood: {last_line(text)}") from error


def parse_batched_bench(text):
    """The column S_TG of the table's one row."""
    head = row = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if "S_TG t/s" in cells:
            head = cells
        elif head and len(cells) == len(head) and re.fullmatch(r"[0-9.]+", cells[0]):
            row = cells
    if not row:
        raise Failed(f"not understood: {last_line(text)}")
    return float(row[head.index("S_TG t/s")])


# -- Servers -------------------------------------------------------------------------------------------

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A program that answers HTTP on a free port of this machine; `with Server(...) as server`."""

    def __init__(self, command, port, ready_path):
        self.command, self.port, self.ready_path = [str(c) for c in command], port, ready_path

    def __enter__(self):
        self.log = tempfile.TemporaryFile("w+", errors="replace")
        try:
            self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        except OSError as error:
            raise Failed(str(error)) from error
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait_until_ready(self):
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                self.log.seek(0)
                raise Failed(f"{pathlib.Path(self.command[0]).name}: exit code {self.process.returncode}: {last_line(self.log.read())}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._exchange("GET", self.ready_path)[0] == 200:
                    return
            time.sleep(0.05)
        raise Failed(f"{self.command[0]}: not ready after {WAIT_S} s")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def _exchange(self, method, path, body=None, timeout=WAIT_S):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body),
                               headers={} if body is None else {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def post(self, path, body, timeout=WAIT_S):
        try:
            status, answer = self._exchange("POST", path, body, timeout)
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"{path}: {error!r}") from error
        if status != 200:
            raise Failed(f"{path}: status {status}: {answer[:200]!r}")
        return json.loads(answer)


def prompt_of(client):
    """Another one for each client, so that nobody is served from what somebody else has computed. Any token will do."""
    return [(i * 7919 + client * 104729 + 13) % 50000 for i in range(CLIENT_TOKENS)]


def rate_of_clients(ask):
    """ask(client, n_new) generates and returns how many tokens it got."""
    ask(SEQUENCES, 4)  # warms up, with another prompt than all others
    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(SEQUENCES) as pool:
        counts = list(pool.map(lambda client: ask(client, CLIENT_TOKENS), range(SEQUENCES)))
    seconds = time.monotonic() - begin
    if counts != [CLIENT_TOKENS] * SEQUENCES:
        raise Failed(f"clients got {counts} tokens, not {CLIENT_TOKENS} each")
    return SEQUENCES * 2 * CLIENT_TOKENS / seconds


# -- Contestants ---------------------------------------------------------------------------------------
# Each has a name, a type of weights as its makers call it, and three ways to be measured that return {figure: value}.

class Lorad:
    def __init__(self, settings, shape, weights, cpu):
        self.name, self.type, self.weights = "lorad", f"{weights} --cpu {cpu}" if cpu else weights, weights
        self.flags = ["--cpu", cpu] if cpu else []
        self.program, self.threads = settings.lorad, settings.threads
        self.model = settings.models / shape
        self.adapter_files = [settings.models / f"{shape}-adapters" / f"a{i}" for i in range(SEQUENCES)]

    def needs(self):
        return [self.program, self.model / "model.safetensors"]

    def needs_for_adapters(self):
        return [a / "adapter_model.safetensors" for a in self.adapter_files]

    def _common(self):
        return ["--model", self.model, "--weights", self.weights, "--threads", self.threads, *self.flags]

    def _bench(self, *flags):
        return parse_lorad_bench(output_of([self.program, "bench", *self._common(), "--scenario", "steady", "--repeats", 1,
                                            "--tokens", NEW + 1, *flags]))

    def single(self):
        return dict(zip(("prefill", "decode"), self._bench("--prompt", PROMPT)))

    def batch(self):
        return {"batch": self._bench("--prompt", BATCH_PROMPT, "--clients", SEQUENCES)[1]}

    def _clients(self, with_adapters):
        port = free_port()
        flags = [f for i, a in enumerate(self.adapter_files) for f in ("--adapter", f"a{i}={a}")] if with_adapters else []

        def ask(client, n_new):
            which = {"adapter": f"a{client % SEQUENCES}"} if with_adapters else {}
            answer = server.post("/v1/generate", {"input_ids": prompt_of(client), "max_tokens": n_new, "temperature": 0,
                                                  "ignore_eos": True, **which})
            return answer["usage"]["completion_tokens"]

        with Server([self.program, "serve", *self._common(), "--listen", f"127.0.0.1:{port}", *flags], port, "/ready") as server:
            return rate_of_clients(ask)

    def clients(self):
        return {"clients": self._clients(False)}

    def adapters(self):
        return {"adapters": self._clients(True)}


class Llama:
    """llama.cpp. Its server takes the adapters of a request with the request, and decodes together those whose adapters are the same."""
    name, decode_flags = "llama.cpp", ["-p", 0, "-n", NEW, "-d", CONTEXT]
    bench_flags, flags, adapter_flags = [], [], ["--lora-init-without-apply"]

    def __init__(self, settings, directory, shape, weights, type_):
        self.type, self.weights, self.threads = type_, weights, settings.threads
        self.directory = directory
        self.model = settings.gguf / f"{shape}-{type_}.gguf"
        self.adapter_files = [settings.gguf / f"{shape}-a{i}.gguf" for i in range(SEQUENCES)]

    def needs(self):
        return [self.directory / p for p in ("llama-bench", "llama-batched-bench", "llama-server")] + [self.model]

    def needs_for_adapters(self):
        return self.adapter_files

    def _bench(self, *flags):
        return parse_llama_bench(output_of([self.directory / "llama-bench", "-m", self.model, "-t", self.threads, "-r", 1, "-o", "json",
                                            *self.bench_flags, *flags]))

    def _common(self):
        return ["-m", self.model, "-t", self.threads, "-tb", self.threads, *self.flags]

    def single(self):
        return {"prefill": self._bench("-p", PROMPT, "-n", 0), "decode": self._bench(*self.decode_flags)}

    def batch(self):
        return {"batch": parse_batched_bench(output_of(
            [self.directory / "llama-batched-bench", *self._common(), "-c", SEQUENCES * (BATCH_PROMPT + NEW), "-npp", BATCH_PROMPT,
             "-ntg", NEW, "-npl", SEQUENCES], with_stderr=True))}

    def _server(self, with_adapters):
        port = free_port()
        flags = [f for a in self.adapter_files for f in ("--lora", a)] + self.adapter_flags if with_adapters else []
        # Twice the positions that are needed: it is particular about the last ones.
        return Server([self.directory / "llama-server", *self._common(), "-np", SEQUENCES, "-c", SEQUENCES * 4 * CLIENT_TOKENS,
                       "--host", "127.0.0.1", "--port", port, *flags], port, "/health")

    @staticmethod
    def _complete(server, client, n_new, **fields):
        # Top-k with k = 1 is its quickest way to take the most likely token.
        answer = server.post("/completion", {"prompt": prompt_of(client), "n_predict": n_new, "ignore_eos": True,
                                             "cache_prompt": False, "samplers": ["top_k"], "top_k": 1, **fields})
        return answer["timings"]["predicted_n"]

    def clients(self):
        with self._server(False) as server:
            return {"clients": rate_of_clients(lambda client, n_new: self._complete(server, client, n_new))}

    def adapters(self):
        with self._server(True) as server:
            return {"adapters": rate_of_clients(lambda client, n_new: self._complete(
                server, client, n_new, lora=[{"id": client % SEQUENCES, "scale": 1.0}]))}


class Ik(Llama):
    """ik_llama.cpp. Its server has one choice of adapters for all requests: the clients take turns and set theirs first. It leaves adapters out
    where it computes flash attention."""
    adapter_flags = [*Llama.adapter_flags, "-fa", "off"]
    name, decode_flags = "ik_llama.cpp", ["-p", 0, "-n", 0, "-gp", f"{CONTEXT},{NEW}"]

    def __init__(self, settings, directory, shape, weights, type_):
        super().__init__(settings, directory, shape, weights, type_.removesuffix(REPACKED))
        if type_.endswith(REPACKED):
            self.type, self.flags, self.bench_flags = type_, ["-rtr"], ["-rtr", 1]

    def adapters(self):
        turn = threading.Lock()

        def ask(client, n_new):
            with turn:
                # The answer is lost now and then; what was asked for is done before the next request all the same.
                with contextlib.suppress(Failed):
                    server.post("/lora-adapters", [{"id": client % SEQUENCES, "scale": 1.0}], timeout=0.05)
                return self._complete(server, client, n_new)

        with self._server(True) as server:
            return {"adapters": rate_of_clients(ask)}


MEASURES = {"single": ["prefill", "decode"], "batch": ["batch"], "clients": ["clients"], "adapters": ["adapters"]}


def contestants_of(settings, shape, weights):
    found = []
    if settings.llama:
        found += [Llama(settings, settings.llama, shape, weights, t) for t in settings.llama_types or LLAMA_TYPES[weights]]
    if settings.ik:
        found += [Ik(settings, settings.ik, shape, weights, t) for t in settings.ik_types or IK_TYPES[weights]]
    if settings.lorad:
        found += [Lorad(settings, shape, weights, cpu) for cpu in settings.cpu]
    return found


# -- Quiet ---------------------------------------------------------------------------------------------

@contextlib.contextmanager
def locked(path):
    """Alone on the machine, among those who take turns by this lock (flock)."""
    if not path:
        yield
        return
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Disturbance:
    """What share of the cores' time others have taken since it was made: all busy time, what the host kept to itself included, less that of
    this process and of the children that have ended."""

    def __init__(self):
        self.then = self._now()

    @staticmethod
    def _now():
        ticks = [int(t) for t in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(ticks), ticks[3] + ticks[4], sum(os.times()[:4]) * os.sysconf("SC_CLK_TCK")

    def share(self):
        total, idle, own = (now - then for now, then in zip(self._now(), self.then))
        return max(0, total - idle - own) / max(1, total)


def undisturbed(lock, ask):
    """(what ask() returns, the share of the cores that others took): of several tries the least disturbed one, if none was undisturbed."""
    best = None
    for _ in range(TRIES):
        until = time.monotonic() + PATIENCE_S
        while True:
            with locked(lock):
                before = Disturbance()
                time.sleep(0.5)
                if before.share() <= DISTURBED or time.monotonic() > until:
                    during = Disturbance()
                    answer = ask()
                    share = during.share()
                    break
            time.sleep(2)
        if best is None or share < best[1]:
            best = answer, share
        if share <= DISTURBED:
            break
    return best


# -- The run -------------------------------------------------------------------------------------------

class Run:
    """Figures of one shape: (weights, contestant, type) to {figure: [a value for each repeat]}."""

    def __init__(self, settings, shape):
        self.settings, self.shape, self.figures, self.left_out = settings, shape, {}, set()
        self.n_measured = self.n_disturbed = 0

    def remark(self, key, names, why):
        self.left_out.add((key, tuple(names)))
        print(f"{self.shape}, {key[1]} {key[2]}: no {', '.join(names)}: {why}", file=sys.stderr, flush=True)

    def measure(self, contestant, name):
        key = (contestant.weights, contestant.name, contestant.type)
        figures = MEASURES[name]
        if (key, tuple(figures)) in self.left_out:
            return
        needed = contestant.needs() + (contestant.needs_for_adapters() if name == "adapters" else [])
        missing = [str(path) for path in needed if not path.exists()]
        if missing:
            return self.remark(key, figures, f"{missing[0]} is missing")
        try:
            measured, disturbance = undisturbed(self.settings.lock, getattr(contestant, name))
        except Failed as failure:
            return self.remark(key, figures, str(failure))
        self.n_measured += 1
        self.n_disturbed += disturbance > DISTURBED
        for figure, value in measured.items():
            self.figures.setdefault(key, {}).setdefault(figure, []).append(value)
            print(f"{self.shape}, {key[1]} {key[2]}: {figure} {value:.1f} (others took {disturbance:.0%})", file=sys.stderr, flush=True)

    def repeat(self):
        for weights in self.settings.weights:
            for name in self.settings.measures:
                for contestant in contestants_of(self.settings, self.shape, weights):
                    self.measure(contestant, name)


def table(figures, weights, names):
    """The medians, and lorad's against the best of the others at the same weights."""
    lines = ["| weights | | " + " | ".join(FIGURES[n] for n in names) + " |", "| --- | --- |" + " ---: |" * len(names)]

    def row(head, cells):
        lines.append(f"| {head} | " + " | ".join(cells) + " |")

    for kind in weights:
        medians = {key: {n: statistics.median(values) for n, values in of.items()} for key, of in figures.items() if key[0] == kind}
        for (_, name, type_), of in medians.items():
            row(f"{kind} | {name} {type_}" if name != "lorad" else f"{kind} | {name}{type_.removeprefix(kind)}", [f"{of[n]:.1f}" if n in of else "–" for n in names])
        best = {n: max((of[n] for key, of in medians.items() if key[1] != "lorad" and n in of), default=None) for n in names}
        for (_, name, type_), of in medians.items():
            if name == "lorad" and any(best.values()):
                row(f"{kind} | {name}{type_.removeprefix(kind)} / best peer", [f"{of[n] / best[n]:.2f}" if n in of and best[n] else "–" for n in names])
    return "\n".join(lines)


def parse_list(choices):
    def parse(text):
        items = text.split(",")
        wrong = [i for i in items if choices and i not in choices]
        if wrong:
            raise argparse.ArgumentTypeError(f"'{wrong[0]}' is none of {', '.join(choices)}")
        return items
    return parse


def parse_arguments(arguments):
    temporary = pathlib.Path(tempfile.gettempdir())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lorad", type=pathlib.Path, metavar="PATH", help="the program")
    parser.add_argument("--cpu", type=parse_list(None), default=[""], metavar="LIST", help="lorad's instruction sets, each beside the others")
    parser.add_argument("--llama", type=pathlib.Path, metavar="DIR", help="llama.cpp's programs")
    parser.add_argument("--ik", type=pathlib.Path, metavar="DIR", help="ik_llama.cpp's programs")
    parser.add_argument("--models", type=pathlib.Path, default=temporary / "lorad-bench-models", metavar="DIR",
                        help="has SHAPE and SHAPE-adapters/a0 to a7, made by tools/random_model.py (%(default)s)")
    parser.add_argument("--gguf", type=pathlib.Path, default=temporary / "lorad-bench-gguf", metavar="DIR", help="the peers' files (%(default)s)")
    parser.add_argument("--shape", action="append", metavar="NAME", help=f"may be given several times ({', '.join(SHAPES)})")
    parser.add_argument("--weights", type=parse_list(LLAMA_TYPES), default=list(LLAMA_TYPES), metavar="LIST", help="bf16,q8,q4")
    parser.add_argument("--llama-types", type=parse_list(None), metavar="LIST", help="other GGUF types, for one of --weights")
    parser.add_argument("--ik-types", type=parse_list(None), metavar="LIST", help=f"the same; '{REPACKED}' behind one rearranges at load")
    parser.add_argument("--measures", type=parse_list(MEASURES), default=list(MEASURES), metavar="LIST",
                        help="single (prefill and decode), batch, clients, adapters")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N", help="for all alike (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="%(default)s")
    parser.add_argument("--lock", metavar="FILE", help="held (flock) while something is measured, and not in between")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="every single value")
    settings = parser.parse_args(arguments)
    if not (settings.lorad or settings.llama or settings.ik):
        parser.error("who takes part? --lorad, --llama, --ik")
    return settings


def main(arguments=None):
    settings = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # by way of all that ends the servers
    names = [figure for name in settings.measures for figure in MEASURES[name]]
    runs = [Run(settings, shape) for shape in settings.shape or SHAPES]
    for _ in range(settings.repeats):
        for run in runs:
            run.repeat()
    for run in runs:
        print(f"\n{run.shape}, {settings.threads} threads, tokens per second, medians of {settings.repeats}:\n")
        print(table(run.figures, settings.weights, names))
        if run.n_disturbed:
            print(f"\n{run.n_disturbed} of {run.n_measured} measurements were disturbed: others took more than {DISTURBED:.0%} of the cores.")
    if settings.json:
        settings.json.write_text(json.dumps({run.shape: [{"weights": k[0], "contestant": k[1], "type": k[2], **v}
                                                         for k, v in run.figures.items()] for run in runs}, indent=1) + "\n")
    return 1 if any(run.left_out for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
