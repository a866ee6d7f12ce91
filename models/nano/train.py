#!/usr/bin/env python3
# Makes quern nano, the small Llama model that ships with quern: generates its text from a seed, trains its
# tokenizer and its weights, measures it, and writes GGUF; then what guesses its tokens, a draft model and Medusa heads.
# Building, running and testing quern needs none of this.
#
#   python3 models/nano/train.py                     train, then write nano.gguf, tasks.tsv and golden.txt
#   python3 models/nano/train.py --draft             train and write draft.gguf, which guesses what nano.gguf says
#   python3 models/nano/train.py --medusa            train and write medusa/: heads on nano.gguf that do
#   python3 models/nano/train.py --cases             write tasks.tsv only (needs no PyTorch)
#   python3 models/nano/train.py --stories           write stories.txt only (needs no PyTorch)
#   python3 models/nano/train.py --data 20           print the first 20 training documents (needs no PyTorch)
#   python3 models/nano/train.py --eval nano.gguf    accuracy of a GGUF file on every held-out case
#   python3 models/nano/train.py --golden nano.gguf  write golden.txt from a GGUF file
import argparse
import collections
import hashlib
import itertools
import json
import math
import os
import re
import struct
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))

# ---- the model --------------------------------------------------------------------------------------------------

Shape = collections.namedtuple("Shape", "hidden layers heads kv_heads head_dim ffn")
NANO = Shape(hidden=256, layers=3, heads=4, kv_heads=2, head_dim=64, ffn=512)
DRAFT = Shape(hidden=96, layers=2, heads=3, kv_heads=1, head_dim=32, ffn=160)  # a tenth of its parameters
MEDUSA_HEADS = 3
VOCAB, CONTEXT, EPS, ROPE_THETA = 512, 256, 1e-5, 10000.0
BOS, EOS = VOCAB - 2, VOCAB - 1
MAX_BYTES = 4_000_000

# ---- random numbers ---------------------------------------------------------------------------------------------


class Rng:
    """splitmix64. Python's own generator may change how it picks between versions; this one cannot."""

    def __init__(self, *keys):
        self.state = 0
        for key in keys:
            self.state = (self.state ^ key) & (2**64 - 1)
            self.state = self.next()

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & (2**64 - 1)
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        return z ^ (z >> 31)

    def below(self, n):
        return self.next() % n  # n is tiny beside 2^64, so the bias is too

    def pick(self, items):
        return items[self.below(len(items))]


# ---- stories: a grammar -------------------------------------------------------------------------------------------
# A story is: who and where; a want; a trouble; a helper whose skill fits the trouble; the help; an ending.
# In the templates {n} is the hero, {h} the helper, {k} and {hk} what they are; she/her/hers stand for the hero's
# pronouns (subject, object, possessive) and hshe/hher/hhers for the helper's, a capital first letter for a capital.

GIRLS = ["Mia", "Lily", "Nora", "Rosie", "Daisy", "Ella", "Anna", "Ruby"]
BOYS = ["Tom", "Ben", "Pip", "Max", "Leo", "Finn", "Sam", "Toby"]
HELPER_GIRLS = ["Olive", "Hazel", "Luna", "Willow"]
HELPER_BOYS = ["Oscar", "Hugo", "Bruno", "Jasper"]
HEROES = ["girl", "boy", "mouse", "rabbit", "fox", "puppy", "hedgehog", "lamb", "pony"]
HERO_ADJ = ["little", "young", "small", "brave", "shy", "curious", "gentle", "cheerful"]
HELPER_ADJ = ["kind", "friendly", "wise old", "clever", "patient", "gentle"]
PLACES = ["in a small house by the sea", "at the edge of a green forest", "on a quiet farm", "in a little village",
          "near a wide river", "at the foot of a tall hill", "in a sunny valley", "beside a blue lake"]
HELPERS = {
    "fly": ["owl", "crow", "dove", "robin"],
    "climb": ["squirrel", "cat", "monkey"],
    "swim": ["duck", "otter", "frog", "swan"],
    "dig": ["mole", "badger"],
    "strong": ["bear", "horse", "ox"],
    "guide": ["owl", "deer", "dog", "robin"],
    "mend": ["beaver", "goat", "otter"],
    "home": ["badger", "bear", "squirrel", "goat"],
    "sing": ["robin", "frog", "duck", "dove"],
    "water": ["horse", "duck", "deer", "ox"],
}
SLOTS = {
    "color": ["red", "blue", "green", "yellow", "golden", "white"],
    "time": ["morning", "afternoon", "day", "evening"],
    "relative": ["mother", "father", "grandmother", "grandfather", "sister", "brother"],
    "fruit": ["apples", "pears", "cherries", "plums"],
    "water": ["river", "lake", "pond"],
    "flower": ["rose", "sunflower", "tulip", "daisy"],
    "friend": ["the farmer", "the baker", "the miller", "the teacher"],
    "toy_air": ["kite", "hat", "scarf", "balloon"],
    "toy_wet": ["ball", "boat", "hat", "drum"],
    "toy_small": ["ring", "bell", "key", "ball"],
}

