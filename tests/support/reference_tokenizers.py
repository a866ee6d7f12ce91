#!/usr/bin/env python3
"""Makes tests/golden/tokenizers: small tokenizers with the pipelines of real models, and the ids that the tokenizers and
sentencepiece libraries give for 1,000 random texts each, which tests/unit/test_tokenizers_golden.c makes, too.

    python3 -m venv venv && venv/bin/pip install tokenizers sentencepiece
    venv/bin/python tests/support/reference_tokenizers.py tests/golden/tokenizers [NAME...]

A line of FAMILIES is a pipeline. `--ids TOKENIZER` prints the golden of any other tokenizer.json or tokenizer.model, and
`--gguf FILE.gguf` that of a GGUF vocabulary without what goes around a text (it takes the package gguf): those of the
shared folder's vocabularies are in tests/golden/tokenizers/gguf.
"""
import base64, io, json, os, sys, tempfile

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

COUNT = 1000
MASK = (1 << 64) - 1

# ---- random texts: the same as tests/support/random_text.c ---------------------------------------------------------

WORDS = ["the", "quick", "Brown", "FOX", "don't", "I'VE", "we'll", "it's", "They'RE", "naïve", "café", "x1y2", "3.14",
         "hello_world", "foo(bar)", "{a: [1, 2]}", "https://example.org/a?b=c", "C++", "#include", "e.g.", "日本語",
         "Привет", "мир", "Ελλάδα", "שלום", "مرحبا", "नमस्ते", "한국어", "🦙", "👩‍💻", "ﬁne", "Ⅷ", "½", "İstanbul",
         "straße", "ﷺ", "e\u0301tude", "\u1112\u1161\u11ab", "-->", "...", "!?", "==", "\\n", "'s", "''", "\"q\"", "ſs"]
SPECIALS = ["<s>", "</s>", "<unk>", "<pad>", "<mask>", "[MASK]", "[CLS]", "[UNK]", "<|endoftext|>", "<|im_end|>",
            "<|end|>", "<extra>", "  ", "    ", "word", "\u2581\u2581"]
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\u00a0", "\u3000", "\u2003", "\u0085", "\u200b"]
BLOCKS = [(0x20, 0x7e), (0x20, 0x7e), (0xa1, 0xff), (0x100, 0x17f), (0x1e00, 0x1ef9), (0x391, 0x3a1), (0x3a3, 0x3c9),
          (0x400, 0x45f), (0x5d0, 0x5ea), (0x621, 0x63a), (0x64b, 0x652), (0x904, 0x939), (0x93e, 0x94d),
          (0xe01, 0xe3a), (0x300, 0x34e), (0x1100, 0x1112), (0x1161, 0x1175), (0x11a8, 0x11c2), (0x2010, 0x2027),
          (0x2074, 0x208e), (0x20a0, 0x20b9), (0x2100, 0x214f), (0x2150, 0x2188), (0x2190, 0x22ff), (0x2460, 0x24ff),
          (0x3001, 0x303d), (0x3041, 0x3096), (0x30a1, 0x30fa), (0x4e00, 0x9fa5), (0xac00, 0xd7a3), (0xfb00, 0xfb06),
          (0xff01, 0xffbe), (0x1d400, 0x1d454), (0x1f300, 0x1f320), (0x1f600, 0x1f640), (0x20000, 0x2a6d6), (0x1, 0x1f)]


class Random:
    def __init__(self, seed):
        self.state = seed

    def next(self):  # splitmix64
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        return self.next() % n


def random_text(index):
    r = Random(index * 1000003 + 17)
    out = []
    for _ in range(r.below(12)):
        kind = r.below(10)
        if kind < 4:
            if r.below(4):
                out.append(" ")
            out.append(WORDS[r.below(len(WORDS))])
        elif kind < 5:
            out.append(SPACES[r.below(len(SPACES))])
        elif kind < 6:
            for _ in range(1 + r.below(7)):
                out.append(chr(0x30 + r.below(10)))
        elif kind < 9:
            first, last = BLOCKS[r.below(len(BLOCKS))]
            for _ in range(1 + r.below(6)):
                out.append(chr(first + r.below(last - first + 1)))
        else:
            out.append(SPECIALS[r.below(len(SPECIALS))])
    return "".join(out)


