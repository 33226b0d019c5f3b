#!/usr/bin/env python3
"""Writes the trained model as GGUF (architecture qwen3). Needs PyPI's torch, tokenizers, numpy and gguf.

Usage: export.py --run FOLDER --out tiny_qwen3.gguf
Matrices are Q8_0, norms F32. evaluate.py and reference.py read the file back, so that what they measure is the file.
"""
import argparse
import json
import os

import gguf
import torch

from model import Config, Model
from text import SPECIAL, VOCAB

# As in the ChatML templates of other small models; the model has not been trained to chat.
CHAT = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'"
        " + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def tensor_name(name):
    """blk.0.attn_q_norm.weight, as in Model, but matrices there have no suffix."""
    return name if name.endswith(".weight") else name + ".weight"


def add_tokenizer(writer, path):
    model = json.load(open(path, encoding="utf-8"))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([control if t in SPECIAL else normal for t in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.add_bos_token_id(SPECIAL.index("<|endoftext|>"))
    writer.add_eos_token_id(SPECIAL.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT)


def add_shape(writer, c):
    writer.add_name("hga-tiny-qwen3")
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.hidden)
    writer.add_block_count(c.layers)
    writer.add_feed_forward_length(c.ffn)
    writer.add_head_count(c.query_heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_rope_freq_base(c.rope_base)
    writer.add_layer_norm_rms_eps(c.eps)
    writer.add_vocab_size(c.vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)


def add_tensors(writer, model):
    for name, parameter in model.named_parameters():
        value = parameter.detach().float().numpy()
        if value.ndim == 1:
            writer.add_tensor(tensor_name(name), value)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor_name(name), gguf.quants.quantize(value, kind), raw_dtype=kind)


def load_gguf(path):
    """The file as a Model of Q8_0's values in f32."""
    model = Model(Config())
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tensor = tensors[tensor_name(name)]
            value = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            parameter.copy_(torch.from_numpy(value.copy()).reshape(parameter.shape))
    return model.eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True, help="folder that train.py wrote")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    model = Model(Config())
    model.load_state_dict(torch.load(os.path.join(args.run, "model.pt"), weights_only=False)["model"])
    writer = gguf.GGUFWriter(args.out, "qwen3")
    add_shape(writer, model.c)
    add_tokenizer(writer, os.path.join(args.run, "tokenizer.json"))
    add_tensors(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{args.out}: {os.path.getsize(args.out)} bytes")


if __name__ == "__main__":
    main()
