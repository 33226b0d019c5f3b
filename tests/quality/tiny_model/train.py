#!/usr/bin/env python3
"""Trains the tiny model (README.md tells what for). Needs PyPI's torch, tokenizers and numpy.

Usage: train.py --text FOLDER --out FOLDER [--minutes 60] [--seed 1] [--threads 1]
The length of sequences grows with the time spent, so that most steps are cheap and the last ones see 4K and more.
Started again with the same folder, it goes on from the last checkpoint.
"""
import argparse
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import text as texts_of
from model import Config, Model
from tasks import MIXES, TEXT, Tasks

# (part of the time after which it ends, tokens of a sequence, sequences of a step)
PHASES = [(0.05, 64, 32), (0.12, 128, 24), (0.28, 256, 16), (0.42, 512, 8), (0.56, 1024, 4), (0.70, 2048, 2),
          (0.92, 4096, 2), (1.0, 8192, 1)]
MATRIX_RATE, ADAM_RATE = 0.02, 0.004
SAVE_EVERY = 150  # seconds


def rate(progress, step):
    """Warm-up, constant, then down to a hundredth over the last 45% of the time."""
    return min(1.0, (step + 1) / 100) * max(0.01, min(1.0, (1 - progress) / 0.45))


def at(table, progress):
    """The rest of the row that holds at this part of the time."""
    return next((row[1:] for row in table if progress < row[0]), table[-1][1:])


def optimizers(model):
    matrices = [p for layer in model.blk for p in layer.parameters() if p.dim() == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [torch.optim.Muon(matrices, lr=MATRIX_RATE, momentum=0.95, weight_decay=0.01),
            torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0)]


def loss_of(model, ids, weights):
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids[:, :-1])
    losses = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights.flatten()
    return (losses * weights).sum() / weights.sum().clamp(min=1)


def load_data(folder, out):
    files = texts_of.read_files(folder)
    parts = [texts_of.split(t) for _, t in files]
    train, held_out = [p[0] for p in parts], [p[1] for p in parts]
    path = os.path.join(out, "tokenizer.json")
    if os.path.exists(path):
        tokenizer = texts_of.Tokenizer.from_file(path)
    else:
        tokenizer = texts_of.train_tokenizer(train)
        tokenizer.save(path)
    words = texts_of.key_words(train)
    return (tokenizer, Tasks(tokenizer, texts_of.Text(tokenizer, train), words),
            Tasks(tokenizer, texts_of.Text(tokenizer, held_out), words))


def accuracy(model, tasks, length):
    """Part of the retrieved tokens that are right, per task."""
    result, samples = {}, max(1, min(6, 8192 // length))
    for task in ("copy", "recall", "needle", "chain"):
        ids, weights = tasks.batch(np.random.default_rng(7), samples, length, task)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            guess = model(torch.from_numpy(ids[:, :-1])).argmax(-1).numpy()
        result[task] = round(float((guess == ids[:, 1:])[weights > TEXT].mean()), 3)
    return result


class Run:
    """The state of a training: all of it goes to and comes from a checkpoint."""

    def __init__(self, args):
        torch.manual_seed(args.seed)
        self.path = os.path.join(args.out, "model.pt")
        self.model = Model(Config())
        self.optimizers = optimizers(self.model)
        self.rng = np.random.default_rng(args.seed)
        self.seconds, self.tokens, self.steps = 0.0, 0, {}
        if os.path.exists(self.path):
            self.load(torch.load(self.path, weights_only=False))

    def load(self, saved):
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        self.rng.bit_generator.state = saved["rng"]
        self.seconds, self.tokens, self.steps = saved["seconds"], saved["tokens"], saved["steps"]

    def save(self):
        torch.save({"model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers],
                    "rng": self.rng.bit_generator.state, "seconds": self.seconds, "tokens": self.tokens,
                    "steps": self.steps}, self.path + ".part")
        os.replace(self.path + ".part", self.path)

    def step(self, tasks, progress):
        """One step; returns its length and loss."""
        length, count = at(PHASES, progress)
        ids, weights = tasks.batch(self.rng, count, length, at(MIXES, progress)[0])
        loss = loss_of(self.model, torch.from_numpy(ids), torch.from_numpy(weights))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        scale = rate(progress, sum(self.steps.values()))
        for optimizer, base in zip(self.optimizers, (MATRIX_RATE, ADAM_RATE)):
            optimizer.param_groups[0]["lr"] = base * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.tokens += length * count
        self.steps[length] = self.steps.get(length, 0) + 1
        return length, loss.item()


def train(args):
    torch.set_num_threads(args.threads)
    os.makedirs(args.out, exist_ok=True)
    _, tasks, held_out = load_data(args.text, args.out)
    run = Run(args)
    print(f"parameters {sum(p.numel() for p in run.model.parameters())}, training tokens {len(tasks.text.ids)}, "
          f"held out {len(held_out.text.ids)}, done before {run.seconds:.0f} s", flush=True)
    last = time.time()
    saved, recent = run.seconds, []
    while (progress := run.seconds / (60 * args.minutes)) < 1:
        length, loss = run.step(tasks, progress)
        now = time.time()
        run.seconds, last = run.seconds + now - last, now
        recent = recent[-49:] + [loss]
        if sum(run.steps.values()) % 50 == 0:
            print(f"step {sum(run.steps.values())} tokens {run.tokens / 1e6:.2f}M length {length} "
                  f"loss {np.mean(recent):.4f} seconds {run.seconds:.0f}", flush=True)
        if run.seconds - saved > SAVE_EVERY:
            saved = run.seconds
            run.save()
            print(f"held out, length {length}: {accuracy(run.model, held_out, length)}", flush=True)
    run.save()
    print(f"steps by length {run.steps}, tokens {run.tokens}, seconds {run.seconds:.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", required=True, help="folder of .txt files")
    parser.add_argument("--out", required=True, help="folder for tokenizer.json and model.pt; a training there goes on")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