OPENINGS = [
    "Once upon a time, there was {a_hero} named {n} who lived {place}.",
    "Once upon a time, {a_hero} named {n} lived {place}.",
    "Once upon a time, {place}, there lived {a_hero} named {n}.",
    "Once there was {a_hero} named {n} who lived {place}.",
    "Long ago, {a_hero} named {n} lived {place}.",
    "{Place}, there lived {a_hero} named {n}.",
    "{n} was {a_hero} who lived {place}.",
]
ARRIVALS = [
    "Just then, {a_helper} named {h} came by and asked what was wrong.",
    "Then {a_helper} named {h} came along and offered to help.",
    "Luckily, {a_helper} named {h} was nearby.",
    "{A_helper} named {h} heard {her} and came to help.",
    "\"Do not worry,\" said {a_helper} named {h}, \"I can help you.\"",
    "\"Why are you so sad?\" asked {a_helper} named {h}.",
]
ENDINGS = [
    "{n} thanked {h}, and they were friends from that day on.",
    "From that day on, {n} and {h} were the best of friends.",
    "{n} gave {h} a big hug, and they laughed together until the sun went down.",
    "\"Thank you, my friend,\" said {n}, and {h} smiled.",
    "{n} was so happy that {she} danced all the way home.",
    "And so {n} learned that it is good to ask for help.",
]
LOVED = [
    "{She} had a {color} {toy} that {she} loved very much.",
    "{Her} favorite thing in the world was a {color} {toy}.",
    "{She} played with {hers} {color} {toy} every day.",
    "For {hers} birthday, {she} got a {color} {toy} from {hers} {relative}.",
]
# Each plot: (which slot {toy} draws from, or None; wants; troubles; help by skill; endings of its own).
PLOTS = [
    ("toy_air", LOVED, [
        "One windy {time}, the {toy} flew up into a tall tree, and {n} could not reach it.",
        "But one {time}, the wind carried the {toy} to the top of a tall tree, far too high for {n}.",
    ], {
        "fly": ["{h} flew up to the branch and brought the {toy} back to {n}.",
                "{h} spread {hhers} wings, flew to the top, and dropped the {toy} into the arms of {n}."],
        "climb": ["{h} climbed up the tree and brought the {toy} back to {n}.",
                  "{h} jumped from branch to branch until {hshe} had the {toy}, and carried it down to {n}."],
    }, ["{n} held the {toy} tight and promised to share it with {h}."]),
    ("toy_wet", LOVED, [
        "One {time}, the {toy} fell into the {water} and floated away, and {n} could not swim.",
        "But one {time}, the {toy} rolled into the {water}, where it was too deep for {n}.",
    ], {
        "swim": ["{h} swam out and pushed the {toy} back to the shore.",
                 "{h} jumped into the water and soon came back with the {toy}."],
    }, ["{n} dried the {toy} in the sun and played with {h} until dark."]),
    ("toy_small", LOVED, [
        "One {time}, the {toy} fell down a deep, dark hole, and {n} could not get it out.",
        "But one {time}, the {toy} slipped into a crack in the ground, and {n} began to cry.",
    ], {
        "dig": ["{h} dug and dug until {hshe} found the {toy}.",
                "{h} dug a tunnel under the ground and came back with the {toy}."],
    }, ["{n} cleaned the {toy} and never dropped it again."]),
    ("toy_small", LOVED, [
        "One {time}, a heavy stone rolled down the hill and trapped the {toy}, and {n} could not move it.",
    ], {
        "strong": ["{h} pushed the heavy stone away, and there was the {toy}, as good as new.",
                   "{h} lifted the stone with ease and gave the {toy} back to {n}."],
    }, ["{n} and {h} sat on the stone and watched the stars come out."]),
    (None, [
        "{She} wanted to bake a pie for {hers} {relative}.",
        "It was the birthday of {hers} {relative}, and {n} wanted to bake a pie for the party.",
    ], [
        "But the {fruit} grew at the top of a tall tree, and {she} could not reach them.",
        "{She} found a tree full of sweet {fruit}, but the branches were much too high.",
    ], {
        "fly": ["{h} flew to the top and dropped the {fruit} into a basket, one by one."],
        "climb": ["{h} climbed the tree and shook the branches until the {fruit} fell down."],
    }, ["Soon the pie was ready, and {n} gave {h} the biggest piece.",
        "They baked the pie together, and everyone said it was the best pie in the land."]),
    (None, [
        "{She} loved to chase butterflies through the fields.",
        "{She} loved to walk in the woods and look at the flowers.",
    ], [
        "One {time}, {she} went too far and could not find the way home.",
        "But one {time}, thick fog came down, and {n} was lost.",
    ], {
        "guide": ["{h} knew every path and led {n} safely home.",
                  "{h} walked beside {n} and showed {her} the way home."],
    }, ["{n}'s {relative} was waiting at the door and thanked {h} with warm bread.",
        "After that day, {n} never went so far without a friend."]),
    (None, [
        "One {time}, {she} went out to pick flowers for {hers} {relative}.",
        "One {time}, {she} was walking home with a basket of {fruit}.",
    ], [
        "Suddenly, dark clouds filled the sky and a cold rain began to fall.",
        "Then a storm came, and {n} was cold and wet.",
    ], {
        "home": ["{h} took {n} to {hhers} warm house and made a pot of hot soup.",
                 "{h} shared {hhers} dry little home with {n} until the rain stopped."],
    }, ["When the storm was over, they saw a bright rainbow in the sky."]),
    (None, [
        "{She} was afraid of the dark and could not sleep at night.",
        "Every night, {she} hid under the bed because {she} was afraid of the dark.",
    ], [
        "One night, the candle went out, and {n} began to cry.",
        "One night, there was no moon at all, and {n} was all alone.",
    ], {
        "guide": ["{h} showed {n} the bright stars and told {her} all their names.",
                  "{h} gave {n} a small lantern and sat with {her} until {she} fell asleep."],
    }, ["After that night, {n} was never afraid of the dark again."]),
    (None, [
        "{She} wanted to sail across the {water} in {hers} {color} boat.",
        "{She} dreamed of sailing to the island in the middle of the {water}.",
    ], [
        "But the boat had a hole in it, and the water came in.",
        "But the old boat was broken, and {n} did not know how to mend it.",
    ], {
        "mend": ["{h} mended the boat with a piece of wood, and soon it was as good as new.",
                 "{h} showed {n} how to mend the boat with wax and rope."],
    }, ["The next day, {n} and {h} sailed across the {water} together."]),
    (None, [
        "{She} planted a {flower} seed and waited for it to grow.",
        "{She} wanted to grow a {flower} for {friend}.",
    ], [
        "But no rain came, and the ground was hard and dry.",
        "The summer was so hot that the little plant began to fade.",
    ], {
        "water": ["Every day, {h} carried water from the {water} and poured it on the ground.",
                  "{h} helped {n} bring cool water from the {water}."],
    }, ["Soon a beautiful {flower} opened in the sun, and {n} jumped for joy."]),
    (None, [
        "{She} wanted to sing for {friend}, but {she} was too shy.",
        "{She} had a lovely voice, but {she} was afraid to sing.",
    ], [
        "On the day of the big party, {n} could not make a sound.",
        "When the music began at the party, {n} hid behind a chair.",
    ], {
        "sing": ["{h} began to sing a merry song, and soon {n} sang too.",
                 "{h} stood beside {n}, and they sang together."],
    }, ["Everyone clapped, and {n} was not shy anymore."]),
    (None, [
        "{She} wanted to visit {hers} {relative} on the other side of the river.",
        "{Her} {relative} lived across the river, and {n} wanted to bring some bread.",
    ], [
        "But the bridge was broken, and the water was fast and cold.",
        "But the rain had washed the old bridge away.",
    ], {
        "strong": ["{h} carried {n} across the river on {hhers} strong back.",
                   "{h} laid a long log over the river, and {n} walked across."],
    }, ["{n}'s {relative} was very glad, and they all had supper together."]),
]