def digest(ids):
    h = 0x811C9DC5  # FNV-1a over the ids' bytes, the lowest first
    for i in ids:
        for b in range(4):
            h = ((h ^ (i >> (8 * b) & 255)) * 0x01000193) & 0xFFFFFFFF
    return h


# ---- what the tokenizers are trained on ---------------------------------------------------------------------------

SAMPLE = """The quick brown fox jumps over the lazy dog. She didn't say it, but they'll know: we've seen 1234 of them!
In 2024, the price was $3.14 (or 2,718 euros)... "Why?" asked the king's daughter; nobody answered the question.
def tokenize(text):\n    for word in text.split():\n        if len(word) > 10:\n            return [word, None]\n
Les élèves français étudient à l'école près de la forêt. Über allen Gipfeln ist Ruh, in allen Wipfeln spürest du.
El niño comió una manzana mañana por la mañana. Το παιδί διαβάζει ένα βιβλίο. Привет, мир! Как дела сегодня?
日本語の文章を書きます。今日はとても良い天気ですね。 我们今天去图书馆看书。 안녕하세요, 오늘 날씨가 좋네요.
مرحبا بالعالم، كيف حالك اليوم؟ שלום עולם, מה שלומך היום? नमस्ते दुनिया, आप कैसे हैं? สวัสดีชาวโลก
Once upon a time there was a little girl. The girl loved to play outside with the other children of the village.
https://example.org/index.html?query=value&other=1#part {"key": [1, 2, 3], "other": null} <b>bold</b> x = y + z;
"""


def corpus():
    return [line for line in SAMPLE.split("\n") for _ in range(3)] + [random_text(5000 + i) for i in range(300)]


# ---- families ------------------------------------------------------------------------------------------------------

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"
DEEPSEEK = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def bytes_only(**options):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=options.get("use_regex", False))


def special(text, **options):
    return AddedToken(text, special=True, normalized=options.pop("normalized", False), **options)


def byte_level(steps, vocab=700, normalizer=None, template=None, added=(), **model):
    t = Tokenizer(models.BPE(**model))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.Sequence(steps) if isinstance(steps, list) else steps
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=[a for a in added if a.special], show_progress=False)
    t.train_from_iterator(corpus(), trainer)
    t.add_tokens([a for a in added if not a.special])
    if template:
        t.post_processor = template(t)
    return t


def around(before, after):
    """A template: texts of tokens before and after."""
    def make(t):
        single = " ".join([f"{x}" for x in before] + ["$A"] + [f"{x}" for x in after])
        return processors.TemplateProcessing(single=single, special_tokens=[(x, t.token_to_id(x)) for x in
                                                                            dict.fromkeys(before + after)])
    return make


def with_bytes(t):
    """The tokens <0x00> to <0xFF> behind the vocabulary, and bytes for what it lacks."""
    d = json.loads(t.to_str())
    vocab = d["model"]["vocab"]
    first = max(list(vocab.values()) + [a["id"] for a in d["added_tokens"]]) + 1
    for b in range(256):
        vocab[f"<0x{b:02X}>"] = first + b
    d["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(d))


def marked(normalizer, pre, decoder, added, template, vocab=900):
    """BPE over characters whose spaces are U+2581, as made of SentencePiece's models."""
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    if normalizer:
        t.normalizer = normalizer
    if pre:
        t.pre_tokenizer = pre
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=[a for a in added if a.special], limit_alphabet=300,
                                  show_progress=False)
    t.train_from_iterator(corpus(), trainer)
    t.decoder = decoder
    t = with_bytes(t)
    t.add_tokens([a for a in added if not a.special])
    t.post_processor = template(t)
    return t


def gemma():
    return marked(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"),
                  decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]),
                  [special("<pad>"), special("</s>"), special("<s>"), special("<unk>"),
                   AddedToken("▁▁", normalized=False), AddedToken("<extra>", normalized=False)], around(["<s>"], []))


def llama2(**flags):
    return marked(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None,
                  decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)]),
                  [special("<unk>"), special("<s>"), special("</s>"), special("<|end|>", **flags),
                   special("<|endoftext|>", **flags)], around(["<s>"], []))


