"""ONNX Runtime on a GGUF file: writes the decoder as an ONNX graph with the file's own weights, and measures it.

    peers_onnx.py write MODEL.gguf OUT.onnx
    peers_onnx.py speed OUT.onnx --threads 2 --prompt 512 --generate 128
    peers_onnx.py first OUT.onnx --threads 2 --prompt 128

The graph is what onnxruntime-genai's model builder makes of a Llama: MatMulNBits (blocks of 32, activations quantised to
int8 by blocks) for Q4_0 and Q8_0, whose blocks it holds without a change of value; GroupQueryAttention with rotary
embeddings, Q, K and V in one matrix, keys and values in place; logits of the last token alone. F16, BF16 and F32 weights
compute in f32, the only floating type that ONNX Runtime multiplies quickly on x86. Needs numpy, onnx and onnxruntime.
Prints one JSON object.
"""
import argparse
import json
import os
import sys
import time

import numpy as np

from peers_gguf import Gguf

NBITS = {"Q4_0": 4, "Q8_0": 8}
PLAIN = ("F16", "BF16", "F32")
BLOCK = 32


def read_plain(model, tensor):
    """A tensor of a plain type as f32, outermost dimension first."""
    raw = np.memmap(model.path, np.uint8, "r", tensor.begin, (tensor.size,))
    if tensor.type == "BF16":
        values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = raw.view(np.float16 if tensor.type == "F16" else np.float32)
    return values.reshape(tensor.dims[::-1])