def article(phrase):
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def capital(text):
    return text[0].upper() + text[1:]


def story(rng):
    kind = rng.pick(HEROES)
    she = kind == "girl" or (kind != "boy" and rng.below(2) == 0)
    toy, wants, troubles, help_by_skill, own_endings = rng.pick(PLOTS)
    skill = rng.pick(sorted(help_by_skill))
    helper = rng.pick(HELPERS[skill])
    helper_she = rng.below(2) == 0
    place = rng.pick(PLACES)
    words = {name: rng.pick(items) for name, items in SLOTS.items()}
    words.update(
        n=rng.pick(GIRLS if she else BOYS), k=kind, place=place, Place=capital(place),
        a_hero=article(rng.pick(HERO_ADJ) + " " + kind), a_helper=article(rng.pick(HELPER_ADJ) + " " + helper),
        h=rng.pick(HELPER_GIRLS if helper_she else HELPER_BOYS), hk=helper, toy=words[toy] if toy else "",
        she="she" if she else "he", her="her" if she else "him", hers="her" if she else "his",
        hshe="she" if helper_she else "he", hher="her" if helper_she else "him", hhers="her" if helper_she else "his")
    words.update(She=capital(words["she"]), Her=capital(words["hers"]), A_helper=capital(words["a_helper"]))
    endings = own_endings if rng.below(2) else ENDINGS
    beats = [OPENINGS, wants, troubles, ARRIVALS, help_by_skill[skill], endings]
    return " ".join(rng.pick(beat).format(**words) for beat in beats)


# ---- tasks: one right answer each ---------------------------------------------------------------------------------

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def letters_of(rng):
    return [rng.pick(LETTERS) for _ in range(3 + rng.below(6))]  # three to eight


def two_digits(rng):
    return 10 + rng.below(90)


def task_copy(rng):
    xs = letters_of(rng)
    return "copy: " + " ".join(xs) + " =", " ".join(xs)


def task_reverse(rng):
    xs = letters_of(rng)
    return "reverse: " + " ".join(xs) + " =", " ".join(reversed(xs))


def task_sort(rng):
    xs = letters_of(rng)
    return "sort: " + " ".join(xs) + " =", " ".join(sorted(xs))


def task_next(rng):  # each letter's successor, z wraps to a
    xs = letters_of(rng)
    return "next: " + " ".join(xs) + " =", " ".join(LETTERS[(LETTERS.index(x) + 1) % 26] for x in xs)


def task_add(rng):
    a, b = two_digits(rng), two_digits(rng)
    return f"add: {a} + {b} =", str(a + b)


def task_max(rng):
    xs = [two_digits(rng) for _ in range(3)]
    return "max: " + " ".join(map(str, xs)) + " =", str(max(xs))


TASKS = {"copy": task_copy, "reverse": task_reverse, "sort": task_sort, "next": task_next, "add": task_add,
         "max": task_max}
CASES_PER_TASK = 600
CASES_SEED = 20240  # the held-out cases do not depend on --seed


def held_out(prompt):
    """One prompt in ten, by hash, is never trained on. a + b and b + a are held out together."""
    key = prompt
    if prompt.startswith("add:"):
        a, b = sorted(re.findall(r"\d+", prompt))
        key = f"add: {a} + {b} ="
    return int.from_bytes(hashlib.sha256(b"quern nano " + key.encode()).digest()[:8], "little") % 10 == 0


def held_out_cases():
    """{task: [(prompt, answer)]}, CASES_PER_TASK different held-out cases each (add has 753 in all)."""
    cases = {}
    for index, (name, make) in enumerate(TASKS.items()):
        rng, found = Rng(CASES_SEED, index), {}
        while len(found) < CASES_PER_TASK:
            prompt, answer = make(rng)
            if held_out(prompt):
                found[prompt] = answer
        cases[name] = list(found.items())
    return cases


def write_cases(path):
    with open(path, "w", newline="\n") as f:
        f.write("# Held-out cases of quern nano: task, prompt, answer, separated by tabs. Written by train.py --cases.\n"
                "# After <|bos|> and the prompt the model writes one space, the answer, then <|eos|>.\n")
        for name, rows in held_out_cases().items():
            for prompt, answer in rows:
                f.write(f"{name}\t{prompt}\t{answer}\n")
    print(f"wrote {path}: {len(TASKS)} tasks of {CASES_PER_TASK} cases")


def write_stories(path):
    """One story a line, drawn with a seed that no training document has: a text to measure perplexity on."""
    with open(path, "w", newline="\n") as f:
        for index in range(60):
            f.write(story(Rng(CASES_SEED + 1, index)) + "\n")
    print(f"wrote {path}: 60 stories")


# ---- training documents ---------------------------------------------------------------------------------------------
# Document i of a seed is a function of (seed, i) alone.

MIX = {"story": 10, "copy": 9, "reverse": 16, "sort": 22, "next": 11, "add": 22, "max": 10}  # per cent of documents
MIX_TABLE = [name for name, share in MIX.items() for _ in range(share)]


