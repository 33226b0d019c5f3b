#!/usr/bin/env python3
"""Makes the corpus of the quality harness: one plain file per document, and corpus.json.

Needs the PyPI packages transformers and gguf, and SOURCES with, for each entry of sources.tsv, either a git directory
OWNER+NAME (or OWNER+NAME/repo, OWNER+NAME/repo/.git) of that repository, or the unpacked SQLite 3.40.1 source tree
sqlite3-3.40.1 (Debian: apt-get source sqlite3).

  make_corpus.py --sources SOURCES --model FOLDER_WITH_SMOLLM2_GGUF

Every text was published before 1929 and is in the public domain in the USA. The code is in the public domain (SQLite),
or given to it by the Unlicense or an equal choice of licences (stb, enchive, youtube-dl, ripgrep).

Of each document we take one span of TOKENS tokens or a little more, from about a quarter of the way in, so that no
licence, title page or contents is part of it. Paragraphs on the digitisation, and notes on illustrations, are left out.
The split is a seeded shuffle within each kind: methods are tuned on "dev" only, and reported on "test".
"""
import argparse
import glob
import hashlib
import json
import os
import random
import re
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENS = 8450
START = 0.25
DEV = {"text": 11, "code": 3}
SEED = 20
ABOUT_DIGITISATION = re.compile(
    r"gutenberg|transcriber|e-?text\b|produced by|proofread|\[illustration|\[music|www\.|http|\.jpg", re.I)


def git_directory(sources, repository):
    base = os.path.join(sources, repository.replace("/", "+"))
    for folder in (base + "/repo/.git", base + "/repo", base + "/.git", base):
        if os.path.exists(folder + "/HEAD"):
            return folder
    raise SystemExit(f"{base}: no git directory of {repository}")


def read_rows():
    """The rows of sources.tsv: kind, name, title, author, year, origin, path."""
    with open(os.path.join(HERE, "sources.tsv"), encoding="utf-8") as f:
        return [line.rstrip("\n").split("\t") for line in f if line.strip()]


def read_body(sources, kind, origin, path):
    """A source's text without what is not the author's, and a line that says where it comes from."""
    data, source = read_source(sources, origin, path)
    text = decode(data)
    return (body_of_book(text) if kind == "text" else text), source


def read_source(sources, origin, path):
    """The bytes of one file, and a line that says where they come from."""
    if "/" not in origin:
        with open(os.path.join(sources, origin, path), "rb") as f:
            return f.read(), f"{origin}:{path}"
    git = ["git", "--git-dir", git_directory(sources, origin)]
    commit = subprocess.check_output(git + ["rev-parse", "HEAD"], text=True).strip()
    return subprocess.check_output(git + ["show", f"HEAD:{path}"]), f"github.com/{origin}@{commit[:12]}:{path}"


def decode(data):
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")


def body_of_book(text):
    begin = re.search(r"\*\*\* ?START OF TH[^*]*\*\*\*", text)
    end = re.search(r"\*\*\* ?END OF TH|\nEnd of (the )?Project", text)
    if not begin or not end:
        raise ValueError("no start or end mark")
    paragraphs = re.split(r"\n\s*\n", text[begin.end():end.start()])
    return "\n\n".join(p.strip("\n") for p in paragraphs if p.strip() and not ABOUT_DIGITISATION.search(p))


def cut(text, encode):
    """A span of at least TOKENS tokens that begins and ends with a paragraph or a line."""
    position = int(START * len(text))
    # A short document gives its last TOKENS tokens (with some room) instead.
    position = min(position, max(0, len(text) - 6 * TOKENS))
    break_at = text.find("\n\n", position)
    rest = text[break_at:].lstrip("\n")
    low, high = 0, len(rest)
    if len(encode(rest)) < TOKENS:
        raise ValueError("too short")
    while low < high:
        middle = (low + high) // 2
        if len(encode(rest[:middle])) < TOKENS:
            low = middle + 1
        else:
            high = middle
    line_end = rest.find("\n", low)
    return rest[:line_end if line_end >= 0 else len(rest)].rstrip() + "\n"


def load_tokenizer(folder):
    from transformers import AutoTokenizer
    found = sorted(glob.glob(os.path.join(folder, "SmolLM2*.gguf")))
    if not found:
        raise SystemExit(f"{folder}: no SmolLM2*.gguf")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=os.path.basename(found[0]))
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


def assign_splits(documents):
    rng = random.Random(SEED)
    for kind, number in DEV.items():
        names = sorted(d["name"] for d in documents if d["kind"] == kind)
        rng.shuffle(names)
        dev = set(names[:number])
        for d in documents:
            if d["kind"] == kind:
                d["split"] = "dev" if d["name"] in dev else "test"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sources", required=True)
    parser.add_argument("--model", required=True)
    options = parser.parse_args()
    encode = load_tokenizer(options.model)
    documents = []
    for kind, name, title, author, year, origin, path in read_rows():
        try:
            text, source = read_body(options.sources, kind, origin, path)
            text = cut(text, encode)
        except ValueError as error:
            raise SystemExit(f"{name}: {error}")
        file = f"{name}.txt"
        with open(os.path.join(HERE, "documents", file), "w", encoding="utf-8", newline="\n") as f:
            f.write(text)
        tokens = len(encode(text))
        documents.append({"name": name, "file": f"documents/{file}", "title": title, "author": author,
                          "year": int(year), "kind": kind, "source": source,
                          "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
                          "bytes": len(text.encode("utf-8")), "tokens": tokens})
        print(f"{name}: {tokens} tokens, {len(text)} characters", flush=True)
    assign_splits(documents)
    with open(os.path.join(HERE, "corpus.json"), "w", encoding="utf-8") as f:
        json.dump({"tokenizer": "SmolLM2", "documents": documents}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
