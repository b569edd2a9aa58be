#!/usr/bin/env python3
"""Writes src/text/unicode_tables.h: where the Unicode versions that `tokenizers` is built on differ from those of
PCRE2 and utf8proc. Python's own tables, of Unicode 14 as PCRE2 10.42's are, are the common ground.

    make_unicode_tables.py > src/text/unicode_tables.h"""

import sys
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

POINTS = [c for c in range(0x110000) if not 0xd800 <= c < 0xe000]
ALL = "".join(map(chr, POINTS))
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cf Co".split()


def members(regex):
    left = set(map(ord, normalizers.Replace(Regex(regex), "").normalize_str(ALL)))
    return {c for c in POINTS if c not in left}


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def table(name, comment, points):
    print("/* %s */" % comment)
    print("static const struct unicode_range %s[] = {" % name)
    rows = ["{0x%X, 0x%X}" % tuple(r) for r in ranges(points)]
    for i in range(0, len(rows), 5):
        print("    " + ", ".join(rows[i:i + 5]) + ",")
    print("};\n")


def is_alone(pre_tokenizer, c):
    return len(pre_tokenizer.pre_tokenize_str("a" + chr(c) + "b")) == 3


def main():
    if unicodedata.unidata_version != "14.0.0":
        sys.exit("needs a Python with Unicode 14, this one has " + unicodedata.unidata_version)
    print("/*\n * unicode_tables.h - made by tools/tokenizer_diff/make_unicode_tables.py; used by character.c alone.\n */")
    print("#ifndef TEXT_UNICODE_TABLES_H\n#define TEXT_UNICODE_TABLES_H\n\n/* clang-format off */\n\n#include <stdint.h>\n")
    print("struct unicode_range {\n    uint32_t first, last;\n};\n")
    print("struct unicode_category {\n    uint32_t first, last;\n    char name[3];\n};\n")
    rows, known = [], set()
    for name in CATEGORIES:
        late = {c for c in members("\\p{%s}" % name) if unicodedata.category(chr(c)) == "Cn"}
        known |= late
        rows += [(first, last, name) for first, last in ranges(late)]
    print("/* Assigned after Unicode 14, up to 16. */\nstatic const struct unicode_category late_categories[] = {")
    rows = ['{0x%X, 0x%X, "%s"}' % row for row in sorted(rows)]
    for i in range(0, len(rows), 4):
        print("    " + ", ".join(rows[i:i + 4]) + ",")
    print("};\n")
    digits = pre_tokenizers.Digits(False)
    table("late_numbers", "Numbers after Unicode 16.",
          [c for c in POINTS if unicodedata.category(chr(c)) == "Cn" and c not in known and is_alone(digits, c)])
    stripped = {ord(c) for c in ALL} - set(map(ord, normalizers.StripAccents().normalize_str(ALL)))
    table("late_marks", "Marks that are none in Unicode 9, by which the reference normalises.", members("\\p{M}") - stripped)
    punctuation = pre_tokenizers.Punctuation()
    table("late_punctuation", "Punctuation that is none for the reference's Punctuation.",
          [c for c in members("\\p{P}") if not is_alone(punctuation, c)])
    nfkd = normalizers.NFKD()
    table("late_decompositions", "Characters that the reference does not decompose.",
          [c for c in POINTS if unicodedata.normalize("NFKD", chr(c)) != chr(c) and nfkd.normalize_str(chr(c)) == chr(c)])
    lower = normalizers.Lowercase()
    print("/* Upper case letters of which Unicode 14 knows no lower case: the letter, its lower case. */")
    print("static const uint32_t late_lower_case[][2] = {")
    rows = [(c, lower.normalize_str(chr(c))) for c in POINTS]
    rows = ["{0x%X, 0x%X}" % (c, ord(low)) for c, low in rows if chr(c).lower() != low and len(low) == 1]
    for i in range(0, len(rows), 5):
        print("    " + ", ".join(rows[i:i + 5]) + ",")
    print("};\n\n#endif")


main()
