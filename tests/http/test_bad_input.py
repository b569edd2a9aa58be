"""Wrong requests get their status and a message that names the field; the daemon goes on."""
import json
import socket
import unittest

import daemon
from daemon import GOLDEN, Daemon

IDS = [5, 17, 42]
# body of /v1/generate -> the field that the error names
WRONG_FIELDS = [
    ({}, "prompt"),
    ({"prompt": "x", "input_ids": IDS}, "input_ids"),
    ({"prompt": 7}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"input_ids": []}, "input_ids"),
    ({"input_ids": "abc"}, "input_ids"),
    ({"input_ids": [1, "x"]}, "input_ids"),
    ({"input_ids": [1, -1]}, "input_ids"),
    ({"input_ids": [1, 1.5]}, "input_ids"),
    ({"input_ids": [1, 10 ** 9]}, "input_ids"),
    ({"input_ids": [1, 2 ** 40]}, "input_ids"),
    ({"input_ids": IDS, "temperature": -1}, "temperature"),
    ({"input_ids": IDS, "temperature": "hot"}, "temperature"),
    ({"input_ids": IDS, "top_p": 0}, "top_p"),
    ({"input_ids": IDS, "top_p": 1.5}, "top_p"),
    ({"input_ids": IDS, "min_p": -0.1}, "min_p"),
    ({"input_ids": IDS, "top_k": -2}, "top_k"),
    ({"input_ids": IDS, "top_k": 1.5}, "top_k"),
    ({"input_ids": IDS, "repetition_penalty": 0}, "repetition_penalty"),
    ({"input_ids": IDS, "presence_penalty": 3}, "presence_penalty"),
    ({"input_ids": IDS, "frequency_penalty": -3}, "frequency_penalty"),
    ({"input_ids": IDS, "logit_bias": {"x": 1}}, "logit_bias"),
    ({"input_ids": IDS, "logit_bias": {"1": "y"}}, "logit_bias"),
    ({"input_ids": IDS, "logit_bias": {"99999999": 1}}, "logit_bias"),
    ({"input_ids": IDS, "logit_bias": {" 5": 1}}, "logit_bias"),
    ({"input_ids": IDS, "logit_bias": {"+5": 1}}, "logit_bias"),
    ({"input_ids": IDS, "logit_bias": [1]}, "logit_bias"),
    ({"input_ids": IDS, "seed": "s"}, "seed"),
    ({"input_ids": IDS, "seed": 1.5}, "seed"),
    ({"input_ids": IDS, "max_tokens": -1}, "max_tokens"),
    ({"input_ids": IDS, "max_tokens": 2 ** 31}, "max_tokens"),
    ({"input_ids": IDS, "max_tokens": 100000}, "max_tokens"),
    ({"input_ids": IDS, "max_tokens": 2, "min_tokens": 3}, "min_tokens"),
    ({"input_ids": IDS, "stop": [""]}, "stop"),
    ({"input_ids": IDS, "stop": [1]}, "stop"),
    ({"input_ids": IDS, "stop": {"a": 1}}, "stop"),
    ({"input_ids": IDS, "stop": ["x"] * 1000}, "stop"),
    ({"input_ids": IDS, "stop_token_ids": [-5]}, "stop_token_ids"),
    ({"input_ids": IDS, "stop_token_ids": [10 ** 7]}, "stop_token_ids"),
    ({"input_ids": IDS, "logprobs": 21}, "logprobs"),
    ({"input_ids": IDS, "logprobs": True}, "logprobs"),
    ({"input_ids": IDS, "prompt_logprobs": -1}, "prompt_logprobs"),
    ({"input_ids": IDS, "stream": "yes"}, "stream"),
    ({"input_ids": IDS, "echo": 1}, "echo"),
    ({"input_ids": IDS, "ignore_eos": "no"}, "ignore_eos"),
    ({"input_ids": IDS, "mode": "fast"}, "mode"),
    ({"input_ids": IDS, "scale": "big"}, "scale"),
    ({"input_ids": IDS, "scale": 1e6}, "scale"),
    ({"input_ids": IDS, "merge_wait_ms": -1}, "merge_wait_ms"),
    ({"input_ids": IDS, "timeout_ms": 10 ** 12}, "timeout_ms"),
    ({"input_ids": IDS, "adapter": 5}, "adapter"),
    ({"input_ids": IDS, "adapters": "plain"}, "adapters"),
    ({"input_ids": IDS, "adapters": ["plain"]}, "adapters"),
    ({"input_ids": IDS, "adapters": [{"weight": 1}]}, "id"),
    ({"input_ids": IDS, "adapters": [{"id": "plain", "weight": "x"}]}, "weight"),
    ({"input_ids": IDS, "adapters": [{"id": "plain", "color": 1}]}, "color"),
    ({"input_ids": IDS, "adapter": "plain", "adapters": [{"id": "plain"}]}, "adapters"),
    ({"input_ids": IDS, "temprature": 1}, "temprature"),
]
NOT_JSON = [b"", b"{", b"[]", b'"x"', b"nul", b'{"input_ids": [1], "input_ids": [2]}', b'{"a": 1} x', b'{"prompt": "\xff"}',
            b'{"prompt": "\xed\xa0\x80"}', b'{"prompt": "\\ud800"}', b'{"prompt": "a\\u0000b"}', b"[" * 100000,
            b'{"a":' * 5000, b'{"prompt": "x", "temperature": 1e999}', b'{"input_ids": [99999999999999999999]}', b"\x00\x01",
            b"\xef\xbb\xbf{}"]


