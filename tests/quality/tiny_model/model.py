"""Qwen3 in PyTorch, no more than training and evaluation need: GQA, QK-norm, RoPE over halves, SwiGLU, tied output."""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Config:
    vocab: int = 512
    hidden: int = 128
    layers: int = 4
    query_heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 384
    # A high base leaves about half of a head's dimensions nearly unturned at 4K: room to match content.
    rope_base: float = 1e7
    eps: float = 1e-6
    context: int = 8192


def rope_table(c, length):
    frequency = c.rope_base ** (-torch.arange(0, c.head_dim, 2, dtype=torch.float64) / c.head_dim)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency[None]
    return angle.cos()[None, :, None].float(), angle.sin()[None, :, None].float()


def turn(x, table):
    cos, sin = (t.to(x.dtype) for t in table)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Norm(nn.Module):
    def __init__(self, width, eps, start=1.0):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.full((width,), start)), eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        matrix = lambda rows, cols: nn.Parameter(torch.randn(rows, cols) * cols**-0.5)
        self.attn_q = matrix(c.query_heads * c.head_dim, c.hidden)
        self.attn_k = matrix(c.kv_heads * c.head_dim, c.hidden)
        self.attn_v = matrix(c.kv_heads * c.head_dim, c.hidden)
        self.attn_output = nn.Parameter(torch.zeros(c.hidden, c.query_heads * c.head_dim))
        self.ffn_gate, self.ffn_up = matrix(c.ffn, c.hidden), matrix(c.ffn, c.hidden)
        self.ffn_down = nn.Parameter(torch.zeros(c.hidden, c.ffn))
        self.attn_norm, self.ffn_norm = Norm(c.hidden, c.eps), Norm(c.hidden, c.eps)
        # Above one, so that heads can be sharp over thousands of keys from the start.
        self.attn_q_norm, self.attn_k_norm = Norm(c.head_dim, c.eps, 1.5), Norm(c.head_dim, c.eps, 1.5)

    def project(self, x, table):
        """q [B, heads, T, dim], k and v [B, kv_heads, T, dim]."""
        c = self.c
        weight = torch.cat([self.attn_q, self.attn_k, self.attn_v])
        heads = F.linear(self.attn_norm(x), weight).unflatten(-1, (-1, c.head_dim))
        q, k, v = heads.split([c.query_heads, c.kv_heads, c.kv_heads], 2)
        q, k = turn(self.attn_q_norm(q), table), turn(self.attn_k_norm(k), table)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def forward(self, x, table):
        q, k, v = self.project(x, table)
        share = self.c.query_heads // self.c.kv_heads
        out = F.scaled_dot_product_attention(q, k.repeat_interleave(share, 1), v.repeat_interleave(share, 1),
                                             is_causal=True)
        x = x + F.linear(out.transpose(1, 2).flatten(2), self.attn_output)
        gate, up = F.linear(self.ffn_norm(x), torch.cat([self.ffn_gate, self.ffn_up])).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.ffn_down)


def look_back(c, layer, common):
    """Starts the first KV head of `layer` as one that attends the previous token.

    Heads that look a token up need such a layer below them; found by chance it takes most of an hour on a CPU, started
    like this the lookup is learned in a minute. `common` is a direction that all token embeddings share: queries turn
    it to a fixed vector, keys to the same vector turned by one position.
    """
    table = rope_table(c, 2)
    fixed = torch.zeros(c.head_dim)
    fast = 4  # only the frequencies that tell neighbours apart
    angle = torch.rand(fast) * 6.28
    fixed[:fast], fixed[c.head_dim // 2:c.head_dim // 2 + fast] = angle.cos(), angle.sin()
    turned = turn(fixed.expand(1, 2, 1, -1), table)[0, 1, 0]
    share = c.query_heads // c.kv_heads
    with torch.no_grad():
        layer.attn_q[:share * c.head_dim] += 3 * torch.outer(fixed.repeat(share), common)
        layer.attn_k[:c.head_dim] += 3 * torch.outer(turned, common)


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        common = F.normalize(torch.randn(c.hidden), dim=0)
        self.token_embd = nn.Parameter(0.1 * (torch.randn(c.vocab, c.hidden) + c.hidden**0.5 * common))
        self.blk = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.output_norm = Norm(c.hidden, c.eps)
        look_back(c, self.blk[0], common)

    def forward(self, ids):
        """ids [B, T] -> logits [B, T, vocab]."""
        table = rope_table(self.c, ids.shape[1])
        x = F.embedding(ids, self.token_embd)
        for layer in self.blk:
            x = layer(x, table)
        return F.linear(self.output_norm(x), self.token_embd)
