"""Talks to tests/support/tokenize_lines.c."""

import os
import struct
import subprocess
import tempfile


def ask(driver, directory, requests):
    """`requests`: (letter, bytes) each. Returns (letter, list of ids or bytes) each."""
    with tempfile.TemporaryFile() as file:
        for kind, body in requests:
            file.write(kind.encode() + struct.pack("<I", len(body)) + body)
        file.seek(0)
        done = subprocess.run([driver, os.fspath(directory)], stdin=file, stdout=subprocess.PIPE, check=True)
    data, at, answers = done.stdout, 0, []
    while at < len(data):
        kind, n = chr(data[at]), struct.unpack_from("<I", data, at + 1)[0]
        body = data[at + 5:at + 5 + n]
        at += 5 + n
        answers.append((kind, list(struct.unpack("<%di" % (n // 4), body)) if kind == "i" else body))
    if len(answers) != len(requests):
        raise RuntimeError("%s: %d answers for %d requests" % (directory, len(answers), len(requests)))
    return answers


def pack(ids):
    return struct.pack("<%di" % len(ids), *ids)