class BadInput(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon("--adapter", f"plain={GOLDEN}/adapters/llama.plain").__enter__()
        cls.before = cls.d.generate(input_ids=IDS, max_tokens=4).body

    @classmethod
    def tearDownClass(cls):
        assert cls.d.generate(input_ids=IDS, max_tokens=4).json["token_ids"] == json.loads(cls.before)["token_ids"]
        cls.d.__exit__(None, None, None)

    def assert_openai_error(self, answer, status):
        self.assertEqual(answer.status, status, answer)
        self.assertEqual(set(answer.error), {"message", "type", "param", "code"})
        self.assertTrue(answer.error["message"])

    def test_every_wrong_field_is_named(self):
        for body, field in WRONG_FIELDS:
            with self.subTest(body=str(body)[:100]):
                answer = self.d.post("/v1/generate", body)
                self.assert_openai_error(answer, 400)
                self.assertIn(field, f"{answer.error['param']} {answer.error['message']}")

    def test_what_is_not_json_is_400(self):
        for path in ("/v1/generate", "/v1/completions", "/tokenize", "/detokenize", "/v1/load_lora_adapter"):
            for body in NOT_JSON:
                with self.subTest(path=path, body=body[:40]):
                    self.assert_openai_error(self.d.call("POST", path, body), 400)

    def test_completions_name_their_wrong_fields(self):
        for body, field in (({"prompt": None}, "prompt"), ({"prompt": []}, "prompt"), ({"prompt": [1, "a"]}, "prompt"),
                            ({"prompt": [[1], "a"]}, "prompt"), ({"prompt": {"a": 1}}, "prompt"),
                            ({"prompt": "x", "n": 0}, "n"), ({"prompt": "x", "n": 1000}, "n"),
                            ({"prompt": "x", "best_of": 5}, "best_of"), ({"prompt": "x", "suffix": "y"}, "suffix"),
                            ({"prompt": "x", "stream_options": {"include_usage": True}}, "stream_options"),
                            ({"prompt": "x", "max_tokens": 0}, "max_tokens"), ({"prompt": "x", "model": 3}, "model"),
                            ({"prompt": "x", "guided_json": {}}, "guided_json"), ({"prompt": ["x"] * 1000}, "prompt")):
            with self.subTest(body=str(body)[:80]):
                answer = self.d.post("/v1/completions", body)
                self.assert_openai_error(answer, 400)
                self.assertIn(field, f"{answer.error['param']} {answer.error['message']}")

    def test_unknown_paths_and_methods(self):
        self.assert_openai_error(self.d.get("/nothing"), 404)
        self.assert_openai_error(self.d.get("/v1/adapters/"), 404)
        self.assert_openai_error(self.d.get("/v1/adapters/a/b/c"), 404)
        self.assert_openai_error(self.d.get("/v1/generate"), 405)
        self.assert_openai_error(self.d.call("PATCH", "/v1/adapters/plain"), 405)
        self.assert_openai_error(self.d.get("/v1/adapters/nobody"), 404)
        self.assert_openai_error(self.d.get("/v1/adapters/..%2f..%2fetc"), 404)

    def test_a_body_too_large_is_413(self):
        huge = b'{"prompt": "' + b"x" * (9 << 20) + b'"}'
        try:
            self.assert_openai_error(self.d.call("POST", "/v1/generate", huge), 413)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon may close while the client still writes

    def test_a_chunked_body_too_large_is_413(self):
        s = socket.create_connection((self.d.host, self.d.port), timeout=20)
        with s:
            s.sendall(b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(9):
                s.sendall(b"100000\r\n" + b"x" * 0x100000 + b"\r\n")
            s.sendall(b"0\r\n\r\n")
            self.assertIn(b" 413 ", s.recv(4096))

    def test_ambiguous_framing_is_refused(self):
        body = b'{"input_ids": [1], "max_tokens": 1}'
        length = str(len(body)).encode()
        head = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\n"
        for extra in (b"Content-Length: " + length + b"\r\nContent-Length: " + length + b"\r\n",
                      b"Content-Length: " + length + b"\r\nTransfer-Encoding: chunked\r\n",
                      b"Content-Length: " + length + b"\r\nHost: other\r\n",
                      b"Transfer-Encoding: gzip\r\n"):
            with self.subTest(extra=extra):
                answer = self.d.raw(head + extra + b"\r\n" + body, timeout=3, half_close=True)
                self.assertFalse(answer.startswith(b"HTTP/1.1 200"), answer)

    def test_pages_of_other_sites_are_refused(self):
        for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"},
                        {"Origin": f"http://evil.example:{self.d.port}", "Host": f"evil.example:{self.d.port}"}):
            self.assertEqual(self.d.post("/v1/generate", {"input_ids": IDS}, headers=headers).status, 403)
        own = {"Origin": f"http://127.0.0.1:{self.d.port}"}
        self.assertEqual(self.d.post("/v1/generate", {"input_ids": IDS, "max_tokens": 1}, headers=own).status, 200)

    def test_garbage_on_the_wire_does_no_harm(self):
        for data in (b"\r\n\r\n", b"GET\r\n\r\n", b"\x00" * 4096, b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * 200000,
                     b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
                     b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
                     b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"):
            self.d.raw(data, timeout=3, half_close=True)
        self.assertEqual(self.d.get("/health").status, 200)


if __name__ == "__main__":
    daemon.main()
