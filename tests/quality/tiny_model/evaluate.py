#!/usr/bin/env python3
"""Measures the model in the GGUF file. Needs PyPI's torch, tokenizers, numpy and gguf.

Usage: evaluate.py --model tiny_qwen3.gguf --run FOLDER --text FOLDER [--samples 12] [--threads 1]
RUN is what train.py wrote (its tokenizer), TEXT what it read (the held-out part of each file is used here).
Prints the NLL of held-out text by position, the part of retrieved tokens that are right, and which heads retrieve.
"""
import argparse

import numpy as np
import torch
import torch.nn.functional as F

from export import load_gguf
from model import rope_table
from tasks import TEXT
from text import SPECIAL, VOCAB
from train import load_data

LENGTHS = (1024, 2048, 4096, 8192)
TASKS = ("copy", "recall", "needle", "chain")


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.from_numpy(ids)[None])[0]


def text_nll(model, tasks, samples):
    """Mean nats per token and its standard error, for positions up to each of LENGTHS from the one before."""
    rng, rows = np.random.default_rng(11), []
    for _ in range(samples):
        ids, _ = tasks.text.passage(rng, LENGTHS[-1] + 1)
        losses = F.cross_entropy(logits_of(model, ids[:-1]), torch.from_numpy(ids[1:]), reduction="none").numpy()
        rows.append([part.mean() for part in np.split(losses, LENGTHS[:-1])])
    rows = np.array(rows)
    return rows.mean(0), rows.std(0, ddof=1) / samples**0.5


def retrieved(model, tasks, task, length, samples):
    """Part of the retrieved tokens that are right, and how many were asked for."""
    rng, right, asked = np.random.default_rng(13), 0, 0
    for _ in range(samples):
        ids, weights = tasks.sample(rng, length, task)
        wanted = weights > TEXT
        guess = logits_of(model, ids[:-1]).argmax(-1).numpy()
        right += int((guess == ids[1:])[wanted].sum())
        asked += int(wanted.sum())
    return right / max(asked, 1), asked


@torch.no_grad()
def head_shares(model, tasks, size=256, gap=1536):
    """Of each head's attention in a copy of `size` random tokens: the share on the token that comes next in the
    source, and on the previous token; [layers][query_heads] each."""
    rng = np.random.default_rng(17)
    source = rng.integers(len(SPECIAL) + 256, VOCAB, size)
    ids = torch.from_numpy(np.concatenate([source, tasks.text.passage(rng, gap)[0], source]))[None]
    x, table = F.embedding(ids, model.token_embd), rope_table(model.c, ids.shape[1])
    rows = torch.arange(size + gap + 1, ids.shape[1])
    following, previous = [], []
    for layer in model.blk:
        q, k, _ = layer.project(x, table)
        k = k.repeat_interleave(model.c.query_heads // model.c.kv_heads, 1)
        scores = q[0][:, rows] @ k[0].transpose(1, 2) * model.c.head_dim**-0.5
        scores = scores.masked_fill(torch.arange(ids.shape[1])[None] > rows[:, None], -torch.inf)
        shares, at = scores.softmax(-1), torch.arange(len(rows))
        following.append(shares[:, at, rows - size - gap + 1].mean(1).numpy())
        previous.append(shares[:, at, rows - 1].mean(1).numpy())
        x = layer(x, table)
    return np.array(following), np.array(previous)


def table(title, columns, rows):
    print(f"| {title} | " + " | ".join(columns) + " |\n|" + " --- |" * (len(columns) + 1))
    for name, cells in rows:
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load_gguf(args.model)
    _, _, tasks = load_data(args.text, args.run)

    following, previous = head_shares(model, tasks)
    heads = [f"head {h}" for h in range(model.c.query_heads)]
    for title, shares in (("on the token to copy", following), ("on the previous token", previous)):
        table(title, heads, [(f"layer {i}", [f"{s:.2f}" for s in row]) for i, row in enumerate(shares)])
    lengths = [str(n) for n in LENGTHS]
    rows = []
    for task in TASKS:
        results = [retrieved(model, tasks, task, n, args.samples) for n in LENGTHS]
        rows.append((task, [f"{share:.3f} of {asked}" for share, asked in results]))
    table("right, sequence of", lengths, rows)
    mean, error = text_nll(model, tasks, args.samples)
    table("positions up to", lengths, [("NLL of held-out text", [f"{m:.3f} ± {e:.3f}" for m, e in zip(mean, error)])])


if __name__ == "__main__":
    main()