def mistral():
    return marked(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
                  decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)]),
                  [special("<unk>"), special("<s>"), special("</s>")], around(["<s>"], []))


# A part of SentencePiece's own rules (nmt_nfkc has 250 KB): compatibility forms to their plain ones.
def rules():
    import unicodedata
    lines, ranges = [], [(0xa0, 0x17f), (0x1e00, 0x1e20), (0x2000, 0x2030), (0x2074, 0x208f), (0x2100, 0x2189),
                         (0x2460, 0x2500), (0x3000, 0x3001), (0xfb00, 0xfb07), (0xff01, 0xff5f), (0xff66, 0xffa0)]
    for first, last in ranges:
        for c in range(first, last):
            to = unicodedata.normalize("NFKC", chr(c))
            if to != chr(c):
                lines.append((f"{c:X}", " ".join(f"{ord(x):X}" for x in to)))
    for c in (0x9, 0xa, 0xd, 0x85, 0x200b):
        lines.append((f"{c:X}", "20"))
    for c in list(range(1, 9)) + [0xb, 0x7f]:
        lines.append((f"{c:X}", ""))
    for base, mark in ((0x65, 0x301), (0x61, 0x300), (0x75, 0x308), (0x6e, 0x303)):
        lines.append((f"{base:X} {mark:X}", f"{ord(unicodedata.normalize('NFC', chr(base) + chr(mark))):X}"))
    unique = dict(lines)
    return "".join(f"{k}\t{v}\n" for k, v in unique.items())


def sentencepiece_model(kind, **options):
    import sentencepiece
    with tempfile.TemporaryDirectory() as folder:
        out = io.BytesIO()
        if options.pop("rules", False):
            path = os.path.join(folder, "rules.tsv")
            with open(path, "w") as f:
                f.write(rules())
            options["normalization_rule_tsv"] = path
        lines = [line for line in corpus()[:-270] if line.strip()]  # few characters: all of them become pieces
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, model_type=kind,
                                                 vocab_size=options.pop("vocab", 900), minloglevel=2,
                                                 hard_vocab_limit=False, character_coverage=0.98, **options)
        return out.getvalue()


def pieces_of(model):
    import sentencepiece
    sp = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [(sp.id_to_piece(i), sp.get_score(i)) for i in range(sp.get_piece_size())], sp.unk_id()


def charsmap_of(model):
    """precompiled_charsmap out of a ModelProto: field 2 of field 3."""
    def fields(data):
        at = 0
        def varint():
            nonlocal at
            value = shift = 0
            while True:
                byte = data[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value
        while at < len(data):
            key = varint()
            if key & 7 == 0:
                yield key >> 3, varint()
            elif key & 7 == 5:
                yield key >> 3, data[at:at + 4]
                at += 4
            else:
                length = varint()
                yield key >> 3, data[at:at + length]
                at += length
    spec = dict(fields(dict(fields(model))[3]))
    return spec[2]


def t5():
    model = sentencepiece_model("unigram", rules=True, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, vocab=700)
    vocab, unk = pieces_of(model)
    t = Tokenizer(models.Unigram(vocab, unk, False))
    t.normalizer = normalizers.Precompiled(charsmap_of(model))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(),
                                               pre_tokenizers.Metaspace(prepend_scheme="always")])
    t.decoder = decoders.Metaspace(prepend_scheme="always")
    t.add_special_tokens([special("</s>"), special("<pad>"), special("<unk>"), special("<extra>", lstrip=True, rstrip=True)])
    t.post_processor = around([], ["</s>"])(t)
    return t


def xlm():
    """Unigram as XLM-RoBERTa's and ALBERT's converters write it, with bytes for what is unknown."""
    model = sentencepiece_model("unigram", rules=True, unk_id=3, bos_id=0, pad_id=1, eos_id=2, vocab=900, byte_fallback=True)
    vocab, unk = pieces_of(model)
    t = Tokenizer(models.Unigram(vocab, unk, True))
    t.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap_of(model)), normalizers.Strip(left=False),
                                         normalizers.Replace(Regex(" {2,}"), "▁")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    t.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    t.add_special_tokens([special("<s>"), special("</s>"), special("<pad>"), special("<unk>"),
                          special("<mask>", lstrip=True)])
    t.post_processor = around(["<s>"], ["</s>"])(t)
    return t


