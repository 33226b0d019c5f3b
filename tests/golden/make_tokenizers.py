#!/usr/bin/env python3
"""Writes tokenizers/: small tokenizers with the settings of each family, and what the reference makes of many lines.

Usage: make_tokenizers.py OUT_FOLDER [SmolLM2-135M-Instruct.Q4_1.gguf]
Needs the PyPI packages tokenizers, sentencepiece, gguf and numpy.
"""
import io
import json
import os
import re
import sys

import sentencepiece
from gguf import GGUFReader, GGUFWriter
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import tokenizer_lines

BLOCK, WHOLE, VOCAB = 100, 200, 1400
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
LINES = list(tokenizer_lines.lines())


def fnv(hash64, numbers):
    for number in numbers:
        hash64 = ((hash64 ^ number) * 0x100000001b3) & tokenizer_lines.MASK
    return hash64


def block_hashes(rows):
    """Of each hundred rows of numbers one hash; the end of a row counts as a number too."""
    hashes = []
    for begin in range(0, len(rows), BLOCK):
        value = 0xcbf29ce484222325
        for row in rows[begin:begin + BLOCK]:
            value = fnv(fnv(value, row), [0xffffffff])
        hashes.append(f"{value:016x}")
    return hashes


def write_golden(path, special, plain, decoded):
    """special, plain: ids of each line with and without control tokens in the text; decoded: the text of `plain`."""
    golden = {"special": block_hashes(special), "plain": block_hashes(plain),
              "decoded": block_hashes([text.encode() for text in decoded])}
    with open(path, "w") as out:
        out.write("{" + ",\n".join(f'"{k}":{json.dumps(v)}' for k, v in golden.items()) + ',\n"ids":[\n')
        out.write(",\n".join(json.dumps(ids, separators=(",", ":")) for ids in special[:WHOLE]) + "\n]}\n")


def golden_of(tokenizer, path):
    tokenizer.encode_special_tokens = False
    special = [tokenizer.encode(line, add_special_tokens=False).ids for line in LINES]
    tokenizer.encode_special_tokens = True
    plain = [tokenizer.encode(line, add_special_tokens=False).ids for line in LINES]
    write_golden(path, special, plain, [tokenizer.decode(ids, skip_special_tokens=True) for ids in plain])


def byte_level(split, normalizer=None, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def regex_then_bytes(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def smollm():
    return byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False)]))


def gpt2():
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))
    tokenizer.add_tokens([AddedToken("<extra>", lstrip=True, rstrip=True, normalized=False)])
    return tokenizer


def llama3():
    tokenizer = byte_level(regex_then_bytes(LLAMA3), ignore_merges=True)
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[
            ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))])])
    return tokenizer


def qwen2():
    tokenizer = byte_level(regex_then_bytes(QWEN2), normalizers.NFC())
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return tokenizer