def document(seed, index):
    """(prompt, rest): the loss is taken on the rest. A story is all rest, a task's rest is its answer."""
    rng = Rng(seed, index)
    kind = rng.pick(MIX_TABLE)
    if kind == "story":
        return "", story(rng)
    while True:
        prompt, answer = TASKS[kind](rng)
        if not held_out(prompt):
            return prompt, " " + answer


# ---- tokenizer: byte-level BPE -----------------------------------------------------------------------------------

# GPT-2's split. [^\W\d_] and \d stand for \p{L} and \p{N}, which is the same thing for the ASCII text made here.
SPLIT = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


def byte_alphabet():
    """GPT-2's printable stand-in for each byte value."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(b) if b in shown else chr(next(extra)) for b in range(256)]


ALPHABET = byte_alphabet()


class Tokenizer:
    def __init__(self, merges):
        self.merges = merges
        self.tokens = ALPHABET + [a + b for a, b in merges] + ["<|bos|>", "<|eos|>"]
        assert len(self.tokens) == VOCAB and len(set(self.tokens)) == VOCAB
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.ranks = {pair: i for i, pair in enumerate(merges)}
        self.cache = {}

    def encode_word(self, word):
        parts = [ALPHABET[b] for b in word.encode()]
        while len(parts) > 1:
            rank, at = min((self.ranks.get(pair, VOCAB), i) for i, pair in enumerate(zip(parts, parts[1:])))
            if rank == VOCAB:
                break
            parts[at:at + 2] = [parts[at] + parts[at + 1]]
        return [self.ids[part] for part in parts]

    def encode(self, text):
        out = []
        for word in SPLIT.findall(text):
            if word not in self.cache:
                self.cache[word] = self.encode_word(word)
            out += self.cache[word]
        return out

    def decode(self, ids):
        back = {c: b for b, c in enumerate(ALPHABET)}
        return bytes(back[c] for i in ids if i < BOS for c in self.tokens[i]).decode(errors="replace")


def train_tokenizer(seed, documents=60000):
    """Merges by pair count. The first 26 join a space and a letter, so a letter of a task is always one token;
    no merge touches a digit, so a digit is always one token."""
    counts = {}
    for index in range(documents):
        for word in SPLIT.findall("".join(document(seed, index))):
            counts[word] = counts.get(word, 0) + 1
    space = ALPHABET[32]
    merges = [(space, letter) for letter in LETTERS]
    words = []
    for word, count in sorted(counts.items()):
        if len(word) > 1 and not any(c.isdigit() for c in word):
            parts = [ALPHABET[b] for b in word.encode()]
            if parts[0] == space and parts[1] in LETTERS:
                parts[0:2] = [parts[0] + parts[1]]
            words.append((parts, count))
    while len(merges) < VOCAB - 2 - 256:
        pairs = {}
        for parts, count in words:
            for pair in zip(parts, parts[1:]):
                pairs[pair] = pairs.get(pair, 0) + count
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for parts, _ in words:
            i = 0
            while i + 1 < len(parts):
                if (parts[i], parts[i + 1]) == best:
                    parts[i:i + 2] = [best[0] + best[1]]
                i += 1
    return Tokenizer(merges)


# ---- GGUF ---------------------------------------------------------------------------------------------------------

U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5
TENSOR_F32, TENSOR_F16 = 0, 1
ALIGNMENT = 32


def gguf_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_key(name, kind, value):
    head = gguf_string(name) + struct.pack("<I", kind)
    if kind == STRING:
        return head + gguf_string(value)
    if kind == ARRAY:
        item, values = value
        pack = gguf_string if item == STRING else lambda v: struct.pack("<i", v)
        return head + struct.pack("<IQ", item, len(values)) + b"".join(map(pack, values))
    return head + struct.pack({U32: "<I", F32: "<f", BOOL: "<?"}[kind], value)


def write_gguf(path, tokenizer, tensors, shape=NANO, name="quern nano"):
    """tensors: {name: float32 torch tensor}. Matrices are stored as F16, norms as F32."""
    import torch
    keys = [
        ("general.architecture", STRING, "llama"), ("general.name", STRING, name),
        ("general.license", STRING, "Apache-2.0"), ("general.file_type", U32, 1),
        ("general.alignment", U32, ALIGNMENT), ("llama.vocab_size", U32, VOCAB),
        ("llama.context_length", U32, CONTEXT), ("llama.embedding_length", U32, shape.hidden),
        ("llama.block_count", U32, shape.layers), ("llama.feed_forward_length", U32, shape.ffn),
        ("llama.attention.head_count", U32, shape.heads), ("llama.attention.head_count_kv", U32, shape.kv_heads),
        ("llama.attention.layer_norm_rms_epsilon", F32, EPS), ("llama.rope.freq_base", F32, ROPE_THETA),
        ("llama.rope.dimension_count", U32, shape.head_dim),
        ("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.pre", STRING, "gpt-2"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokenizer.tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (I32, [1] * BOS + [3, 3])),  # 1 normal, 3 control
        ("tokenizer.ggml.merges", ARRAY, (STRING, [f"{a} {b}" for a, b in tokenizer.merges])),
        ("tokenizer.ggml.bos_token_id", U32, BOS), ("tokenizer.ggml.eos_token_id", U32, EOS),
        ("tokenizer.ggml.add_bos_token", BOOL, True), ("tokenizer.ggml.add_eos_token", BOOL, False),
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(gguf_key(*key) for key in keys)
    body = b""
    for name, tensor in tensors.items():
        kind, dtype = (TENSOR_F32, torch.float32) if tensor.dim() == 1 else (TENSOR_F16, torch.float16)
        shape = list(reversed(tensor.shape))  # GGUF lists the fastest dimension first
        head += gguf_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(body))
        data = tensor.to(dtype).contiguous().numpy().tobytes()
        body += data + bytes(-len(data) % ALIGNMENT)
    head += bytes(-len(head) % ALIGNMENT)
    assert len(head) + len(body) <= MAX_BYTES
    with open(path + ".part", "wb") as f:
        f.write(head + body)
    os.replace(path + ".part", path)
    return len(head) + len(body)


def read_gguf(path):
    """(keys, {name: float32 torch tensor}) of a file that write_gguf wrote. It trusts the file."""
    import torch
    data = open(path, "rb").read()
    at = 0

    def take(form):
        nonlocal at
        values = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return values if len(values) > 1 else values[0]

    def text():
        nonlocal at
        size = take("Q")
        at += size
        return data[at - size:at].decode()

    def value(kind):
        if kind == STRING:
            return text()
        if kind == ARRAY:
            item, count = take("IQ")
            return [value(item) for _ in range(count)]
        return take({U32: "I", I32: "i", F32: "f", BOOL: "?"}[kind])

    at += 4
    version, n_tensors, n_keys = take("IQQ")
    assert data[:4] == b"GGUF" and version == 3
    keys = {}
    for _ in range(n_keys):
        name = text()
        keys[name] = value(take("I"))
    infos = []
    for _ in range(n_tensors):
        name, n_dims = text(), take("I")
        shape = [take("Q") for _ in range(n_dims)]
        kind, offset = take("IQ")
        infos.append((name, shape[::-1], kind, offset))
    start = (at + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    tensors = {}
    for name, shape, kind, offset in infos:
        dtype = {TENSOR_F32: torch.float32, TENSOR_F16: torch.float16}[kind]
        flat = torch.frombuffer(bytearray(data), dtype=dtype, count=math.prod(shape), offset=start + offset)
        tensors[name] = flat.reshape(shape).float()
    return keys, tensors


def load_tokenizer(keys):
    return Tokenizer([tuple(merge.split(" ")) for merge in keys["tokenizer.ggml.merges"]])


# ---- the network --------------------------------------------------------------------------------------------------
# The weights are a plain dictionary under their GGUF names, and the network a function of it.


def new_weights(seed, shape=NANO):
    import torch
    torch.manual_seed(seed)
    hidden, q, kv, ffn = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.ffn
    shapes = {"token_embd.weight": (VOCAB, hidden), "output_norm.weight": (hidden,)}
    for i in range(shape.layers):
        shapes.update({
            f"blk.{i}.attn_norm.weight": (hidden,),
            f"blk.{i}.attn_q.weight": (q, hidden),
            f"blk.{i}.attn_k.weight": (kv, hidden),
            f"blk.{i}.attn_v.weight": (kv, hidden),
            f"blk.{i}.attn_output.weight": (hidden, q),
            f"blk.{i}.ffn_norm.weight": (hidden,),
            f"blk.{i}.ffn_gate.weight": (ffn, hidden),
            f"blk.{i}.ffn_up.weight": (ffn, hidden),
            f"blk.{i}.ffn_down.weight": (hidden, ffn),
        })
    weights = {}
    for name, size in shapes.items():
        if len(size) == 1:
            weights[name] = torch.ones(size)
        else:
            std = 0.02 if name == "token_embd.weight" else size[1] ** -0.5
            if name.endswith(("attn_output.weight", "ffn_down.weight")):
                std *= (2 * shape.layers) ** -0.5
            weights[name] = torch.randn(size) * std
    return weights


def rms_norm(x, weight):
    return x * (x.pow(2).mean(-1, keepdim=True) + EPS).rsqrt() * weight


def rope(x, first=0):
    """(B, heads, T, head_dim): rotates each adjacent pair (2i, 2i+1) by position * theta^(-2i / head_dim), the first
    of the T at position `first`."""
    import torch
    step = ROPE_THETA ** (-torch.arange(0, x.shape[3], 2, dtype=torch.float64) / x.shape[3])
    angle = torch.arange(first, first + x.shape[2], dtype=torch.float64)[:, None] * step
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def hidden_states(w, ids, mask=None, shape=NANO, cache=None):
    """ids (B, T) -> what the logits are made of, (B, T, hidden), normed. mask (B, 1, T, T): true where attention is
    allowed; None is causal. cache: a list with the keys and values of earlier tokens by layer, lengthened; then T is 1."""
    import torch
    import torch.nn.functional as F
    batch, length = ids.shape
    x = F.embedding(ids, w["token_embd.weight"])
    for i in range(shape.layers):
        blk = f"blk.{i}."
        y = rms_norm(x, w[blk + "attn_norm.weight"])
        q, k, v = (F.linear(y, w[f"{blk}attn_{name}.weight"]).view(batch, length, -1, shape.head_dim).transpose(1, 2)
                   for name in "qkv")
        with torch.autocast("cpu", enabled=False):  # neighbouring positions blur in bfloat16
            q, k, v = (t.float() if t.dtype == torch.bfloat16 else t for t in (q, k, v))
            first = cache[i][0].shape[2] if cache and i < len(cache) else 0
            q, k = rope(q, first), rope(k, first)
            if cache is not None:
                if first:
                    k, v = (torch.cat(pair, 2) for pair in zip(cache[i], (k, v)))
                cache[i:i + 1] = [(k, v)]
            k, v = (t.repeat_interleave(shape.heads // shape.kv_heads, dim=1) for t in (k, v))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and first == 0)
        x = x + F.linear(y.transpose(1, 2).reshape(batch, length, -1), w[blk + "attn_output.weight"])
        y = rms_norm(x, w[blk + "ffn_norm.weight"])
        y = F.silu(F.linear(y, w[blk + "ffn_gate.weight"])) * F.linear(y, w[blk + "ffn_up.weight"])
        x = x + F.linear(y, w[blk + "ffn_down.weight"])
    return rms_norm(x, w["output_norm.weight"])


def forward(w, ids, mask=None, shape=NANO, cache=None):
    """ids (B, T) -> logits (B, T, VOCAB); see hidden_states."""
    import torch.nn.functional as F
    return F.linear(hidden_states(w, ids, mask, shape, cache), w["token_embd.weight"])


# ---- training -----------------------------------------------------------------------------------------------------


def documents(seed, tokenizer):
    """Endless (prompt's ids, the rest's), the document's ends included."""
    index = 0
    while True:
        prompt, rest = document(seed, index)
        index += 1
        yield [BOS, *tokenizer.encode(prompt)], [*tokenizer.encode(rest), EOS]


