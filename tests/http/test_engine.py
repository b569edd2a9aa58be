"""What a client sees of the engine: prefixes that are computed once, preemption that only takes time, the chosen mode, fair shares."""
import concurrent.futures
import unittest

import daemon
from daemon import ADAPTERS, DEMO, Daemon

N_LONG, N_FLOOD, FLOOD_TOKENS = 250, 40, 400
TEXT = "Input: " + "Show the item and quantity of all orders marked as closed and for a pen. " * 6 + "\nOutput:"
ASK = {"temperature": 0, "max_tokens": 40, "logprobs": 2, "ignore_eos": True, "mode": "on_the_fly"}


def said(answer):
    """What must not depend on the engine's state."""
    assert answer.status == 200, answer
    return {key: answer.json[key] for key in ("text", "token_ids", "logprobs", "finish_reason") if key in answer.json}


def adapter_flags(*names):
    return [flag for name in names for flag in ("--adapter", f"{name}={ADAPTERS / name}")]


class Engine(unittest.TestCase):
    def test_an_equal_beginning_is_computed_once_per_adapter(self):
        with Daemon(*adapter_flags("sql", "json"), model=DEMO) as d:
            first = d.post("/v1/generate", {**ASK, "prompt": TEXT, "adapter": "sql"})
            n_prompt = first.json["usage"]["prompt_tokens"]
            self.assertEqual(first.json["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
            again = d.post("/v1/generate", {**ASK, "prompt": TEXT, "adapter": "sql"})
            cached = again.json["usage"]["prompt_tokens_details"]["cached_tokens"]
            self.assertGreater(cached, n_prompt - 17)
            self.assertLess(cached, n_prompt)
            self.assertEqual(said(first), said(again))
            for other in ({"adapter": "json"}, {}, {"adapter": "sql", "scale": 0.5}):
                answer = d.post("/v1/generate", {**ASK, "prompt": TEXT, **other})
                self.assertEqual(answer.json["usage"]["prompt_tokens_details"]["cached_tokens"], 0, other)
            scaled_to_base = d.post("/v1/generate", {**ASK, "prompt": TEXT, "adapter": "sql", "scale": 0})
            self.assertEqual(scaled_to_base.json["usage"]["prompt_tokens_details"]["cached_tokens"], cached)
            metrics = d.metrics()
            self.assertEqual(metrics["lorad_prefix_tokens_found_total"], 2 * cached)
            self.assertEqual(metrics["lorad_kv_blocks_used"], 0)
            self.assertGreater(metrics["lorad_kv_blocks_cached"], 0)

    def test_a_cache_that_is_far_too_small_changes_no_answer(self):
        names = ["sql", "json", "date", "past"]
        asks = [{**ASK, "prompt": TEXT[i:], "adapter": names[i % 4], "max_tokens": N_LONG + i} for i in range(12)]
        with Daemon(*adapter_flags(*names), "--max-sequences", 1, "--context", 512, model=DEMO) as d:
            expected = [said(d.post("/v1/generate", ask)) for ask in asks]
        # Blocks for two sequences at their longest, or so.
        with Daemon(*adapter_flags(*names), "--context", 512, "--kv-memory", "3M", model=DEMO) as d:
            with concurrent.futures.ThreadPoolExecutor(12) as pool:
                answers = list(pool.map(lambda ask: d.post("/v1/generate", ask), asks))
            self.assertEqual([said(answer) for answer in answers], expected)
            metrics = d.metrics()
            self.assertEqual(metrics["lorad_kv_blocks_used"], 0)
            self.assertGreater(metrics["lorad_preemptions_total"], 0)
            self.assertEqual(metrics["lorad_preemptions_total"], sum(a.json["timings"]["preemptions"] for a in answers))

    def test_the_engine_says_what_it_chose(self):
        with Daemon(*adapter_flags("sql"), "--threads", 1, model=DEMO) as d:
            ask = {**ASK, "prompt": TEXT, "adapter": "sql", "mode": "auto"}
            self.assertEqual(d.post("/v1/generate", ask).json["adapter"]["mode"], "on_the_fly")
            self.assertEqual(d.call("PUT", "/v1/adapters/sql/merged", {"wait_ms": 60000}).json["merged"], "yes")
            self.assertIn(d.post("/v1/generate", ask).json["adapter"]["mode"], ("on_the_fly", "merged"))
            chosen = {key: value for key, value in d.metrics().items() if key.startswith("lorad_mode_choices_total")}
            self.assertEqual(len(chosen), 3)
            self.assertEqual(sum(chosen.values()), 2)
            self.assertEqual(chosen['lorad_mode_choices_total{mode="on_the_fly",reason="not_merged"}'], 1)
            for mode in ("on_the_fly", "merged"):
                self.assertEqual(d.post("/v1/generate", {**ask, "mode": mode}).json["adapter"]["mode"], mode)

    def test_priority_and_switching_are_checked(self):
        with Daemon(model=DEMO) as d:
            for field, value in (("priority", 101), ("priority", "high"), ("priority", 1.5), ("allow_mode_switch", 1)):
                answer = d.post("/v1/generate", {**ASK, "prompt": "x", field: value})
                self.assertEqual(answer.status, 400)
                self.assertEqual(answer.error["param"], field)
            answer = d.post("/v1/generate", {**ASK, "prompt": "x", "priority": -100, "allow_mode_switch": True})
            self.assertEqual(answer.status, 200)

    def test_a_flood_through_one_adapter_does_not_starve_another(self):
        with Daemon(*adapter_flags("sql", "json"), "--max-sequences", 4, model=DEMO) as d:
            flood = {**ASK, "prompt": TEXT, "adapter": "sql", "max_tokens": FLOOD_TOKENS}
            with concurrent.futures.ThreadPoolExecutor(N_FLOOD) as pool:
                running = [pool.submit(d.post, "/v1/generate", {**flood, "prompt": TEXT[i:]}) for i in range(N_FLOOD)]
                d.wait_for(lambda: d.metrics()["lorad_requests_running"] == 4)
                for _ in range(3):
                    answer = d.post("/v1/generate", {**ASK, "prompt": "x", "adapter": "json", "max_tokens": 2})
                    self.assertEqual(answer.status, 200)
                n_ended = sum(future.done() for future in running)
                for future in running:
                    self.assertEqual(future.result().status, 200)
            self.assertLess(n_ended, N_FLOOD - 4)
            self.assertGreater(d.metrics()["lorad_pauses_total"], 0)


if __name__ == "__main__":
    daemon.main()
