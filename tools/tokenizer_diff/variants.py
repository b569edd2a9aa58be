"""Made-up tokenizer.json files, one for each option that a tokenizer may have."""

import json
import os

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;!?'\"()[]{}<>|/\\-_+=*&%$#@~^`\n\tàéüßﬁ你好😀\u2581\u0301"


def byte_characters():
    regular = list(range(0x21, 0x7f)) + list(range(0xa1, 0xad)) + list(range(0xae, 0x100))
    table, extra = {}, 0
    for byte in range(256):
        table[byte] = chr(byte) if byte in regular else chr(0x100 + extra)
        extra += byte not in regular
    return table


BYTE = byte_characters()


def level(text):
    return "".join(BYTE[b] for b in text.encode())


def model(words, alphabet, prefix=(), **options):
    """A vocabulary of the alphabet and the words, with merges from left to right."""
    vocab = {}
    for token in list(prefix) + sorted(set(alphabet)):
        vocab.setdefault(token, len(vocab))
    merges = []
    for word in words:
        left = word[0]
        for right in word[1:]:
            if left not in vocab or right not in vocab:
                break
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append([left, right])
            left += right
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges, **options}


WORDS = ["the", "in", "er", "an", "on", "that", "hello", "world", "you", "re", "ing", "aaaa", "12", "123", "  ", "    ", "\n\n",
         "th", "é", "ü", "好", "你好", "😀"]
SPACED = WORDS + [" " + w for w in WORDS]


def byte_model(**options):
    return model([level(w) for w in SPACED], BYTE.values(), **options)


def piece_model(**options):
    marked = [w.replace(" ", "\u2581") for w in SPACED]
    fallback = ["<0x%02X>" % b for b in range(256)] if options.get("byte_fallback") else []
    return model(marked, [c for c in LETTERS if c != " "], ["<unk>", "<s>", "</s>"] + fallback, **options)


def text_model(**options):
    return model(SPACED, LETTERS, ["<unk>", "<s>", "</s>"], **options)


def token(content, id_, **flags):
    return {"id": id_, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True, **flags}


def tokenizer(model_, added=(), normalizer=None, pre_tokenizer=None, post_processor=None, decoder=None):
    tokens, next_id = [], len(model_["vocab"])
    for content, flags in added:
        id_ = model_["vocab"].get(content, next_id)
        next_id += id_ == next_id
        tokens.append(token(content, id_, **flags))
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": model_}


def sequence(kind, *parts):
    return {"type": "Sequence", kind: list(parts)}