def batches(source, rows):
    """Endless (ids, targets, weight, mask): documents packed into rows of CONTEXT tokens, each seeing only itself.
    RoPE is relative, so a document in mid-row computes what it would at the start of a context."""
    import torch
    waiting = []
    while True:
        row_ids = [[] for _ in range(rows)]
        row_docs = [[] for _ in range(rows)]
        row_weights = [[] for _ in range(rows)]
        queue, waiting = waiting, []
        while len(waiting) < rows:
            if queue:
                ids, weights = queue.pop()
            else:
                head, tail = next(source)
                ids = head + tail
                weights = [0.0] * (len(head) - 1) + [2.0 if len(head) > 1 else 1.0] * len(tail) + [0.0]
                if len(ids) > CONTEXT:
                    continue
            row = next((r for r in range(rows) if len(row_ids[r]) + len(ids) <= CONTEXT), None)
            if row is None:
                waiting.append((ids, weights))
                continue
            row_docs[row] += [len(row_docs[row])] * len(ids)
            row_ids[row] += ids
            row_weights[row] += weights  # the weight of predicting the next token
        for r in range(rows):
            gap = CONTEXT - len(row_ids[r])
            row_docs[r] += [-1] * gap
            row_ids[r] += [EOS] * gap
            row_weights[r] += [0.0] * gap
        ids, docs, weights = torch.tensor(row_ids), torch.tensor(row_docs), torch.tensor(row_weights)
        mask = (docs[:, :, None] == docs[:, None, :]) & torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).tril()
        yield ids, ids.roll(-1, 1), weights, mask[:, None]


