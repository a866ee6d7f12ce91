#!/usr/bin/env python3
"""Continues a text from Python, by ctypes alone: run.py libquern_run.so.0 nano.qn "Once upon a time" """
import ctypes as c
import sys


class Error(c.Structure):
    _fields_ = [("code", c.c_int), ("text", c.c_char * 1024)]


TEXT_FN = c.CFUNCTYPE(c.c_bool, c.c_void_p, c.POINTER(c.c_char), c.c_size_t, c.c_int32)


class GenerateParams(c.Structure):
    _fields_ = [
        ("size", c.c_size_t),
        ("sequence", c.c_int32),
        ("prompt", c.POINTER(c.c_int32)),
        ("prompt_count", c.c_size_t),
        ("max_tokens", c.c_int64),
        ("sampler", c.c_void_p),
        ("stops", c.POINTER(c.c_char_p)),
        ("stop_count", c.c_size_t),
        ("ignore_eog", c.c_bool),
        ("show_special", c.c_bool),
        ("callback", TEXT_FN),
    ]  # the library takes what is beyond `size` as zero


def main():
    if len(sys.argv) != 4:
        sys.exit("usage: run.py libquern_run.so.0 OUT.qn PROMPT")
    lib = c.CDLL(sys.argv[1])
    error = Error()

    def check(status):
        if status != 0:
            sys.exit("run.py: " + error.text.decode())

    def show(_context, text, length, _token):
        sys.stdout.buffer.write(text[:length])
        return True

    model, session, count = c.c_void_p(), c.c_void_p(), c.c_size_t()
    check(lib.quern_model_open(sys.argv[2].encode(), None, c.byref(model), c.byref(error)))
    check(lib.quern_session_create(model, None, c.byref(session), c.byref(error)))
    text = sys.argv[3].encode()
    prompt = (c.c_int32 * (len(text) + 2))()
    check(lib.quern_tokenize(model, text, c.c_size_t(len(text)), 1, prompt, c.c_size_t(len(prompt)), c.byref(count),
                             c.byref(error)))
    params = GenerateParams(size=c.sizeof(GenerateParams), prompt=prompt, prompt_count=count.value, max_tokens=256,
                            callback=TEXT_FN(show))
    check(lib.quern_generate(session, c.byref(params), None, c.byref(error)))
    lib.quern_session_destroy(session)
    lib.quern_model_close(model)


main()
