"""Training samples: text, verbatim copy, associative recall, needles in text, chains of variables.

A sample is (ids [length + 1], weights [length]): weights[i] is the weight of predicting ids[i + 1]. What cannot be
known (a random key or value at its first mention) has weight 0, so that nearly all of the loss can be learned.
Retrieved tokens have weight 1, text has weight TEXT.
"""
import numpy as np

from text import SPECIAL, VOCAB

BEGIN = SPECIAL.index("<|endoftext|>")
FIRST_MERGE = len(SPECIAL) + 256
TEXT = 0.5
# Probability of a task per sample in training, by the part of the time until which it holds. Dense tasks come first:
# they ask for something at nearly every token, so that heads which look a token up are learned within minutes.
MIXES = [(0.05, {"recall": 0.5, "copy": 0.5}),
         (0.25, {"text": 0.2, "recall": 0.2, "copy": 0.2, "needle": 0.25, "chain": 0.15}),
         (1.0, {"text": 0.2, "recall": 0.15, "copy": 0.1, "needle": 0.35, "chain": 0.2})]



def log_uniform(rng, low, high):
    """An integer in [low, high], small ones often: every length has easy samples to begin with."""
    return int(np.exp(rng.uniform(np.log(low), np.log(high + 1))))


class Tasks:
    def __init__(self, tokenizer, text, words):
        self.text = text
        encode = lambda s: tokenizer.encode(s).ids
        self.bare = [encode(w) for w in words]
        self.spaced = [encode(" " + w) for w in words]
        self.digits = [encode(str(d))[0] for d in range(10)]
        self.space = encode(" ")
        self.part = {s: encode(s) for s in
                     ["\n[", ":", "]", " The number of", " is", ".", "\nlet", "\nprint", " =", ";"]}

    def _piece(self, *parts):
        """parts: (ids, weight of predicting them) -> (ids, weights)."""
        ids = [i for part, _ in parts for i in part]
        weights = [w for part, w in parts for _ in part]
        return np.array(ids), np.array(weights, dtype=float)

    def _value(self, rng):
        if rng.random() < 0.5:
            return self.spaced[rng.integers(len(self.spaced))]
        return self.space + [self.digits[d] for d in rng.integers(0, 10, 5)]

    def needles(self, rng, count):
        """Records and the queries for them, in the same order."""
        records, queries = [], []
        sentence = rng.random() < 0.4
        for key in rng.choice(len(self.bare), count, replace=False):
            value = self._value(rng)
            for out, weight in ((records, 0), (queries, 1)):
                if sentence:
                    head = self.part[" The number of"] + self.spaced[key] + self.part[" is"]
                    out.append(self._piece((head, 0), (value, weight), (self.part["."], weight)))
                else:
                    head = self.part["\n["] + self.bare[key] + self.part[":"]
                    out.append(self._piece((head, 0), (value, weight), (self.part["]"], weight)))
        return records, queries

    def chains(self, rng, count):
        """let a = 12345; let b = a; and the query: print b = a = 12345;"""
        records, queries = [], []
        let, show, is_, end = (self.part[s] for s in ["\nlet", "\nprint", " =", ";"])
        keys = rng.choice(len(self.spaced), 2 * count, replace=False)
        for first, second in keys.reshape(-1, 2):
            a, b, value = self.spaced[first], self.spaced[second], self._value(rng)
            records.append(self._piece((let + a + is_ + value + end + let + b + is_ + a + end, 0)))
            queries.append(self._piece((show + b + is_, 0), (a, 1), (is_, 1), (value, 1), (end, 1)))
        return records, queries

    def scattered(self, rng, length, pairs, records_within):
        """Records in the first part of a passage of text, queries in random order anywhere after their record.

        records_within: the part of the text before which records stand; queries come after it.
        """
        records, queries = pairs
        order = rng.permutation(len(queries))
        used = sum(len(p[0]) for p in records) + sum(len(p[0]) for p in queries)
        filler, cuts = self.text.passage(rng, max(length + 1 - used, 8))
        cuts = np.concatenate([[0], cuts])
        border = int(np.searchsorted(cuts, records_within * len(filler), side="right"))
        before = np.sort(rng.integers(0, max(border, 1), len(records)))
        after = np.sort(rng.integers(min(border, len(cuts) - 1), len(cuts), len(queries)))
        places = [(cuts[at], p) for at, p in zip(before, records)]
        places += [(cuts[at], queries[i]) for at, i in zip(after, order)]
        ids, weights, done = [], [], 0
        for at, (piece, weight) in places:
            ids += [filler[done:at], piece]
            weights += [np.full(at - done, TEXT), weight]
            done = at
        ids.append(filler[done:])
        weights.append(np.full(len(filler) - done, TEXT))
        return np.concatenate(ids), np.concatenate(weights)

    def task_text(self, rng, length):
        ids, _ = self.text.passage(rng, length + 1)
        weights = np.full(length + 1, TEXT)
        if rng.random() < 0.5:  # a passage that is quoted again later
            size = int(rng.integers(16, max(length // 4, 17)))
            source = int(rng.integers(0, length - 2 * size))
            target = int(rng.integers(source + size, length + 1 - size))
            ids = ids.copy()
            ids[target:target + size] = ids[source:source + size]
            weights[target] = 0
        return ids, weights

    def task_copy(self, rng, length):
        """Random tokens, text, then the same random tokens again and again."""
        size = log_uniform(rng, 8, length // 3)
        first = len(SPECIAL) if rng.random() < 0.3 else FIRST_MERGE
        source = rng.integers(first, VOCAB, size)
        filler = self._filler(rng, length - 2 * size)
        copies = np.tile(source, length // size + 1)[:length + 1 - size - len(filler)]
        known = np.ones(len(copies))
        known[:2] = 0  # where the copy begins is not yet known
        return (np.concatenate([source, filler, copies]),
                np.concatenate([np.zeros(size), np.full(len(filler), TEXT), known]))

    def task_recall(self, rng, length):
        """Pairs of random tokens; text; the pairs again in random order, many times."""
        pairs = log_uniform(rng, 2, min(200, length // 4))
        keys = rng.choice(np.arange(FIRST_MERGE, VOCAB), pairs, replace=False)
        table = np.stack([keys, rng.integers(FIRST_MERGE, VOCAB, pairs)], 1)
        filler = self._filler(rng, length - 4 * pairs)
        left = length + 1 - 2 * pairs - len(filler)
        asked = table[rng.integers(0, pairs, left // 2 + 1)].reshape(-1)[:left]
        known = np.arange(left) % 2
        return (np.concatenate([table.reshape(-1), filler, asked]),
                np.concatenate([np.zeros(2 * pairs), np.full(len(filler), TEXT), known]))

    def _filler(self, rng, most):
        """Up to `most` tokens of text, often none."""
        size = int(rng.integers(0, max(1, most))) if rng.random() < 0.6 else 0
        return self.text.passage(rng, size)[0] if size > 8 else np.zeros(0, np.int64)

    def _count(self, rng, length, tokens_each):
        return log_uniform(rng, 1, max(1, min(64, length // tokens_each)))

    def task_needle(self, rng, length):
        return self.scattered(rng, length, self.needles(rng, self._count(rng, length, 28)), rng.uniform(0.05, 0.8))

    def task_chain(self, rng, length):
        return self.scattered(rng, length, self.chains(rng, self._count(rng, length, 48)), rng.uniform(0.05, 0.8))

    def sample(self, rng, length, task):
        ids, weights = getattr(self, "task_" + task)(rng, length - 1)
        if rng.random() < 0.5:  # half of the samples begin as a document does
            ids, weights = np.concatenate([[BEGIN], ids]), np.concatenate([[0], weights])
        short = length + 1 - len(ids)
        if short > 0:
            ids, weights = np.concatenate([ids, self.text.passage(rng, short + 1)[0][:short]]), np.concatenate(
                [weights, np.zeros(short)])
        return ids[:length + 1], weights[1:length + 1]

    def batch(self, rng, count, length, mix):
        """mix: {task: probability}, or one task's name."""
        mix = {mix: 1} if isinstance(mix, str) else mix
        chosen = rng.choice(list(mix), count, p=list(mix.values()))
        rows = [self.sample(rng, length, task) for task in chosen]
        return np.stack([r[0] for r in rows]), np.stack([r[1] for r in rows]).astype(np.float32)