def learning_rate(step, steps, peak):
    warmup = min(200, steps // 10 + 1)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


def train(args):
    import torch
    import torch.nn.functional as F
    torch.set_num_threads(args.threads)
    tokenizer = train_tokenizer(args.seed)
    weights = {name: w.requires_grad_() for name, w in new_weights(args.seed).items()}
    print(f"{sum(w.numel() for w in weights.values())} parameters, {args.steps} steps of {args.rows} x {CONTEXT} tokens")
    optimizer = torch.optim.AdamW([
        {"params": [w for w in weights.values() if w.dim() > 1], "weight_decay": 0.05},
        {"params": [w for w in weights.values() if w.dim() == 1], "weight_decay": 0.0},
    ], betas=(0.9, 0.98), eps=1e-9, fused=True)
    cases = held_out_cases()
    quick = {name: rows[:100] for name, rows in cases.items()}
    first = 0
    stream = batches(documents(args.seed, tokenizer), args.rows)
    if args.checkpoint and os.path.exists(args.checkpoint):
        saved = torch.load(args.checkpoint, weights_only=True)
        first = saved["step"]
        optimizer.load_state_dict(saved["optimizer"])
        with torch.no_grad():
            for name, w in weights.items():
                w.copy_(saved["weights"][name])
        for _ in range(first):
            next(stream)
        print(f"resumed at step {first}")
    began = time.time()
    for step in range(first, args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        ids, targets, token_weights, mask = next(stream)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            logits = forward(weights, ids, mask)
        losses = F.cross_entropy(logits.float().view(-1, VOCAB), targets.view(-1), reduction="none")
        loss = (losses * token_weights.view(-1)).sum() / token_weights.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        optimizer.step()
        done = step + 1
        if done % 50 == 0:
            left = (time.time() - began) / (done - first) * (args.steps - done)
            print(f"step {done:6d}  loss {loss.item():.4f}  lr {learning_rate(step, args.steps, args.lr):.2e}"
                  f"  left {left / 60:.1f} min", flush=True)
        if done % 500 == 0 or done == args.steps:
            plain = {name: w.detach() for name, w in weights.items()}
            show_accuracy(accuracy(plain, tokenizer, quick), f"step {done}")
            if args.checkpoint:
                torch.save({"step": done, "weights": plain, "optimizer": optimizer.state_dict()}, args.checkpoint)
    print(f"trained in {(time.time() - began) / 60:.1f} min")
    size = write_gguf(args.out, tokenizer, {name: w.detach() for name, w in weights.items()})
    print(f"wrote {args.out}: {size} bytes")


# ---- what guesses nano's tokens -------------------------------------------------------------------------------------
# Both are trained on documents as they are and on stories as nano itself goes on with them: of words that are as likely
# as each other, what they are to guess is the one that nano takes.


def continued(weights, tokenizer, seed, count, rows=64, piece=8):
    """`count` stories of which nano has written the rest, greedily: [(prompt's ids, the rest's)]. They are cut to a
    multiple of `piece` tokens, so that those of one length can be continued together."""
    import torch
    rng, queue, found = Rng(seed, 7), {}, []
    while len(found) < count:
        ids = [BOS, *tokenizer.encode(story(rng))]
        begun = ids[:1 + piece * rng.below(len(ids) // piece)]
        group = queue.setdefault(len(begun), [])
        group.append(begun)
        if len(group) < rows:
            continue
        ids, cache = torch.tensor(queue.pop(len(begun))), []
        with torch.no_grad():
            logits = forward(weights, ids, cache=cache)
            while ids.shape[1] < CONTEXT and not (ids == EOS).any(1).all():
                best = logits[:, -1:].argmax(-1)
                ids = torch.cat((ids, best), 1)
                logits = forward(weights, best, cache=cache)
        found += [([BOS], row[1:row.index(EOS) + 1]) for row in ids.tolist() if EOS in row]
    return found


def guess_stream(args, weights, tokenizer):
    """Batches of ten documents, of which one is a story, to each story of nano's own."""
    own = itertools.cycle(continued(weights, tokenizer, args.seed + 1, 640))

    def both():
        for index, item in enumerate(documents(args.seed + 2, tokenizer)):
            yield item
            if index % 10 == 0:
                yield next(own)

    return batches(both(), args.rows)


def optimise(args, parameters, loss_of, stream):
    """args.steps of AdamW on loss_of(batch), an (inside autocast) function of what the stream yields."""
    import torch
    optimizer = torch.optim.AdamW([
        {"params": [w for w in parameters if w.dim() > 1], "weight_decay": 0.02},
        {"params": [w for w in parameters if w.dim() == 1], "weight_decay": 0.0},
    ], betas=(0.9, 0.98), eps=1e-9, fused=True)
    began = time.time()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss, told = loss_of(next(stream))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        done = step + 1
        if done % 50 == 0 or done == args.steps:
            left = (time.time() - began) / done * (args.steps - done)
            print(f"step {done:6d}  loss {loss.item():.4f}  {told}  left {left / 60:.1f} min", flush=True)


def mean(values, weights):
    return (values * weights.view(-1)).sum() / weights.sum()


def train_draft(args):
    """A model of a tenth of nano's size that guesses its tokens."""
    import torch
    import torch.nn.functional as F
    torch.set_num_threads(args.threads)
    keys, teacher = read_gguf(args.nano)
    tokenizer = load_tokenizer(keys)
    begun = read_gguf(args.begin)[1] if args.begin else new_weights(args.seed, DRAFT)
    weights = {name: w.requires_grad_() for name, w in begun.items()}
    print(f"{sum(w.numel() for w in weights.values())} parameters of {sum(w.numel() for w in teacher.values())}")

    def loss_of(batch):
        ids, targets, token_weights, mask = batch
        logits = forward(weights, ids, mask, DRAFT).float().view(-1, VOCAB)
        wanted = targets.view(-1)
        loss = mean(F.cross_entropy(logits, wanted, reduction="none"), token_weights)
        return loss, f"right {mean((logits.argmax(-1) == wanted).float(), token_weights):.4f}"

    optimise(args, list(weights.values()), loss_of, guess_stream(args, teacher, tokenizer))
    size = write_gguf(args.out, tokenizer, {name: w.detach() for name, w in weights.items()}, DRAFT, "quern nano draft")
    print(f"wrote {args.out}: {size} bytes")


def train_medusa(args):
    """Heads on nano's hidden state, which stays as it is (Medusa-1): head i says the token i + 2 places on. A head is a
    linear layer with SiLU added to its input, then one to the vocabulary (Cai et al. 2024, section 2.1)."""
    import torch
    import torch.nn.functional as F
    torch.set_num_threads(args.threads)
    keys, base = read_gguf(args.nano)
    tokenizer = load_tokenizer(keys)
    heads = {}
    for i in range(MEDUSA_HEADS):
        heads[f"medusa_head.{i}.0.linear.weight"] = torch.zeros(NANO.hidden, NANO.hidden)
        heads[f"medusa_head.{i}.0.linear.bias"] = torch.zeros(NANO.hidden)
        heads[f"medusa_head.{i}.1.weight"] = base["token_embd.weight"].clone()
    heads = {name: w.requires_grad_() for name, w in heads.items()}
    print(f"{sum(w.numel() for w in heads.values())} parameters in {MEDUSA_HEADS} heads")

    def loss_of(batch):
        ids, targets, token_weights, mask = batch
        with torch.no_grad():
            x = hidden_states(base, ids, mask)
        total, told = 0, []
        for i in range(MEDUSA_HEADS):
            y = x + F.silu(F.linear(x, heads[f"medusa_head.{i}.0.linear.weight"], heads[f"medusa_head.{i}.0.linear.bias"]))
            logits = F.linear(y, heads[f"medusa_head.{i}.1.weight"]).float().view(-1, VOCAB)
            wanted = targets.roll(-(i + 1), 1)
            # The place that is guessed must be of the same document, and not of its prompt.
            same = torch.diagonal(mask[:, 0].roll(-(i + 1), 1), dim1=1, dim2=2).float()
            same[:, CONTEXT - i - 1:] = 0
            used = token_weights.roll(-(i + 1), 1) * same * (token_weights > 0)
            total = total + 0.8 ** i * mean(F.cross_entropy(logits, wanted.reshape(-1), reduction="none"), used)
            told.append(f"{mean((logits.argmax(-1) == wanted.reshape(-1)).float(), used):.4f}")
        return total, "right " + " ".join(told)

    optimise(args, list(heads.values()), loss_of, guess_stream(args, base, tokenizer))
    write_medusa(args.out, {name: w.detach() for name, w in heads.items()})


def write_medusa(folder, tensors):
    """A checkpoint as Medusa's authors lay it out: config.json and medusa_lm_head.safetensors, in F16."""
    import torch
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w", newline="\n") as f:
        json.dump({"medusa_num_heads": MEDUSA_HEADS, "medusa_num_layers": 1, "base_model_name_or_path": "nano.gguf",
                   "hidden_size": NANO.hidden, "vocab_size": VOCAB}, f, indent=2)
        f.write("\n")
    header, body = {}, b""
    for name, tensor in tensors.items():
        data = tensor.to(torch.float16).contiguous().numpy().tobytes()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path = os.path.join(folder, "medusa_lm_head.safetensors")
    with open(path + ".part", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + body)
    os.replace(path + ".part", path)
    print(f"wrote {path}: {8 + len(text) + len(body)} bytes")


# ---- measuring ----------------------------------------------------------------------------------------------------


def accuracy(weights, tokenizer, cases):
    """{task: (right, total)}: right when greedy decoding writes exactly the answer and then <|eos|>. Greedy decoding
    does so if and only if, with the answer given, each of its tokens is the likeliest: one pass tells."""
    import torch
    result = {}
    with torch.no_grad():
        for name, rows in cases.items():
            right, by_length = 0, {}
            for prompt, answer in rows:
                head, tail = tokenizer.encode(prompt), tokenizer.encode(" " + answer)
                by_length.setdefault((len(head), len(tail)), []).append([BOS, *head, *tail, EOS])
            for (head, _), group in by_length.items():
                ids = torch.tensor(group)
                best = forward(weights, ids[:, :-1]).argmax(-1)
                right += int((best[:, head:] == ids[:, head + 1:]).all(1).sum())
            result[name] = (right, len(rows))
    return result


def show_accuracy(result, label):
    print(label + "  " + "  ".join(f"{name} {100 * right / total:.1f}" for name, (right, total) in result.items()),
          flush=True)


def evaluate(path, threads):
    import torch
    torch.set_num_threads(threads)
    keys, weights = read_gguf(path)
    print(f"{path}: {os.path.getsize(path)} bytes, float32 arithmetic")
    result = accuracy(weights, load_tokenizer(keys), held_out_cases())
    for name, (right, total) in result.items():
        print(f"{name:8s} {right:4d} of {total}  {100 * right / total:.2f} %")
    return all(right >= 0.99 * total for right, total in result.values())


def greedy(weights, tokenizer, prompt, limit, dtype):
    """(ids, logits after the prompt, smallest gap between the two best logits)."""
    import torch
    weights = {name: w.to(dtype) for name, w in weights.items()}
    ids, out, first, gap = [BOS, *tokenizer.encode(prompt)], [], None, math.inf
    with torch.no_grad():
        while len(out) < limit and (not out or out[-1] != EOS):
            logits = forward(weights, torch.tensor([ids + out]))[0, -1]
            first = logits if first is None else first
            best = logits.topk(2)
            gap = min(gap, (best.values[0] - best.values[1]).item())
            out.append(best.indices[0].item())
    return out, first, gap


def write_golden(gguf, path):
    import torch
    keys, weights = read_gguf(gguf)
    tokenizer = load_tokenizer(keys)
    prompts = [("bos", "", 100), ("once-upon-a-time", "Once upon a time", 200), ("once-there", "Once there was", 200),
               ("long-ago", "Long ago", 200)]
    prompts += [(name, rows[0][0], 32) for name, rows in held_out_cases().items()]
    with open(path, "w", newline="\n") as f:
        f.write("# Greedy continuations by nano.gguf, computed in float64 by train.py --golden (float32 agrees).\n"
                "# <|bos|> goes before each prompt. text is what follows its = sign, up to the end of the line; a first\n"
                "# space belongs to it. ids ends with 511, <|eos|>, where the model ended by itself. gap is the\n"
                "# smallest distance between the best two logits on the way; top holds the five best logits of the\n"
                "# first step as id:logit.\n")
        for name, prompt, limit in prompts:
            ids, first, gap = greedy(weights, tokenizer, prompt, limit, torch.float64)
            same, _, _ = greedy(weights, tokenizer, prompt, limit, torch.float32)
            assert ids == same, f"{name}: float32 and float64 differ"
            top = first.topk(5)
            f.write(f"\nname={name}\nlimit={limit}\nprompt={prompt}\n"
                    f"prompt_ids={' '.join(map(str, [BOS, *tokenizer.encode(prompt)]))}\n"
                    f"ids={' '.join(map(str, ids))}\ntext={tokenizer.decode(ids)}\ngap={gap:.4f}\n"
                    f"top={' '.join(f'{i}:{v:.5f}' for i, v in zip(top.indices.tolist(), top.values.tolist()))}\n")
    print(f"wrote {path}")


def sample(gguf, prompt, count, temperature, seed):
    import torch
    keys, weights = read_gguf(gguf)
    tokenizer = load_tokenizer(keys)
    torch.manual_seed(seed)
    for _ in range(count):
        ids = [BOS, *tokenizer.encode(prompt)]
        with torch.no_grad():
            while len(ids) < CONTEXT and ids[-1] != EOS:
                logits = forward(weights, torch.tensor([ids]))[0, -1] / temperature
                ids.append(torch.multinomial(logits.softmax(-1), 1).item())
        print(tokenizer.decode(ids) + "\n")


def main():
    parser = argparse.ArgumentParser(description="Trains and measures quern nano.")
    parser.add_argument("--cases", action="store_true", help="write tasks.tsv beside this script and stop")
    parser.add_argument("--stories", action="store_true", help="write stories.txt beside this script and stop")
    parser.add_argument("--data", type=int, metavar="N", help="print the first N training documents and stop")
    parser.add_argument("--eval", metavar="GGUF", help="measure a GGUF file and stop (exit status 1 below 99 %%)")
    parser.add_argument("--golden", metavar="GGUF", help="write golden.txt beside this script from a GGUF file and stop")
    parser.add_argument("--draft", action="store_true", help="train a draft model for --nano and stop")
    parser.add_argument("--medusa", action="store_true", help="train Medusa heads for --nano and stop")
    parser.add_argument("--begin", metavar="GGUF", help="a draft model to train further")
    parser.add_argument("--nano", metavar="GGUF", default=os.path.join(HERE, "nano.gguf"), help="whose tokens are guessed")
    parser.add_argument("--sample", metavar="GGUF", help="print a few stories at temperature 0.8 and stop")
    parser.add_argument("--prompt", default="", help="how --sample begins")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--rows", type=int, default=16, help="rows of 256 tokens a step")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True,
                        help="train under bfloat16 autocast; measuring is always float32")
    parser.add_argument("--checkpoint", help="file to save to every 500 steps and to resume from")
    parser.add_argument("--out", help="what to write; nano.gguf, draft.gguf or medusa beside this script")
    args = parser.parse_args()
    if not args.out:
        args.out = os.path.join(HERE, "draft.gguf" if args.draft else "medusa" if args.medusa else "nano.gguf")
    if args.cases:
        write_cases(os.path.join(HERE, "tasks.tsv"))
    elif args.stories:
        write_stories(os.path.join(HERE, "stories.txt"))
    elif args.data is not None:
        for index in range(args.data):
            print("".join(document(args.seed, index)))
    elif args.draft:
        train_draft(args)
    elif args.medusa:
        train_medusa(args)
    elif args.eval:
        sys.exit(0 if evaluate(args.eval, args.threads) else 1)
    elif args.golden:
        write_golden(args.golden, os.path.join(HERE, "golden.txt"))
    elif args.sample:
        sample(args.sample, args.prompt, 5, 0.8, args.seed)
    else:
        train(args)
        evaluate(args.out, args.threads)
        write_cases(os.path.join(HERE, "tasks.tsv"))
        write_golden(args.out, os.path.join(HERE, "golden.txt"))


if __name__ == "__main__":
    main()
