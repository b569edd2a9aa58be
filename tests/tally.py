#!/usr/bin/env python3
"""Adds up meson's testlog.json files: tally.py FILE... prints each failure's last lines, then 'N passed, N failed, N skipped'.

Exit code 0 when something passed and nothing failed.
"""
import json
import pathlib
import sys

TAIL_LINES = 40
PASSED = {"OK", "EXPECTEDFAIL"}
SKIPPED = {"SKIP", "IGNORED"}


def main():
    passed, skipped, failed = 0, 0, []
    for name in sys.argv[1:]:
        for line in pathlib.Path(name).read_text(encoding="utf-8").splitlines():
            test = json.loads(line)
            if test["result"] in PASSED:
                passed += 1
            elif test["result"] in SKIPPED:
                skipped += 1
            else:
                failed.append((name, test))
    for name, test in failed:
        print(f"\n---- {test['name']}: {test['result']} ({name})")
        output = (test.get("stdout") or "") + (test.get("stderr") or "")
        print("\n".join(output.splitlines()[-TAIL_LINES:]))
    print(f"\n{passed} passed, {len(failed)} failed, {skipped} skipped")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
