#!/usr/bin/env python3
"""Writes a GGUF file of Qwen3-0.6B's shape with made-up weights, for measuring speed. Needs PyPI's gguf.

Usage: synthetic_gguf.py --vocabulary MODEL.gguf [--weights q4_k] --out FILE
The tokenizer is that of MODEL.gguf, filled up with tokens that no text has. Matrices keep the size of their input, so
attention is spread out: what is read and computed is as with real weights, what is said is not.
"""
import argparse
import os

import gguf
import numpy as np

LAYERS, HIDDEN, FFN, VOCABULARY = 28, 1024, 3072, 151936
QUERY_HEADS, KV_HEADS, HEAD_DIM = 16, 8, 128
CONTEXT = 131072
BLOCK = 32  # weights of a Q8_0 block: an fp16 scale and as many int8
# fp16 scale and minimum, 8 pairs of 6 bits, nibbles. All pairs are 32: a byte of 160 has one and two bits of another.
Q4_K_BLOCK = 256


def q8_0(rows, cols, random):
    """[rows][bytes]: uniform weights of variance 1 / cols."""
    weights = random.integers(-127, 128, (rows, cols // BLOCK, BLOCK), dtype=np.int8)
    scale = np.float16(1 / (np.sqrt(127 * 128 / 3) * np.sqrt(cols)))
    scales = np.full((rows, cols // BLOCK, 1), scale, dtype=np.float16)
    return np.concatenate([scales.view(np.int8), weights], axis=2).reshape(rows, -1).view(np.uint8)


def q4_k(rows, cols, random):
    """The same; all scales of a row's blocks are equal, and so are minima, at the middle of the nibbles."""
    blocks = (rows, cols // Q4_K_BLOCK)
    scale = np.float16(1 / (np.sqrt((16 ** 2 - 1) / 12) * 32 * np.sqrt(cols)))
    head = np.frombuffer(np.array([scale, np.float16(7.5) * scale]).tobytes() + bytes([160] * 8 + [0] * 4), np.uint8)
    nibbles = random.integers(0, 256, (*blocks, Q4_K_BLOCK // 2), dtype=np.uint8)
    return np.concatenate([np.broadcast_to(head, (*blocks, len(head))), nibbles], axis=2).reshape(rows, -1)


def text_field(reader, key):
    return [bytes(reader.fields[key].parts[i]).decode("utf-8") for i in reader.fields[key].data]


def add_tokenizer(writer, path):
    reader = gguf.GGUFReader(path)
    number = lambda key: int(reader.fields[key].parts[-1][0])
    types_field = reader.fields["tokenizer.ggml.token_type"]
    tokens = text_field(reader, "tokenizer.ggml.tokens")
    types = [int(types_field.parts[i][0]) for i in types_field.data]
    filler = range(len(tokens), VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(text_field(reader, "tokenizer.ggml.pre")[0])
    writer.add_token_list(tokens + [f"<|filler {i}|>" for i in filler])
    writer.add_token_types(types + [gguf.TokenType.UNUSED for _ in filler])
    writer.add_token_merges(text_field(reader, "tokenizer.ggml.merges"))
    writer.add_bos_token_id(number("tokenizer.ggml.bos_token_id"))
    writer.add_eos_token_id(number("tokenizer.ggml.eos_token_id"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(text_field(reader, "tokenizer.chat_template")[0])


def add_shape(writer, file_type):
    writer.add_name("synthetic-qwen3-0.6b")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(QUERY_HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(file_type)


def add_tensors(writer, quantize, raw_type, random):
    def matrix(name, rows, cols):
        writer.add_tensor(name + ".weight", quantize(rows, cols, random), raw_dtype=raw_type)

    def norm(name, size):
        writer.add_tensor(name + ".weight", np.ones(size, dtype=np.float32))

    matrix("token_embd", VOCABULARY, HIDDEN)
    norm("output_norm", HIDDEN)
    for layer in range(LAYERS):
        name = f"blk.{layer}."
        norm(name + "attn_norm", HIDDEN)
        matrix(name + "attn_q", QUERY_HEADS * HEAD_DIM, HIDDEN)
        matrix(name + "attn_k", KV_HEADS * HEAD_DIM, HIDDEN)
        matrix(name + "attn_v", KV_HEADS * HEAD_DIM, HIDDEN)
        norm(name + "attn_q_norm", HEAD_DIM)
        norm(name + "attn_k_norm", HEAD_DIM)
        matrix(name + "attn_output", HIDDEN, QUERY_HEADS * HEAD_DIM)
        norm(name + "ffn_norm", HIDDEN)
        matrix(name + "ffn_gate", FFN, HIDDEN)
        matrix(name + "ffn_up", FFN, HIDDEN)
        matrix(name + "ffn_down", HIDDEN, FFN)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", required=True, help="GGUF file whose tokenizer is taken")
    parser.add_argument("--weights", choices=("q8_0", "q4_k"), default="q8_0")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    unfinished = args.out + ".part"
    writer = gguf.GGUFWriter(unfinished, "qwen3")
    quantize, raw_type, file_type = {
        "q8_0": (q8_0, gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
        "q4_k": (q4_k, gguf.GGMLQuantizationType.Q4_K, gguf.LlamaFileType.MOSTLY_Q4_K_S)}[args.weights]
    add_shape(writer, file_type)
    add_tokenizer(writer, args.vocabulary)
    add_tensors(writer, quantize, raw_type, np.random.default_rng(1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()
    os.replace(unfinished, args.out)


if __name__ == "__main__":
    main()
