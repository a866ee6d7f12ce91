#!/usr/bin/env python3
"""Embeddings of tests/golden/embeddings/sentences.txt as sentence-transformers makes them, by transformers and torch.

    reference/bin/python tests/support/reference_embeddings.py FOLDER > tests/golden/embeddings/NAME.txt

FOLDER is a model of sentence-transformers whose vectors are the mean of all tokens, scaled to length 1. Six digits of
each number; reference.py says how to make the environment.
"""

import pathlib
import sys

import torch
import transformers as hf


def main():
    sentences = pathlib.Path(__file__).resolve().parent.parent / "golden" / "embeddings" / "sentences.txt"
    tokenizer = hf.AutoTokenizer.from_pretrained(sys.argv[1])
    net = hf.AutoModel.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    for line in sentences.read_text().splitlines():
        tokens = tokenizer(line, return_tensors="pt", truncation=False, padding=False)
        with torch.no_grad():
            vector = net(**tokens).last_hidden_state[0].mean(0)
        print(" ".join(f"{x:.6g}" for x in torch.nn.functional.normalize(vector, dim=0).tolist()))


if __name__ == "__main__":
    main()
