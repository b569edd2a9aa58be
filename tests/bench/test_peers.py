"""What peers.py makes of the programs' output, with programs that only print."""
import contextlib
import io
import json
import pathlib
import stat
import sys
import tempfile
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import peers

BATCHED = """
main: n_kv_max = 1536, n_batch = 2048, n_ubatch = 512

|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|   128 |     64 |    8 |   1536 |    1.000 |  1024.00 |    5.000 |   102.40 |    6.000 |   256.00 |

llama_perf_context_print: total time = 6000.00 ms / 1536 tokens
"""

PROGRAM = """#!{python}
import sys
words = sys.argv[1:]
if "-npl" in words:
    print({batched!r}, file=sys.stderr)
elif "bench" in words:
    print('{{"prefill_tokens_per_second": 300.0, "decode_tokens_per_second": 30.0}}') if "bf16" in words else sys.exit("lorad: no such type")
else:
    print('read 1 file\\n[\\n  {{"avg_ts": ' + ("20.0" if "64" in words else "200.0") + '}}\\n]')
"""


class Peers(unittest.TestCase):
    def setUp(self):
        peers.DISTURBED = 1  # other tests run at the same time
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        for name in ("lorad", "llama-bench", "llama-batched-bench", "llama-server"):
            program = self.directory / name
            program.write_text(PROGRAM.format(python=sys.executable, batched=BATCHED))
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        for name in ("tiny-bf16.gguf", "tiny-q8_0.gguf", "tiny/model.safetensors"):
            (self.directory / name).parent.mkdir(exist_ok=True)
            (self.directory / name).touch()

    def run_peers(self, *flags):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = peers.main(["--models", str(self.directory), "--gguf", str(self.directory), "--shape", "tiny", "--repeats", "2",
                               "--measures", "single,batch", "--lorad", str(self.directory / "lorad"), *flags])
        return code, out.getvalue(), err.getvalue()

    def test_a_table_has_the_medians_and_the_best_peer(self):
        code, out, err = self.run_peers("--llama", str(self.directory), "--weights", "bf16", "--json", str(self.directory / "all.json"))
        self.assertEqual(code, 0, err)
        self.assertIn("| bf16 | llama.cpp bf16 | 200.0 | 20.0 | 102.4 |\n| bf16 | lorad | 300.0 | 30.0 | 30.0 |", out)
        self.assertIn("| bf16 | lorad / best peer | 1.50 | 1.50 | 0.29 |", out)
        values = json.loads((self.directory / "all.json").read_text())["tiny"]
        self.assertEqual([v["decode"] for v in values], [[20.0, 20.0], [30.0, 30.0]])

    def test_each_instruction_set_takes_part(self):
        code, out, err = self.run_peers("--llama", str(self.directory), "--weights", "bf16", "--measures", "single", "--cpu", "avx2,avx512")
        self.assertEqual(code, 0, err)
        self.assertIn("| bf16 | lorad --cpu avx2 | 300.0 | 30.0 |\n| bf16 | lorad --cpu avx512 | 300.0 | 30.0 |", out)
        self.assertIn("| bf16 | lorad --cpu avx512 / best peer | 1.50 | 1.50 |", out)
        self.assertIn("lorad bf16 --cpu avx2: prefill 300.0", err)

    def test_what_is_missing_or_fails_is_left_out_with_one_remark(self):
        code, out, err = self.run_peers("--llama", str(self.directory), "--ik", str(self.directory / "nowhere"), "--weights", "bf16,q8")
        self.assertEqual(code, 1)
        self.assertIn("| q8 | llama.cpp q8_0 | 200.0 | 20.0 | 102.4 |", out)
        self.assertNotIn("ik_llama.cpp", out)
        self.assertNotIn("| q8 | lorad", out)
        self.assertEqual(err.count("lorad q8: no prefill, decode: lorad: exit code 1: lorad: no such type"), 1, err)
        self.assertEqual(err.count(f"ik_llama.cpp bf16: no batch: {self.directory}/nowhere/llama-bench is missing"), 1, err)

    def test_what_was_disturbed_is_measured_again_and_the_least_disturbed_counts(self):
        class Noise:
            shares = iter([0, 0.4, 0, 0.2, 0, 0.3, 0, 0.6])  # before and during each try

            def share(self):
                return next(self.shares)

        peers.DISTURBED, counter = 0.05, iter(range(9))
        with mock.patch.object(peers, "Disturbance", Noise), mock.patch.object(peers.time, "sleep"):
            self.assertEqual(peers.undisturbed(None, lambda: next(counter)), (1, 0.2))

    def test_output_that_is_not_understood_is_named(self):
        for parse in (peers.parse_llama_bench, peers.parse_batched_bench):
            with self.assertRaisesRegex(peers.Failed, "not understood: out of memory"):
                parse("loading\nout of memory\n")


if __name__ == "__main__":
    unittest.main()
