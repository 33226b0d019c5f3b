#!/usr/bin/env python3
"""Makes a corpus of longer texts than the one that lies here: whole books of sources.tsv, from the same place on.

  make_long_corpus.py --sources SOURCES --out FOLDER --bytes 160000 NAME...

SOURCES as for make_corpus.py. Writes FOLDER/NAME.txt and FOLDER/corpus.json, which the harness reads; the splits are
those of corpus.json here.
"""
import argparse
import json
import os

import make_corpus


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sources", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--bytes", type=int, default=160000)
    parser.add_argument("names", nargs="+")
    options = parser.parse_args()
    with open(os.path.join(make_corpus.HERE, "corpus.json"), encoding="utf-8") as f:
        known = {d["name"]: d for d in json.load(f)["documents"]}
    sources = {row[1]: row for row in make_corpus.read_rows()}
    os.makedirs(options.out, exist_ok=True)
    documents = []
    for name in options.names:
        kind, _, _, _, _, origin, path = sources[name]
        text, source = make_corpus.read_body(options.sources, kind, origin, path)
        begin = text.find("\n\n", int(make_corpus.START * len(text)))
        text = text[begin:begin + options.bytes].lstrip("\n")
        if len(text) < options.bytes - 100:
            raise SystemExit(f"{name}: {len(text)} bytes from a quarter of the way in, fewer than {options.bytes}")
        with open(os.path.join(options.out, f"{name}.txt"), "w", encoding="utf-8", newline="\n") as f:
            f.write(text)
        documents.append({"name": name, "file": f"{name}.txt", "kind": kind, "source": source,
                          "split": known[name]["split"]})
    with open(os.path.join(options.out, "corpus.json"), "w", encoding="utf-8") as f:
        json.dump({"documents": documents}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main()
