"""Texts to try tokenizers on: every kind of Unicode, reproducible from a seed."""

import random

WORDS = """the of and to in is you that it he was for on are as with his they at be this have from or one had by
word but not what all were we when your can said there use an each which she do how their if will up other about out
many then them these so some her would make like him into time has look two more write go see number no way could
people my than first water been call who oil its now find long down day did get come made may part Hello World
I'm you're we've they'll he'd don't can't it's THE QUICK BROWN Fox's O'Neill 'tis rock'n'roll naïve café Zürich
Ünïcödé façade résumé straße Ærøskøbing œuvre ﬁnance ﬀect ǅ ſtop 'ſ 'S 'LL 'Re""".split()

PHRASES = [
    "The quick brown fox jumps over the lazy dog.",
    "All human beings are born free and equal in dignity and rights.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "எல்லா மனிதரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "ყველა ადამიანი იბადება თავისუფალი და თანასწორი.",
    "ሰው ሁሉ ነፃና እኩል ሆኖ ተወልዷል።",
]

CODE = [
    "def f(x, *args):\n\treturn [i ** 2 for i in range(x) if i % 2 == 0]\n",
    "for (int i = 0; i < n; ++i) {\n    sum += a[i] * b[i];   // dot\n}\n",
    "SELECT name, COUNT(*) FROM t WHERE id >= 10 GROUP BY 1 HAVING COUNT(*) > 3;",
    '{"key": [1, 2.5e-3, null, true], "s": "a\\nb\\u00e9"}',
    "<div class=\"x\">&amp; <!-- c --></div>\r\n",
    "https://example.org/a/b?c=d&e=%20f#g  user.name+tag@example.co.uk",
    "#!/bin/sh\nset -eu\nfor f in *.txt; do echo \"$f\" | sed 's/a/b/g' >> out; done\n",
    "x = 0xDEADBEEF; y = 1_000_000; z = 3.14159265358979; w=1e10;",
    "```python\nprint('hi')\n```\n\n- [x] done\n- [ ] todo\n\n| a | b |\n|---|---|\n",
]

SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n ", "\r", "\v", "\f", "\x85", "\xa0", "\u1680", "\u180e", "\u2000",
          "\u2003", "\u2009", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u2060", "\u3000", "\ufeff",
          "\x1c", "\x1d", "\x1e", "\x1f"]

EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇺🇸🇫🇷", "❤️", "☃", "🧑🏿‍🚀", "1️⃣", "🫠", "©️", "〰️", "🅰", "Ⓐ", "ⓩ"]

MARKS = ["\u0301", "\u0308", "\u0327", "\u0323", "\u0302", "\u0338", "\u05b0", "\u0651", "\u093c", "\u094d", "\u1dc4", "\u20d0",
         "\u20dd", "\u3099", "\u309a", "\U0001d165", "\ufe0f", "\u200d", "\u200c", "\u034f", "\u0345"]

NUMBERS = ["0", "7", "12", "123", "1234", "12345678901234567890", "3.14", "1,000,000", "½", "²", "Ⅷ", "٣٤٥", "१२३", "①", "〇", "一百",
           "𝟘𝟙", "៣", "𐄇", "0x1F", "1e-5", "2024-01-02", "12:34:56"]

CONTROL = [chr(c) for c in list(range(0, 32)) + list(range(0x7f, 0xa0)) + [0xad, 0xfffe, 0xffff, 0xfffd, 0xe000, 0x10ffff,
                                                                       0x1ffff, 0x2581, 0x120, 0x10a, 0x100, 0x143]]

RANGES = [(0x20, 0x7e), (0xa0, 0x24f), (0x250, 0x36f), (0x370, 0x5ff), (0x600, 0x8ff), (0x900, 0xdff), (0xe00, 0x13ff),
          (0x1400, 0x1fff), (0x2000, 0x2bff), (0x2c00, 0x2fff), (0x3000, 0x33ff), (0x3400, 0x9fff), (0xa000, 0xabff),
          (0xac00, 0xd7ff), (0xf900, 0xffff), (0x10000, 0x11fff), (0x12000, 0x16fff), (0x17000, 0x1bfff),
          (0x1c000, 0x1efff), (0x1f000, 0x1fbff), (0x20000, 0x3134f), (0xe0000, 0xe01ef), (0xf0000, 0x10ffff)]