def read_blocks(model, tensor):
    """A Q4_0 or Q8_0 matrix as MatMulNBits holds it: (rows, blocks, bytes) and scales (rows, blocks)."""
    bits, (k, rows) = NBITS[tensor.type], tensor.dims
    size = 2 + BLOCK * bits // 8
    raw = np.memmap(model.path, np.uint8, "r", tensor.begin, (tensor.size,)).reshape(rows, k // BLOCK, size)
    scales = np.ascontiguousarray(raw[:, :, :2]).view(np.float16).astype(np.float32)[:, :, 0]
    values = raw[:, :, 2:]
    if bits == 8:
        return values ^ 0x80, scales  # unsigned, 128 being zero
    low, high = values & 15, values >> 4  # values 0 to 15 and 16 to 31 of the block; wanted: neighbours in a byte
    ordered = np.concatenate([low, high], axis=2)
    return ordered[:, :, 0::2] | (ordered[:, :, 1::2] << 4), scales


def widen(model, tensor):
    """Any tensor as f16 or f32."""
    if tensor.type in PLAIN:
        return read_plain(model, tensor)
    packed, scales = read_blocks(model, tensor)
    if NBITS[tensor.type] == 8:
        values = packed.astype(np.int16) - 128
    else:
        values = np.stack([packed & 15, packed >> 4], axis=3).reshape(*packed.shape[:2], BLOCK).astype(np.int16) - 8
    return (values * scales[:, :, None]).astype(np.float16).reshape(tensor.dims[::-1])


class Writer:
    """Collects nodes and initializers; large ones go to a file beside the graph."""

    def __init__(self, model, path):
        import onnx
        self.onnx, self.model, self.path = onnx, model, path
        self.nodes, self.initializers, self.tensors = [], [], {t.name: t for t in model.tensors}
        self.data = open(path + ".data", "wb")

    def constant(self, name, array):
        proto = self.onnx.TensorProto()
        proto.name, proto.data_type = name, self.onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        proto.dims.extend(array.shape)
        self.data.write(b"\0" * (-self.data.tell() % 4096))
        begin = self.data.tell()
        np.ascontiguousarray(array).tofile(self.data)
        self.data.flush()
        proto.data_location = self.onnx.TensorProto.EXTERNAL
        for key, value in (("location", os.path.basename(self.path) + ".data"), ("offset", begin),
                           ("length", array.nbytes)):
            proto.external_data.add(key=key, value=str(value))
        self.initializers.append(proto)
        return name

    def small(self, name, array):
        self.initializers.append(self.onnx.numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op, inputs, outputs, domain="", **attributes):
        self.nodes.append(self.onnx.helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def vector(self, name):
        return self.constant(name, read_plain(self.model, self.tensors[name]).astype(np.float32))

    def matmul(self, x, names, out):
        """x times the matrices of these names, one above the other."""
        parts = [self.tensors[n] for n in names]
        kinds = {t.type for t in parts}
        if len(kinds) != 1:
            raise SystemExit(f"{', '.join(names)} differ in type: {', '.join(sorted(kinds))}")
        k, rows, kind = parts[0].dims[0], sum(t.dims[1] for t in parts), kinds.pop()
        if kind in PLAIN:
            weights = np.concatenate([read_plain(self.model, t) for t in parts])
            weights = self.constant(out + ".weights", weights.T)
            if self.initializers[-1].data_type != self.onnx.TensorProto.FLOAT:
                weights = self.node("Cast", [weights], [out + ".widened"], to=self.onnx.TensorProto.FLOAT)
            return self.node("MatMul", [x, weights], [out])
        blocks, scales = zip(*(read_blocks(self.model, t) for t in parts))
        return self.node("MatMulNBits", [x, self.constant(out + ".blocks", np.concatenate(blocks)),
                                         self.constant(out + ".scales", np.concatenate(scales).reshape(-1))], [out],
                         domain="com.microsoft", K=k, N=rows, bits=NBITS[kind], block_size=BLOCK, accuracy_level=4)

    def norm(self, x, residual, name, out):
        """RMS norm of x + residual, and that sum."""
        epsilon = self.model.get("attention.layer_norm_rms_epsilon")
        if residual is None:
            self.node("SimplifiedLayerNormalization", [x, self.vector(name)], [out], axis=-1, epsilon=epsilon,
                      stash_type=1)
            return out, x
        self.node("SkipSimplifiedLayerNormalization", [x, residual, self.vector(name)], [out, "", "", out + ".sum"],
                  domain="com.microsoft", epsilon=epsilon)
        return out, out + ".sum"


def rotations(model, head_dim, tensors):
    """Cosines and sines (context, head_dim / 2)."""
    context = min(model.get("context_length", 2048), 4096)
    frequencies = model.get("rope.freq_base", 1e4) ** (-np.arange(0, head_dim, 2) / head_dim)
    if "rope_freqs.weight" in tensors:
        frequencies = frequencies / read_plain(model, tensors["rope_freqs.weight"])
    angles = np.arange(context)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def check(model):
    if model.architecture() != "llama":
        raise SystemExit(f"architecture {model.architecture()}: the writer of the ONNX graph knows llama alone")
    odd = sorted({t.type for t in model.matrices()} - set(NBITS) - set(PLAIN))
    if odd:
        raise SystemExit(f"{', '.join(odd)} weights: MatMulNBits holds plain blocks of 32 alone")


def write(model, path):
    check(model)
    w, onnx = Writer(model, path), __import__("onnx")
    heads, kv_heads = model.get("attention.head_count"), model.get("attention.head_count_kv")
    head_dim, layers = model.get("embedding_length") // heads, model.get("block_count")
    cos, sin = rotations(model, head_dim, w.tensors)
    w.constant("cos", cos), w.constant("sin", sin)
    table = widen(model, w.tensors["token_embd.weight"])
    x = w.node("Gather", [w.constant("embedding", table), "input_ids"], ["rows"])
    if table.dtype != np.float32:
        x = w.node("Cast", [x], ["embedded"], to=onnx.TensorProto.FLOAT)
    residual, past, present = None, [], []
    for i in range(layers):
        p, o = f"blk.{i}.", f"layer.{i}."
        h, x = w.norm(x, residual, p + "attn_norm.weight", o + "attn_norm")
        qkv = w.matmul(h, [p + f"attn_{n}.weight" for n in "qkv"], o + "qkv")
        past += [f"past.{i}.key", f"past.{i}.value"]
        present += [f"present.{i}.key", f"present.{i}.value"]
        mixed = w.node("GroupQueryAttention", [qkv, "", "", *past[-2:], "seqlens_k", "total_length", "cos", "sin"],
                       [o + "mixed", *present[-2:]], domain="com.microsoft", num_heads=heads, kv_num_heads=kv_heads,
                       do_rotary=1, rotary_interleaved=1, scale=head_dim ** -0.5)
        attention = w.matmul(mixed, [p + "attn_output.weight"], o + "attn_out")
        h, x = w.norm(x, attention, p + "ffn_norm.weight", o + "ffn_norm")
        gate = w.matmul(h, [p + "ffn_gate.weight"], o + "gate")
        silu = w.node("Mul", [gate, w.node("Sigmoid", [gate], [o + "sigmoid"])], [o + "silu"])
        product = w.node("Mul", [silu, w.matmul(h, [p + "ffn_up.weight"], o + "up")], [o + "product"])
        residual = w.matmul(product, [p + "ffn_down.weight"], o + "down")
    h, _ = w.norm(x, residual, "output_norm.weight", "final_norm")
    last = w.node("Slice", [h, w.small("minus1", np.array([-1])), w.small("end", np.array([1 << 30])),
                            w.small("axis1", np.array([1]))], ["last"])
    head = "output.weight" if "output.weight" in w.tensors else "token_embd.weight"
    w.matmul(last, [head], "logits")
    save(w, past, present, kv_heads, head_dim, cos.shape[0])


def save(w, past, present, kv_heads, head_dim, context):
    onnx = w.onnx
    info, f32, i32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    cache = [1, kv_heads, "slots", head_dim]
    inputs = [info("input_ids", onnx.TensorProto.INT64, [1, "tokens"]), info("seqlens_k", i32, [1]),
              info("total_length", i32, [])] + [info(n, f32, cache) for n in past]
    outputs = [info("logits", f32, [1, 1, "vocab"])] + [info(n, f32, cache) for n in present]
    graph = onnx.helper.make_graph(w.nodes, "decoder", inputs, outputs, w.initializers)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20),
                                                         onnx.helper.make_opsetid("com.microsoft", 1)], ir_version=10)
    onnx.helper.set_model_props(model, {"kv_heads": str(kv_heads), "head_dim": str(head_dim),
                                        "context": str(context)})
    w.data.close()
    onnx.save(model, w.path)