def train_spm(kind):
    """A SentencePiece model of `kind` (bpe, unigram)."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES[:6000]), model_writer=out, model_type=kind, vocab_size=VOCAB, byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98,
        num_threads=1, minloglevel=2, control_symbols=["<|im_start|>", "<|im_end|>"], user_defined_symbols=["<extra>"])
    return sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())


def spm_llama(spm):
    """Llama 2's settings around SentencePiece's vocabulary, with merges in the order of their scores."""
    vocab = {spm.id_to_piece(i): i for i in range(spm.get_piece_size())}
    merges = []
    for piece, i in vocab.items():
        if spm.is_control(i) or spm.is_byte(i) or spm.is_unknown(i) or piece == "<extra>":
            continue
        merges += [(-spm.get_score(i), piece[:cut], piece[cut:]) for cut in range(1, len(piece))
                   if piece[:cut] in vocab and piece[cut:] in vocab]
    tokenizer = Tokenizer(models.BPE(vocab, [m[1:] for m in sorted(merges, key=lambda m: m[0])], unk_token="<unk>",
                                     fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(t, normalized=n) for t, n in (("<unk>", False), ("<s>", True),
                                                                         ("</s>", False))])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def metaspace(spm):
    """The same without a normalizer, as newer conversions have it."""
    tokenizer = Tokenizer.from_str(spm_llama(spm).to_str())
    config = json.loads(tokenizer.to_str())
    config["normalizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(config))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    return tokenizer


def unigram(spm):
    pieces = [(spm.id_to_piece(i), spm.get_score(i)) for i in range(spm.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram(pieces, spm.unk_id(), byte_fallback=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace("▁", prepend_scheme="always")])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def write_gguf(path, spm, model):
    """SentencePiece's model as GGUF keeps it."""
    def kind(i):
        return (2 if spm.is_unknown(i) else 3 if spm.is_control(i) else 6 if spm.is_byte(i)
                else 4 if spm.id_to_piece(i) == "<extra>" else 1)

    count = spm.get_piece_size()
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    writer.add_token_list([spm.id_to_piece(i) for i in range(count)])
    writer.add_token_scores([spm.get_score(i) for i in range(count)])
    writer.add_token_types([kind(i) for i in range(count)])
    writer.add_unk_token_id(spm.unk_id())
    writer.add_bos_token_id(spm.bos_id())
    writer.add_eos_token_id(spm.eos_id())
    writer.add_add_space_prefix(True)
    writer.add_remove_extra_whitespaces(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def golden_of_spm(spm, path):
    """Added tokens cut the line, and each part is encoded for itself, as llama.cpp and Llama 2's tokenizer.json do."""
    def encode(line, names):
        ids = []
        for part in re.split("(" + "|".join(map(re.escape, names)) + ")", line):
            ids += [spm.piece_to_id(part)] if part in names else spm.encode(part) if part else []
        return ids

    plain = [encode(line, ["<extra>"]) for line in LINES]
    special = [encode(line, ["<extra>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]) for line in LINES]
    write_golden(path, special, plain, [spm.decode(row) for row in plain])


def golden_of_smollm2(gguf, path):
    """The real vocabulary."""
    fields = GGUFReader(gguf).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    tokens, types = get("tokens"), get("token_type")
    merges = [tuple(m.split(" ")) for m in get("merges")]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, types) if kind == 3])
    golden_of(tokenizer, path)


def main():
    out = sys.argv[1]
    with open(os.path.join(out, "pools.json"), "w") as file:
        pools = ",\n".join(json.dumps(pool) for pool in tokenizer_lines.POOLS.values())
        file.write(f'{{"count":{len(LINES)},"seed":{tokenizer_lines.SEED},"pools":[\n{pools}\n]}}\n')
    bpe, uni = train_spm("bpe"), train_spm("unigram")
    made = {"gpt2": (gpt2(), "<|endoftext|>"), "smollm": (smollm(), "<|im_end|>"), "llama3": (llama3(), "<|eot_id|>"),
            "qwen2": (qwen2(), "<|im_end|>"), "llama2": (spm_llama(bpe), "</s>"), "metaspace": (metaspace(bpe), "</s>"),
            "unigram": (unigram(uni), "</s>")}
    for name, (tokenizer, end) in made.items():
        folder = os.path.join(out, name)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "tokenizer.json"), "w") as file:
            file.write(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n")
        with open(os.path.join(folder, "tokenizer_config.json"), "w") as file:
            file.write(json.dumps({"eos_token": end}) + "\n")
        golden_of(tokenizer, os.path.join(folder, "golden.json"))
    for name, spm, model in (("gguf_llama", bpe, "llama"), ("gguf_t5", uni, "t5")):
        folder = os.path.join(out, name)
        os.makedirs(folder, exist_ok=True)
        write_gguf(os.path.join(folder, "tokenizer.gguf"), spm, model)
        golden_of_spm(spm, os.path.join(folder, "golden.json"))
    if len(sys.argv) > 2:
        os.makedirs(os.path.join(out, "smollm2"), exist_ok=True)
        golden_of_smollm2(sys.argv[2], os.path.join(out, "smollm2", "golden.json"))


main()
