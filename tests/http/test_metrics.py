"""/metrics: read as strictly as a scraper may, by adapter, and under the names that gateways look for."""
import re
import time
import unittest

import daemon
from daemon import ADAPTERS, DEMO, Daemon

IDS = [5, 17, 42]
SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="[^"\\\n]*",?)*)\})? (\S+)')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="([^"]*)"')
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count"), "counter": ("",), "gauge": ("",)}


def parse(text):
    """{family: (type, {(sample, labels): value})}. Every family has one HELP, then one TYPE, then its samples, each once."""
    families, current, helped = {}, None, None
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped = line.split(" ", 3)[2]
            assert helped not in families and line.split(" ", 3)[3], line
        elif line.startswith("# TYPE "):
            _, _, current, kind = line.split(" ")
            assert current == helped and current not in families and kind in SUFFIXES, line
            families[current] = (kind, {})
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            name, labels, value = match.groups()
            kind, samples = families[current]
            assert name in {current + suffix for suffix in SUFFIXES[kind]}, line
            assert kind != "counter" or name.endswith("_total"), line
            key = (name, tuple(sorted(LABEL.findall(labels or ""))))
            assert key not in samples, line
            samples[key] = float(value)
    return families


def value(families, family, suffix="", **labels):
    return families[family][1][(family + suffix, tuple(sorted(labels.items())))]


def adapters_in(families, family):
    return {dict(labels)["adapter"] for _, labels in families[family][1]}


class Metrics(unittest.TestCase):
    def read(self, d):
        answer = d.get("/metrics")
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.headers["content-type"].startswith("text/plain; version=0.0.4"))
        return parse(answer.body.decode())

    def test_requests_are_counted_by_adapter_and_mode(self):
        with Daemon("--adapters-dir", ADAPTERS, model=DEMO) as d:
            for name in ("sql", "date"):
                self.assertEqual(d.put(f"/v1/adapters/{name}", {"path": name}).status, 201)
            self.assertEqual(d.put("/v1/adapters/sql/merged", {"wait_ms": 20000}).status, 202)
            long = list(range(32)) * 3
            for mode, ids in (("on_the_fly", long), ("on_the_fly", long), ("merged", IDS)):
                answer = d.generate(input_ids=ids, adapter="sql", mode=mode, max_tokens=4)
                self.assertEqual(answer.json["adapter"]["mode"], mode)
            cached = d.get("/v1/adapters/sql").json["counters"]["cached_tokens"]
            d.wait_for(lambda: sum(d.get("/v1/adapters/sql").json["counters"]["requests"].values()) == 3)
            self.assertGreater(cached, 0)
            self.assertEqual(d.generate(input_ids=IDS, adapter="sql", max_tokens=0).status, 200)
            d.wait_for(lambda: sum(d.get("/v1/adapters/sql").json["counters"]["requests"].values()) == 4)

            counters = d.get("/v1/adapters/sql").json["counters"]
            self.assertEqual(counters["prompt_tokens"], 2 * len(long) + 2 * len(IDS))
            self.assertEqual(counters["completion_tokens"], 12)
            self.assertEqual(counters["requests"]["merged"] + counters["requests"]["on_the_fly"], 4)
            self.assertEqual(counters["time_to_first_token"]["requests"], 3)
            self.assertGreater(counters["time_to_first_token"]["seconds"], 0)

            families = self.read(d)
            for mode in ("on_the_fly", "merged", "partly_merged"):
                self.assertEqual(value(families, "lorad_adapter_requests_total", adapter="sql", mode=mode),
                                 counters["requests"][mode])
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "preemptions"):
                self.assertEqual(value(families, f"lorad_adapter_{name}_total", adapter="sql"), counters[name])
            waits = "lorad_adapter_time_to_first_token_seconds"
            self.assertEqual(value(families, waits, "_count", adapter="sql"), 3)
            self.assertAlmostEqual(value(families, waits, "_sum", adapter="sql"), counters["time_to_first_token"]["seconds"], 5)
            self.assertEqual(value(families, "lorad_adapter_resident_bytes", adapter="sql"), d.get("/v1/adapters/sql").json["bytes"])
            self.assertEqual(value(families, "lorad_adapter_loaded_total", adapter="sql"), 1)
            for family in families:
                if any("adapter" in dict(labels) for _, labels in families[family][1]):
                    self.assertEqual(adapters_in(families, family), {"sql"}, family)  # nobody has asked for the other

    def test_gateways_find_what_they_route_by(self):
        with Daemon("--adapters-dir", ADAPTERS, "--adapter-memory", "64M", model=DEMO) as d:
            families = self.read(d)
            ((name, labels), _), = families["vllm:lora_requests_info"][1].items()
            self.assertEqual(dict(labels)["running_lora_adapters"], "")
            self.assertGreaterEqual(int(dict(labels)["max_lora"]), 1)
            for name in ("sql", "date"):
                d.put(f"/v1/adapters/{name}", {"path": name})
            n_bytes = sum(d.get(f"/v1/adapters/{name}").json["bytes"] for name in ("sql", "date"))
            d.generate(input_ids=IDS, adapter="sql", max_tokens=2)
            families = self.read(d)
            ((name, labels), when), = families["vllm:lora_requests_info"][1].items()
            labels = dict(labels)
            self.assertEqual(set(labels), {"max_lora", "running_lora_adapters", "waiting_lora_adapters"})
            self.assertEqual(labels["running_lora_adapters"].split(","), ["date", "sql"])
            self.assertEqual(labels["waiting_lora_adapters"], "")
            self.assertEqual(int(labels["max_lora"]), (64 << 20) * 2 // n_bytes)
            self.assertLess(abs(when - time.time()), 5)
            for name in ("vllm:num_requests_waiting", "vllm:num_requests_running"):
                self.assertEqual(value(families, name), 0)
            self.assertTrue(0 <= value(families, "vllm:kv_cache_usage_perc") <= 1)
            blocks = int(value(families, "lorad_kv_blocks"))
            self.assertEqual(value(families, "vllm:cache_config_info", num_gpu_blocks=str(blocks),
                                   block_size=str(int(value(families, "lorad_kv_block_tokens")))), 1)
            for vllm, own in (("prompt_tokens", "prompt_tokens"), ("generation_tokens", "completion_tokens"),
                              ("num_preemptions", "preemptions"), ("prefix_cache_queries", "prefix_tokens_sought"),
                              ("prefix_cache_hits", "prefix_tokens_found")):
                self.assertEqual(value(families, f"vllm:{vllm}_total"), value(families, f"lorad_{own}_total"))
            for vllm, own in (("time_to_first_token_seconds", "time_to_first_token_seconds"),
                              ("inter_token_latency_seconds", "inter_token_seconds")):
                self.assertEqual(value(families, f"vllm:{vllm}", "_count"), value(families, f"lorad_{own}", "_count"))


if __name__ == "__main__":
    daemon.main()
