"""The demo's promise, measured over HTTP: the right adapter does its task, on the fly and merged; the base and other adapters do not.

Prints the table that README.md shows.
"""
import concurrent.futures
import json
import os
import unittest

import daemon
from daemon import ADAPTERS, ROOT, Daemon

DATA = ROOT / "tests" / "data" / "demo"
SAMPLES = int(os.environ.get("LORAD_TEST_DEMO_SAMPLES", "5" if os.environ.get("LORAD_TEST_SANITIZED") else "100"))


class Demo(unittest.TestCase):
    def test_right_adapters_do_their_task_and_others_do_not(self):
        tasks = sorted(p.parent.name for p in ADAPTERS.glob("*/adapter_config.json"))
        self.assertGreaterEqual(len(tasks), 5)
        examples = {t: [json.loads(line) for line in (DATA / f"{t}.jsonl").read_text().splitlines()][:SAMPLES] for t in tasks}
        flags = [f for t in tasks for f in ("--adapter", f"{t}={ADAPTERS / t}")]
        with Daemon(*flags, model=daemon.DEMO) as d, concurrent.futures.ThreadPoolExecutor(8) as pool:
            def right(task, example, fields):
                answer = d.post("/v1/generate", {"prompt": example["prompt"], "max_tokens": 120, "temperature": 0, **fields})
                assert answer.status == 200, answer
                if fields.get("mode"):
                    assert answer.json["adapter"]["mode"] == fields["mode"], answer
                return answer.json["text"] == example["answer"]

            def accuracy(task, fields):
                return sum(pool.map(lambda e: right(task, e, fields), examples[task])) / len(examples[task])

            print("\n| task | base | right adapter | right, merged | best of the wrong adapters |\n|---|---|---|---|---|")
            rows = {}
            for task in tasks:
                self.assertEqual(d.put(f"/v1/adapters/{task}/merged", {"wait_ms": 60000}).json["merged"], "yes")
                rows[task] = (accuracy(task, {}), accuracy(task, {"adapter": task, "mode": "on_the_fly"}),
                              accuracy(task, {"adapter": task, "mode": "merged"}),
                              max(accuracy(task, {"adapter": other, "mode": "on_the_fly"}) for other in tasks if other != task))
                print(f"| {task} | " + " | ".join(f"{100 * x:.0f} %" for x in rows[task]) + " |", flush=True)
        for task, (base, fly, merged, wrong) in rows.items():
            with self.subTest(task):
                self.assertGreater(fly, 0.95 if SAMPLES >= 100 else 0.5)
                self.assertGreater(merged, 0.95 if SAMPLES >= 100 else 0.5)
                self.assertLess(base, 0.05)
                self.assertLess(wrong, 0.10 if SAMPLES >= 100 else 0.5)


if __name__ == "__main__":
    daemon.main()