def bert(lowercase):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
                                        limit_alphabet=250, show_progress=False)
    t.train_from_iterator(corpus(), trainer)
    t.post_processor = processors.BertProcessing(("[SEP]", t.token_to_id("[SEP]")), ("[CLS]", t.token_to_id("[CLS]")))
    return t


def roberta(t):
    return processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>")))


def odd():
    """Parts that the others do not have."""
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=12))
    t.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(),
                                         normalizers.Strip(), normalizers.Replace(Regex("[0-9]+"), "7")])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("contiguous"),
                                               pre_tokenizers.CharDelimiterSplit("_")])
    t.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=700, special_tokens=["[UNK]"], limit_alphabet=200, show_progress=False)
    t.train_from_iterator(corpus(), trainer)
    t.add_tokens([AddedToken("word", single_word=True), AddedToken("<EXTRA>", normalized=True, lstrip=True)])
    return t


ENDOFTEXT = special("<|endoftext|>")
IM_END = special("<|im_end|>")

# name: (maker, does decoding give every text again)
FAMILIES = {
    "gpt2": (lambda: byte_level(bytes_only(use_regex=True), added=[ENDOFTEXT]), True),
    "roberta": (lambda: byte_level(bytes_only(use_regex=True), template=roberta,
                                   added=[special("<s>"), special("<pad>"), special("</s>"), special("<unk>"),
                                          special("<mask>", lstrip=True)]), True),
    "llama3": (lambda: byte_level([split(LLAMA3), bytes_only()], ignore_merges=True, added=[special("<s>"), special("<|end|>")],
                                  template=lambda t: processors.Sequence([processors.ByteLevel(trim_offsets=True),
                                                                          around(["<s>"], [])(t)])), True),
    "qwen2": (lambda: byte_level([split(QWEN2), bytes_only()], normalizer=normalizers.NFC(), added=[ENDOFTEXT, IM_END]), False),
    "gptneox": (lambda: byte_level(bytes_only(use_regex=True), normalizer=normalizers.NFC(),
                                   added=[ENDOFTEXT, AddedToken("  ", normalized=True), AddedToken("    ", normalized=True)]),
                False),
    "falcon": (lambda: byte_level([pre_tokenizers.Punctuation("contiguous"), bytes_only(use_regex=True),
                                   pre_tokenizers.Digits(individual_digits=False), split("[0-9][0-9][0-9]")],
                                  added=[ENDOFTEXT]), True),
    "starcoder2": (lambda: byte_level([pre_tokenizers.Digits(individual_digits=True), bytes_only(use_regex=True)],
                                      added=[ENDOFTEXT, IM_END]), True),
    "bloom": (lambda: byte_level([split(BLOOM), bytes_only()], added=[special("<unk>"), special("<s>"), special("</s>")],
                                 template=lambda t: processors.ByteLevel()), True),
    "gpt4o": (lambda: byte_level([split(O200K), bytes_only()], added=[ENDOFTEXT]), True),
    "deepseek": (lambda: byte_level([split(p) for p in DEEPSEEK] + [bytes_only()], added=[special("<s>")],
                                    template=around(["<s>"], [])), True),
    "gemma": (gemma, True),
    "llama2": (llama2, True),
    "phi3": (lambda: llama2(rstrip=True), True),
    "mistral": (mistral, False),  # a text's own first space is taken for the one that is added
    "t5": (t5, False),
    "xlm": (xlm, False),
    "bert-uncased": (lambda: bert(True), False),
    "bert-cased": (lambda: bert(False), False),
    "odd": (odd, False),
    "spm-bpe": (lambda: sentencepiece_model("bpe", normalization_rule_name="identity", remove_extra_whitespaces=False,
                                            byte_fallback=True, user_defined_symbols=["<extra>", "\u2581\u2581"]), False),
    "spm-unigram": (lambda: sentencepiece_model("unigram", rules=True, user_defined_symbols=["<extra>"]), False),
}


# ---- goldens -------------------------------------------------------------------------------------------------------

