"""What the peers need of a GGUF file: its values and tensors, and a copy under another tokenizer.

Only the standard library is used, so that peers.py itself runs wherever Python does. The reader trusts its input: it is
for the files that quern-synth writes, not for files from elsewhere.
"""
import collections
import mmap
import os
import shutil
import struct

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
U32, I32, STRING, ARRAY = 4, 5, 8, 9

# GGUF tensor type: name, values a block, bytes a block.
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 8: ("Q8_0", 32, 34), 2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136), 39: ("MXFP4", 32, 17),
}

# dims: innermost first, as GGUF has them; begin: of the data, from the start of the file.
Tensor = collections.namedtuple("Tensor", "name dims type begin size")


class Gguf:
    """A GGUF file: `values` (key -> value), `value_types` (key -> its type and, of an array, its elements'), `tensors`."""

    def __init__(self, path):
        self.path = path
        self.values, self.value_types, self.tensors = {}, {}, []
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            self._data, self._at = data, 0
            if data[:4] != b"GGUF":
                raise ValueError(f"{path}: not a GGUF file")
            self._at = 4
            self.version, tensors, values = self._scalar("<I"), self._scalar("<Q"), self._scalar("<Q")
            for _ in range(values):
                key, kind = self._text(), self._scalar("<I")
                self.values[key], self.value_types[key] = self._value(kind)
            self._read_tensors(tensors)
            del self._data

    def _scalar(self, code):
        value = struct.unpack_from(code, self._data, self._at)[0]
        self._at += struct.calcsize(code)
        return value

    def _text(self):
        size = self._scalar("<Q")
        self._at += size
        return bytes(self._data[self._at - size:self._at]).decode("utf-8", "surrogateescape")

    def _value(self, kind):
        if kind == STRING:
            return self._text(), (kind, None)
        if kind != ARRAY:
            return self._scalar(SCALARS[kind]), (kind, None)
        element, count = self._scalar("<I"), self._scalar("<Q")
        if element == STRING:
            return [self._text() for _ in range(count)], (kind, element)
        code = f"<{count}{SCALARS[element][1]}"
        values = list(struct.unpack_from(code, self._data, self._at))
        self._at += struct.calcsize(code)
        return values, (kind, element)

    def _read_tensors(self, count):
        found = []
        for _ in range(count):
            name = self._text()
            dims = [self._scalar("<Q") for _ in range(self._scalar("<I"))]
            found.append((name, dims, self._scalar("<I"), self._scalar("<Q")))
        self.alignment = self.values.get("general.alignment", 32)
        self.data_begin = -(-self._at // self.alignment) * self.alignment
        for name, dims, kind, offset in found:
            values = 1
            for n in dims:
                values *= n
            type_name, block_values, block_bytes = TENSOR_TYPES.get(kind, (f"type {kind}", 1, 0))
            self.tensors.append(Tensor(name, dims, type_name, self.data_begin + offset,
                                       values // block_values * block_bytes))

    def architecture(self):
        return self.values.get("general.architecture", "")

    def get(self, key, default=None):
        """A value of the architecture: get("block_count")."""
        return self.values.get(f"{self.architecture()}.{key}", default)

    def matrices(self):
        """The tensors of two dimensions."""
        return [t for t in self.tensors if len(t.dims) == 2]

    def format(self):
        """The type that most bytes of matrices have, such as "Q4_0"; with "+" where others are mixed in."""
        sizes = collections.Counter()
        for tensor in self.matrices():
            sizes[tensor.type] += tensor.size
        if not sizes:
            return "?"
        return sizes.most_common(1)[0][0] + ("+" if len(sizes) > 1 else "")

    def bytes_a_token(self):
        """The weights that one token's step has to read: all, but for an embedding table that is not the head too."""
        names = {t.name for t in self.tensors}
        return sum(t.size for t in self.tensors if t.name != "token_embd.weight" or "output.weight" not in names)


# ---- a copy with another tokenizer ---------------------------------------------------------------------------------


def _pack_text(text):
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _pack_value(value, kind, element):
    if kind == STRING:
        return _pack_text(value)
    if kind != ARRAY:
        return struct.pack(SCALARS[kind], value)
    head = struct.pack("<IQ", element, len(value))
    if element == STRING:
        return head + b"".join(map(_pack_text, value))
    return head + struct.pack(f"<{len(value)}{SCALARS[element][1]}", *value)


def byte_characters():
    """The characters that stand for the 256 bytes in a byte-level BPE vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def bpe_values(count):
    """Values of a byte-level BPE tokenizer of `count` made-up tokens: [(key, value, kind, element)]."""
    base = byte_characters()
    control = ["<|begin|>", "<|end|>"]
    tokens, merges = base[:max(count - 2, 0)], []
    for left in base:
        for right in base:
            if len(tokens) < count - 2:
                tokens.append(left + right)
                merges.append(f"{left} {right}")
    for i in range(count - 2 - len(tokens)):  # three characters: one more merge of each pair
        tokens.append(tokens[256 + i] + base[0])
        merges.append(f"{tokens[256 + i]} {base[0]}")
    types = [1] * len(tokens) + [3] * len(control)
    prefix = "tokenizer.ggml."
    return [(prefix + "model", "gpt2", STRING, None), (prefix + "pre", "smollm", STRING, None),
            (prefix + "tokens", tokens + control, ARRAY, STRING), (prefix + "token_type", types, ARRAY, I32),
            (prefix + "merges", merges, ARRAY, STRING), (prefix + "bos_token_id", len(tokens), U32, None),
            (prefix + "eos_token_id", len(tokens) + 1, U32, None)]


def copy_with_bpe(model, path):
    """Writes a copy of the Gguf `model` whose tensors are the same and whose tokenizer is a made-up byte-level BPE of as
    many tokens, for engines that read no other kind."""
    vocab = next(t.dims[1] for t in model.tensors if t.name == "token_embd.weight")
    values = [(key, model.values[key], *model.value_types[key]) for key in model.values
              if not key.startswith("tokenizer.")] + bpe_values(vocab)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(model.tensors), len(values))
    head += b"".join(_pack_text(key) + struct.pack("<I", kind) + _pack_value(value, kind, element)
                     for key, value, kind, element in values)
    numbers = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
    for t in model.tensors:
        head += _pack_text(t.name) + struct.pack(f"<I{len(t.dims)}QIQ", len(t.dims), *t.dims, numbers[t.type],
                                                 t.begin - model.data_begin)
    head += b"\0" * (-len(head) % model.alignment)
    with open(model.path, "rb") as source, open(path + ".part", "wb") as to:
        to.write(head)
        source.seek(model.data_begin)
        shutil.copyfileobj(source, to, 16 << 20)
    os.replace(path + ".part", path)