def replace(pattern, content, kind="String"):
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def split(pattern, behavior, invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_level(prefix=False, regex=True):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def metaspace(scheme="always", splits=True):
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": splits}


LLAMA_NORMALIZER = sequence("normalizers", {"type": "Prepend", "prepend": "\u2581"}, replace(" ", "\u2581"))
LLAMA_DECODER = sequence("decoders", replace("\u2581", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                         {"type": "Strip", "content": " ", "start": 1, "stop": 0})
LEVEL_DECODER = byte_level(True)
CHARACTERS = {"type": "Fuse"}

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"


def template(before, after, ids):
    def special(name):
        return {"SpecialToken": {"id": name, "type_id": 0}}
    names = before + after
    return {"type": "TemplateProcessing",
            "single": [special(n) for n in before] + [{"Sequence": {"id": "A", "type_id": 0}}] + [special(n) for n in after],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n: {"id": n, "ids": ids[n], "tokens": [n] * len(ids[n])} for n in names}}


def added_sets():
    yield "plain", [("<s>", {}), ("</s>", {}), ("<|x|>", {}), ("<|xy|>", {})]
    yield "single-word", [("the", dict(single_word=True, special=False)), ("<m>", dict(single_word=True)),
                          ("on", dict(single_word=True, special=False, normalized=True))]
    yield "strip", [("<s>", dict(lstrip=True)), ("</s>", dict(rstrip=True)), ("<m>", dict(lstrip=True, rstrip=True)),
                    ("  ", dict(special=False)), ("\n", dict(special=False, rstrip=True))]
    yield "normalized", [("<s>", dict(normalized=True, special=False)), ("THE", dict(normalized=True, special=False)),
                         ("</s>", {}), (" on", dict(normalized=True, special=False))]
    yield "overlapping", [(t, dict(special=False)) for t in ("a", "ab", "abcd", "bc", "bcde", "cd", "e", "hello", "lo w", "o")]


def each():
    for name, added in added_sets():
        yield "added-" + name, tokenizer(byte_model(), added, pre_tokenizer=byte_level(), decoder=LEVEL_DECODER)
        yield "added-%s-llama" % name, tokenizer(
            piece_model(unk_token="<unk>", fuse_unk=True, byte_fallback=True), added, LLAMA_NORMALIZER, None, None, LLAMA_DECODER)
        yield "added-%s-lower" % name, tokenizer(byte_model(), added, {"type": "Lowercase"}, byte_level(True), None, LEVEL_DECODER)
    for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"):
        yield "norm-" + form, tokenizer(byte_model(), (), {"type": form}, byte_level(), None, LEVEL_DECODER)
    yield "norm-nfd-strip-accents", tokenizer(
        byte_model(), (), sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}), byte_level(),
        None, LEVEL_DECODER)
    for left in (True, False):
        for right in (True, False):
            yield "norm-strip-%d%d" % (left, right), tokenizer(
                byte_model(), [("<s>", {})], {"type": "Strip", "strip_left": left, "strip_right": right}, byte_level(), None,
                LEVEL_DECODER)
    for name, part in {"regex-spaces": replace("\\s+", " ", "Regex"), "regex-lines": replace("^\\s+|\\s+$", "_", "Regex"),
                       "regex-digit": replace("[0-9]", "", "Regex"),
                       "regex-hex": replace("\\h\\H", "h", "Regex"), "regex-word": replace("\\w+", "w", "Regex"),
                       "regex-not-word": replace("[^\\w\\s]\\W", "n", "Regex"), "regex-dot": replace("o.\\S", "", "Regex"),
                       "string": replace("th", "TH"), "string-drop": replace("e", "")}.items():
        yield "norm-replace-" + name, tokenizer(byte_model(), (), part, byte_level(), None, LEVEL_DECODER)
    yield "norm-byte-level", tokenizer(byte_model(), [("<s>", {}), ("é on", dict(normalized=True, special=False))],
                                       {"type": "ByteLevel"}, split("[0-9]|the", "Isolated"), None, LEVEL_DECODER)
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield "split-%s-%d" % (behavior, invert), tokenizer(
                text_model(), (), None, split("[aeiou]|\\s", behavior, invert), None, CHARACTERS)
            yield "split-%s-%d-string" % (behavior, invert), tokenizer(
                text_model(), (), None, split(" ", behavior, invert, "String"), None, CHARACTERS)
            yield "split-%s-%d-empty" % (behavior, invert), tokenizer(
                text_model(), (), None, split("a*", behavior, invert), None, CHARACTERS)
        yield "punctuation-" + behavior, tokenizer(text_model(), (), None, {"type": "Punctuation", "behavior": behavior}, None,
                                                   CHARACTERS)
    for name, pattern in {"letters": "\\p{L}", "not-letters": "\\P{L}+", "numbers": "[^\\p{N}]", "other": "[^\\s\\p{L}\\p{N}]+",
                          "space": "\\s", "not-space": "\\S", "not-space-class": "[a\\S]", "word": "\\w", "not-word": "\\W",
                          "digit": "\\d", "not-digit": "\\D", "marks": "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}]+",
                          "punctuation": "[\\p{P}\\p{S}]+[\\r\\n/]*", "han": "\\p{Han}+", "fold": "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
                          "ahead": "\\s+(?!\\S)|(?<=a)b", "possessive": "a?+[^b]++c", "gpt2": GPT2, "llama3": LLAMA3}.items():
        for invert in (False, True):
            yield "class-%s-%d" % (name, invert), tokenizer(
                byte_model(), (), None, sequence("pretokenizers", split(pattern, "Removed", invert), byte_level(False, False)), None,
                LEVEL_DECODER)
    for individual in (False, True):
        yield "digits-%d" % individual, tokenizer(
            byte_model(), (), None, sequence("pretokenizers", {"type": "Digits", "individual_digits": individual}, byte_level()),
            None, LEVEL_DECODER)
    for kind in ("Whitespace", "WhitespaceSplit"):
        yield kind.lower(), tokenizer(text_model(unk_token="<unk>"), (), None, {"type": kind})
    for scheme in ("always", "first", "never"):
        for splits in (True, False):
            yield "metaspace-%s-%d" % (scheme, splits), tokenizer(
                piece_model(unk_token="<unk>", byte_fallback=True, fuse_unk=True), [("<s>", {}), ("<m>", dict(lstrip=True))], None,
                metaspace(scheme, splits), None, metaspace(scheme, splits))
            yield "metaspace-%s-%d-strip" % (scheme, splits), tokenizer(
                piece_model(unk_token="<unk>"), [("<s>", {}), ("<m>", dict(lstrip=True, normalized=True))],
                {"type": "Strip", "strip_left": True, "strip_right": True},
                sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, metaspace(scheme, splits)), None,
                metaspace(scheme, splits))
    for prefix in (False, True):
        for regex in (False, True):
            yield "byte-level-%d%d" % (prefix, regex), tokenizer(
                byte_model(), [("<s>", {})], None, byte_level(prefix, regex), None, LEVEL_DECODER)
            yield "byte-level-%d%d-then-split" % (prefix, regex), tokenizer(
                byte_model(), [("<s>", {})], None, sequence("pretokenizers", byte_level(prefix, regex), split("e|\u0120", "MergedWithNext")),
                None, LEVEL_DECODER)
    yield "ignore-merges", tokenizer(byte_model(ignore_merges=True), (), None, byte_level(), None, LEVEL_DECODER)
    for options in (dict(unk_token="<unk>"), dict(unk_token="<unk>", fuse_unk=True), dict(), dict(byte_fallback=True),
                    dict(byte_fallback=True, unk_token="<unk>")):
        name = "-".join(sorted(options)) or "none"
        yield "unknown-" + name, tokenizer(piece_model(**options), (), LLAMA_NORMALIZER, None, None, LLAMA_DECODER)
    broken = piece_model(byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    broken["vocab"] = {t.replace("<0xF0>", "<gone>"): i for t, i in broken["vocab"].items()}
    yield "unknown-broken-fallback", tokenizer(broken, (), LLAMA_NORMALIZER, None, None, LLAMA_DECODER)
    few = model([level(w) for w in SPACED], list(BYTE.values())[:200], ["<unk>"], unk_token="<unk>")
    yield "unknown-bytes", tokenizer(few, (), None, byte_level(), None, LEVEL_DECODER)
    legacy = byte_model()
    legacy["merges"] = ["#version: 0.2"] + [" ".join(pair) for pair in legacy["merges"]]
    yield "merges-as-strings", tokenizer(legacy, (), None, byte_level(), None, LEVEL_DECODER)
    twice = byte_model()
    twice["merges"] = twice["merges"] + twice["merges"][:5]
    yield "merges-twice", tokenizer(twice, (), None, byte_level(), None, LEVEL_DECODER)
    ids = {"<s>": [len(byte_model()["vocab"])], "</s>": [len(byte_model()["vocab"]) + 1, 5]}
    around = template(["<s>", "</s>"], ["</s>", "<s>"], ids)
    yield "template", tokenizer(byte_model(), [("<s>", {}), ("</s>", {})], None, byte_level(), around, LEVEL_DECODER)
    yield "template-sequence", tokenizer(byte_model(), [("<s>", {}), ("</s>", {})], None, byte_level(),
                                         sequence("processors", byte_level(), around, template(["<s>"], [], ids)), LEVEL_DECODER)
    first, second = ids["<s>"][0], ids["</s>"][0]
    yield "roberta", tokenizer(byte_model(), [("<s>", {}), ("</s>", {})], None, byte_level(),
                               {"type": "RobertaProcessing", "sep": ["</s>", second], "cls": ["<s>", first], "trim_offsets": True,
                                "add_prefix_space": False}, LEVEL_DECODER)
    yield "bert", tokenizer(byte_model(), [("<s>", {}), ("</s>", {})], None, byte_level(),
                            {"type": "BertProcessing", "sep": ["</s>", second], "cls": ["<s>", first]}, LEVEL_DECODER)
    pieces = piece_model(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    for name, decoder in {
            "none": None,
            "fallback": {"type": "ByteFallback"},
            "fallback-fuse": sequence("decoders", {"type": "ByteFallback"}, {"type": "Fuse"}),
            "fallback-replace": sequence("decoders", {"type": "ByteFallback"}, replace("\u2581", " "), {"type": "Fuse"}),
            "replace-after-fuse": sequence("decoders", {"type": "ByteFallback"}, {"type": "Fuse"}, replace("\u2581", " "),
                                           {"type": "Strip", "content": " ", "start": 2, "stop": 0}),
            "replace-regex": sequence("decoders", replace("[\u2581]+", "_", "Regex"), {"type": "ByteFallback"}),
            "replace-long": replace("he", "[he]"),
            "strip-token": sequence("decoders", {"type": "Strip", "content": "\u2581", "start": 1, "stop": 0}, {"type": "Fuse"}),
            "metaspace-fallback": sequence("decoders", metaspace(), {"type": "ByteFallback"}, {"type": "Fuse"}),
            "replace-level": sequence("decoders", replace("e", "E"), byte_level())}.items():
        yield "decoder-" + name, tokenizer(pieces, [("<s>", {}), ("<m>", dict(special=False))], LLAMA_NORMALIZER, None, None, decoder)


def write(root):
    for name, content in each():
        directory = os.path.join(root, name)
        os.makedirs(directory)
        with open(os.path.join(directory, "tokenizer.json"), "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False)
        yield name, directory