def ids_of(path):
    """A function from texts to ids, with the tokens that go around a text."""
    if path.endswith(".model"):
        import sentencepiece
        sp = sentencepiece.SentencePieceProcessor(model_file=path)
        bpe = open(path, "rb").read().find(b"\x18\x02") >= 0 and "bpe" in path
        return lambda text: ([sp.bos_id()] if bpe else []) + sp.encode(text) + ([] if bpe else [sp.eos_id()])
    t = Tokenizer.from_file(path)
    t.no_padding()
    t.no_truncation()
    return lambda text: t.encode(text).ids


def golden(encode, back):
    lines = [f"decodes {'yes' if back else 'no'}"]
    ids = [encode(random_text(i)) for i in range(COUNT)]
    for i in range(0, COUNT, 10):
        lines.append(" ".join(f"{digest(x):08x}" for x in ids[i:i + 10]))
    for i in range(1, 12):
        lines.append(f"text {i}: " + " ".join(map(str, ids[i])))
    return "\n".join(lines) + "\n"


def merges_of(scores):
    """Merge rules out of a SentencePiece vocabulary, as transformers' converters make them."""
    ids = {piece: i for i, piece in enumerate(scores)}
    merges = []
    for piece, score in scores.items():
        local = [(piece[:i], piece[i:], score) for i in range(1, len(piece)) if piece[:i] in ids and piece[i:] in ids]
        merges += sorted(local, key=lambda m: (ids[m[0]], ids[m[1]]))
    merges.sort(key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)
    return [(left, right) for left, right, _ in merges]


def gguf_tokenizer(path):
    """What a GGUF vocabulary (of models gpt2, llama and bert) is to the tokenizers library, without what goes around a
    text. Phi-3's special tokens take the white space behind them, which its file does not say."""
    import gguf
    reader = gguf.GGUFReader(path)
    def values(key):
        field = reader.fields.get(f"tokenizer.ggml.{key}")
        return [field.parts[i] for i in field.data] if field else []
    def strings(key):
        return [bytes(v).decode("utf-8", "replace") for v in values(key)]
    model, tokens = strings("model")[0], strings("tokens")
    types = [int(v[0]) for v in values("token_type")]
    if model == "gpt2":
        t = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(tokens)},
                                 merges=[tuple(m.split(" ", 1)) for m in strings("merges")]))
        t.pre_tokenizer = bytes_only(use_regex=True)
    elif model == "llama":
        scores = {x: float(v[0]) for x, v in zip(tokens, values("scores"))}
        t = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(tokens)}, merges=merges_of(scores), unk_token="<unk>",
                                 fuse_unk=True, byte_fallback=True))
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        spell = lambda x, kind: x if kind == 3 else x[1:] if x.startswith("▁") else "##" + x
        t = Tokenizer(models.WordPiece({spell(x, k): i for i, (x, k) in enumerate(zip(tokens, types))}, unk_token="[UNK]",
                                       max_input_chars_per_word=100))
        t.normalizer = normalizers.BertNormalizer(lowercase=True)
        t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    strips = {x for x in tokens if "phi-3" in path} - {"<unk>", "<s>", "<|endoftext|>"}
    t.add_special_tokens([special(x, rstrip=x in strips) for x, k in zip(tokens, types) if k in (2, 3)])
    t.add_tokens([AddedToken(x, normalized=False, rstrip=x in strips) for x, k in zip(tokens, types) if k == 4])
    return t


def main():
    if sys.argv[1] == "--ids":
        print(golden(ids_of(sys.argv[2]), False), end="")
        return
    if sys.argv[1] == "--gguf":
        tokenizer = gguf_tokenizer(sys.argv[2])
        print(golden(lambda text: tokenizer.encode(text, add_special_tokens=False).ids, False), end="")
        return
    folder, names = sys.argv[1], sys.argv[2:] or list(FAMILIES)
    for name in names:
        make, back = FAMILIES[name]
        made = make()
        path = os.path.join(folder, name + (".model" if isinstance(made, bytes) else ".json"))
        with open(path, "wb") as f:
            compact = made if isinstance(made, bytes) else json.dumps(json.loads(made.to_str()), ensure_ascii=False,
                                                                      separators=(",", ":")).encode()
            f.write(compact)
        with open(os.path.join(folder, name + ".ids"), "w") as f:
            f.write(golden(ids_of(path), back))
        print(f"{name}: {os.path.getsize(path)} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