def character(rng):
    low, high = rng.choice(RANGES)
    return chr(rng.randint(low, high))


class Maker:
    def __init__(self, seed, specials=()):
        self.rng = random.Random(seed)
        self.specials = list(specials) + ["<s>", "</s>", "<|endoftext|>", "<0x0A>", "<0xE2>", "<unk>", "<|im_start|>"]

    def phrase(self):
        return self.rng.choice(PHRASES)

    def prose(self):
        return " ".join(self.rng.choice(WORDS) for _ in range(self.rng.randint(1, 20)))

    def code(self):
        return self.rng.choice(CODE)

    def space(self):
        return "".join(self.rng.choice(SPACES) * self.rng.choice([1, 1, 1, 2, 3, 7]) for _ in range(self.rng.randint(1, 4)))

    def emoji(self):
        return "".join(self.rng.choice(EMOJI) for _ in range(self.rng.randint(1, 4)))

    def marked(self):
        return "".join(character(self.rng) + "".join(self.rng.choice(MARKS) for _ in range(self.rng.randint(0, 4)))
                       for _ in range(self.rng.randint(1, 6)))

    def number(self):
        return self.rng.choice(NUMBERS)

    def control(self):
        return "".join(self.rng.choice(CONTROL) for _ in range(self.rng.randint(1, 5)))

    def unicode(self):
        if self.rng.random() < 0.5:
            low, high = self.rng.choice(RANGES)
            return "".join(chr(self.rng.randint(low, high)) for _ in range(self.rng.randint(1, 12)))
        return "".join(character(self.rng) for _ in range(self.rng.randint(1, 12)))

    def any_unicode(self):
        out = []
        for _ in range(self.rng.randint(1, 12)):
            c = self.rng.randint(0, 0x10ffff - 0x800)
            out.append(chr(c if c < 0xd800 else c + 0x800))
        return "".join(out)

    def special(self):
        text = self.rng.choice(self.specials)
        if self.rng.random() < 0.15:
            text = text[:self.rng.randint(0, len(text))]
        return self.rng.choice(["", " ", "  ", "\n", "\u00a0"]) + text + self.rng.choice(["", " ", "  ", "\n", "x"])

    def bytes(self):
        return bytes(self.rng.randint(0, 255) for _ in range(self.rng.randint(1, 20))).decode("utf-8", "replace")

    def letters(self):
        return "".join(self.rng.choice("abcdefghijklmnopqrstuvwxyzABC'' \n.,-_0123") for _ in range(self.rng.randint(1, 40)))

    def run(self):
        return self.rng.choice(["a", " ", "\n", "é", "😀", "-", "0", "\u0301", "\t", "ab", "aA", " a", "= ", "\n ", "哈", "'s"]) \
            * self.rng.choice([10, 25, 64, 100, 333])

    def text(self):
        rng = self.rng
        kinds = [self.phrase, self.prose, self.code, self.space, self.emoji, self.marked, self.number, self.control,
                 self.unicode, self.any_unicode, self.special, self.bytes, self.letters]
        if rng.random() < 0.03:
            kinds.append(self.run)
        out = []
        for _ in range(rng.choice([1, 1, 2, 3, 4, 6])):
            part = rng.choice(kinds)()
            if rng.random() < 0.2:
                a, b = sorted((rng.randint(0, len(part)), rng.randint(0, len(part))))
                part = part[a:b]
            out.append(part)
        return rng.choice(["", "", " "]).join(out)


def make(count, seed, specials=()):
    """`count` texts, after a few fixed ones and every single code point of the first planes in rows."""
    maker = Maker(seed, specials)
    fixed = ["", " ", "  ", "\n", "a", " a", "a ", "\u2581", "\u2581a", " \u2581 ", "\x00", "a\x00b"]
    long = ["a" * 20000, " " * 20000, "\n" * 20000, "😀" * 5000, "ab" * 10000, "é" * 10000, "\u0301\u0323" * 3000,
            " a" * 10000, "1" * 20000, "<|endoftext|>" * 1000, "word " * 4000]
    return fixed + long + [maker.text() for _ in range(count)]


def code_points(per_text=16):
    """All of Unicode, a few code points in a text, between letters."""
    points = [c for c in range(0x110000) if not 0xd800 <= c < 0xe000]
    return [" ".join("a" + chr(c) + "b1" for c in points[i:i + per_text]) for i in range(0, len(points), per_text)]