class Session:
    """A session whose keys and values stay in place."""

    def __init__(self, path, threads, slots):
        import onnxruntime as ort
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        props = self.session.get_modelmeta().custom_metadata_map
        shape = (1, int(props["kv_heads"]), min(slots, int(props["context"])), int(props["head_dim"]))
        self.binding, self.ort, self.used = self.session.io_binding(), ort, 0
        self.binding.bind_output("logits", "cpu")  # the first, for get_outputs()
        for value in self.session.get_inputs():
            if value.name.startswith("past."):
                cache = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
                self.binding.bind_ortvalue_input(value.name, cache)
                self.binding.bind_ortvalue_output(value.name.replace("past.", "present."), cache)

    def step(self, tokens):
        self.used += len(tokens)
        self.binding.bind_cpu_input("input_ids", np.array([tokens], np.int64))
        self.binding.bind_cpu_input("seqlens_k", np.array([self.used - 1], np.int32))
        self.binding.bind_cpu_input("total_length", np.array(self.used, np.int32))
        self.session.run_with_iobinding(self.binding)
        return int(self.binding.get_outputs()[0].numpy().argmax())


def prompt_of(count):
    return [1] + [300 + i * 7919 % 100 for i in range(count - 1)]


def speed(args):
    session = Session(args.path, args.threads, args.prompt + args.generate + 8)
    session.step([1])
    session.used = 0
    begin = time.perf_counter()
    session.step(prompt_of(args.prompt))
    prefill = time.perf_counter() - begin
    session.used, token = 0, session.step([1])
    begin = time.perf_counter()
    for _ in range(args.generate):
        token = session.step([token])
    decode = time.perf_counter() - begin
    return {"prefill": args.prompt / prefill, "decode": args.generate / decode}


def first(args):
    begin = time.perf_counter()
    Session(args.path, args.threads, args.prompt + 8).step(prompt_of(args.prompt))
    return {"ttft_ms": (time.perf_counter() - begin) * 1e3}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["write", "speed", "first", "greedy"])
    parser.add_argument("path", help="write: the GGUF file; otherwise the ONNX graph")
    parser.add_argument("out", nargs="?", help="write: the ONNX graph to write")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=128)
    parser.add_argument("--tokens", help="greedy: the prompt's ids, with commas; prints the ids that follow")
    args = parser.parse_args()
    if args.what == "write":
        write(Gguf(args.path), args.out)
        print("{}")
    elif args.what == "greedy":
        session = Session(args.path, args.threads, 1024)
        ids = [session.step([int(t) for t in args.tokens.split(",")])]
        while len(ids) < args.generate:
            ids.append(session.step([ids[-1]]))
        print(json.dumps({"ids": ids}))
    else:
        print(json.dumps(speed(args) if args.what == "speed" else first(args)))


if __name__ == "__main__":
    sys.exit(main())
