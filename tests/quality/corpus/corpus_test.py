"""corpus.json agrees with the documents, sources.tsv and what the quality harness counts on."""
import hashlib
import json
import os
import re
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))


class CorpusTest(unittest.TestCase):
    def setUp(self):
        with open(os.path.join(HERE, "corpus.json"), encoding="utf-8") as f:
            self.documents = json.load(f)["documents"]

    def read(self, document):
        with open(os.path.join(HERE, document["file"]), "rb") as f:
            return f.read()

    def test_every_document_is_the_one_described(self):
        for d in self.documents:
            data = self.read(d)
            self.assertEqual(d["bytes"], len(data), d["name"])
            self.assertEqual(d["sha256"], hashlib.sha256(data).hexdigest(), d["name"])
            self.assertGreaterEqual(d["tokens"], 8400, d["name"])
            self.assertNotIn(b"\r", data, d["name"])

    def test_no_file_is_missing_or_unlisted(self):
        listed = sorted(os.path.basename(d["file"]) for d in self.documents)
        self.assertEqual(listed, sorted(os.listdir(os.path.join(HERE, "documents"))))
        with open(os.path.join(HERE, "sources.tsv"), encoding="utf-8") as f:
            self.assertEqual([d["name"] for d in self.documents], [line.split("\t")[1] for line in f if line.strip()])

    def test_documents_are_enough_and_of_one_author_each(self):
        count = {(k, s): sum(d["kind"] == k and d["split"] == s for d in self.documents)
                 for k in ("text", "code") for s in ("dev", "test")}
        self.assertEqual(len(self.documents), sum(count.values()))
        self.assertGreaterEqual(count["text", "test"] + count["code", "test"], 42)
        self.assertGreaterEqual(count["text", "dev"] + count["code", "dev"], 14)
        self.assertGreaterEqual(count["code", "test"], 8)
        authors = [d["author"] for d in self.documents if d["kind"] == "text"]
        self.assertEqual(len(authors), len(set(authors)))

    def test_texts_hold_no_words_of_their_digitisation(self):
        for d in self.documents:
            if d["kind"] == "text":
                found = re.search(rb"gutenberg|transcriber|proofread|\[illustration", self.read(d), re.I)
                self.assertIsNone(found, d["name"])


if __name__ == "__main__":
    unittest.main()
