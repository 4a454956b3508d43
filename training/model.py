"""The architecture in PyTorch: RADIO-style tower, pixel shuffle, projector, hybrid language model.

Parameters carry the names of the checkpoint, so that a state dict is the file (docs/model.md has the mathematics).
Training packs several samples into a row: `seg` [B, L] numbers them, and neither attention, convolution nor state
crosses from one to the next. Without autocast everything runs in the dtype of the weights.
"""
import json
import math
import pathlib

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

CHUNK = 64        # tokens that the scan takes at once; the result does not depend on it
FORGET = -40.0    # log decay at a sample's first token: exp(-40) of the sample before it remains


def rms(x, weight, eps):
    v = x.float()
    return (v * torch.rsqrt(v.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


class RmsNorm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n)), eps

    def forward(self, x):
        return rms(x, self.weight, self.eps)


class Relu2(nn.Module):
    def forward(self, x):
        return F.relu(x).square()


def linear(n_in, n_out, bias=False, gain=1.0):
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(n_in))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


# --- vision ----------------------------------------------------------------------------------------------------

class VisionAttention(nn.Module):
    def __init__(self, width, heads, gain):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = linear(width, 3 * width, True), linear(width, width, True, gain)

    def forward(self, x):
        n, t, e = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, e // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, e))


class VisionMlp(nn.Module):
    def __init__(self, width, inner, gain):
        super().__init__()
        self.fc1, self.fc2 = linear(width, inner, True), linear(inner, width, True, gain)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class VisionBlock(nn.Module):
    def __init__(self, width, heads, inner, eps, gain):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn, self.mlp = VisionAttention(width, heads, gain), VisionMlp(width, inner, gain)

    def forward(self, x):
        x = x + self.attn(self.norm1(x)).to(x.dtype)
        return x + self.mlp(self.norm2(x)).to(x.dtype)


class Holder(nn.Module):
    """Gives its children a level of names."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


class Tower(nn.Module):
    def __init__(self, c):
        super().__init__()
        v = c["vision_config"]
        width, depth = v["hidden_size"], v["num_hidden_layers"]
        self.patch, self.side = c["patch_size"], v["args"]["cpe_max_size"] // c["patch_size"]
        prefix = nn.Parameter(torch.randn(v["num_cls_tokens"] + v["num_registers"], width) * 0.5)
        token = Holder()
        token.token = prefix
        self.patch_generator = Holder(embedder=linear(3 * self.patch ** 2, width), cls_token=token)
        self.patch_generator.pos_embed = nn.Parameter(torch.randn(1, self.side ** 2, width))
        self.blocks = nn.ModuleList(
            VisionBlock(width, v["num_attention_heads"], int(v["mlp_ratio"] * width), v["layer_norm_eps"], 0.5 / math.sqrt(depth))
            for _ in range(depth))

    def positions(self, rows, cols):
        """The table resized to the longer side, then cropped."""
        table = self.patch_generator.pos_embed
        if rows == cols == self.side:
            return table
        m = max(rows, cols)
        grid = table.float().view(1, self.side, self.side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (m, m), mode="bilinear", align_corners=False)
        return grid[:, :, :rows, :cols].permute(0, 2, 3, 1).reshape(1, rows * cols, -1)

    def forward(self, pixels):
        """Normalised pixels [n, 3, h, w] to features [n, rows * cols, width]."""
        n, _, h, w = pixels.shape
        p, rows, cols = self.patch, h // self.patch, w // self.patch
        x = pixels.view(n, 3, rows, p, cols, p).permute(0, 2, 4, 1, 3, 5).reshape(n, rows * cols, 3 * p * p)
        x = self.patch_generator.embedder(x)
        x = x + self.positions(rows, cols).to(x.dtype)
        prefix = self.patch_generator.cls_token.token
        x = torch.cat([prefix.to(x.dtype).expand(n, -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return x[:, len(prefix):]


def pixel_shuffle(x, rows, cols, f=2):
    n, _, e = x.shape
    x = x.view(n, rows // f, f, cols // f, f, e).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(n, rows * cols // (f * f), f * f * e)


# --- language model --------------------------------------------------------------------------------------------

class Mlp(nn.Module):
    def __init__(self, c, gain):
        super().__init__()
        self.up_proj = linear(c["hidden_size"], c["intermediate_size"])
        self.down_proj = linear(c["intermediate_size"], c["hidden_size"], gain=gain)

    def forward(self, u, seg, bias, cache):
        return self.down_proj(F.relu(self.up_proj(u)).square())


class Attention(nn.Module):
    def __init__(self, c, gain):
        super().__init__()
        self.heads, self.kv, self.dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        hidden = c["hidden_size"]
        self.q_proj = linear(hidden, self.heads * self.dim)
        self.k_proj, self.v_proj = linear(hidden, self.kv * self.dim), linear(hidden, self.kv * self.dim)
        self.o_proj = linear(self.heads * self.dim, hidden, gain=gain)

    def forward(self, u, seg, bias, cache):
        b, t, _ = u.shape
        q = self.q_proj(u).view(b, t, self.heads, self.dim).transpose(1, 2)
        k = self.k_proj(u).view(b, t, self.kv, self.dim).transpose(1, 2)
        v = self.v_proj(u).view(b, t, self.kv, self.dim).transpose(1, 2)
        if cache is not None:
            k, v = cache.extend(self, k, v)
        if isinstance(bias, BlockMask):
            y = flex_attention(q, k, v, block_mask=bias, enable_gqa=True)
        else:
            k, v = (s.repeat_interleave(self.heads // self.kv, 1) for s in (k, v))
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, -1))


def scan(x, dt, a, b, c, fresh, last):
    """The state space recurrence in chunks. x [B, L, H, P], dt [B, L, H] float, a [H], b and c [B, L, G, N], fresh
    [B, L] marks first tokens; L is a multiple of CHUNK. Returns y [B, L, H, P] and, with `last`, the state after
    token L, [B, H, P, N]."""
    n, t, h, p = x.shape
    g, s = b.shape[2:]
    q, m, r = CHUNK, t // CHUNK, h // g
    la = dt * a
    if fresh is not None:
        la = la + FORGET * fresh[..., None]
    la = la.view(n, m, q, h).permute(0, 1, 3, 2).cumsum(-1)                     # [n, m, h, q]
    x = x.view(n, m, q, g, r, p).permute(0, 1, 3, 4, 2, 5)                      # [n, m, g, r, q, p]
    b, c = (v.view(n, m, q, g, s).permute(0, 1, 3, 2, 4) for v in (b, c))       # [n, m, g, q, s]
    dt = dt.view(n, m, q, h).permute(0, 1, 3, 2)
    later = torch.ones(q, q, dtype=torch.bool, device=x.device).tril()
    decay = (la[..., :, None] - la[..., None, :]).masked_fill(~later, -torch.inf).exp() * dt[..., None, :]
    cb = c @ b.transpose(-1, -2)                                                # [n, m, g, q, q]
    mix = (decay.view(n, m, g, r, q, q) * cb[:, :, :, None].float()).to(x.dtype)
    y = mix @ x
    end = la[..., -1]                                                           # [n, m, h]
    weight = ((end[..., None] - la).exp() * dt).view(n, m, g, r, q, 1)
    made = (x * weight.to(x.dtype)).transpose(-1, -2) @ b[:, :, :, None]        # [n, m, g, r, p, s]
    made = made.float().view(n, m, h, p * s).transpose(1, 2)                    # [n, h, m, p*s]
    total = F.pad(end.transpose(1, 2).cumsum(-1), (1, 0))                       # [n, h, m+1]
    before = (total[..., :-1, None] - total[..., None, 1:]).masked_fill(
        ~torch.ones(m, m, dtype=torch.bool, device=x.device).tril(-1), -torch.inf).exp()
    with torch.autocast(x.device.type, enabled=False):
        state = (before @ made).transpose(1, 2).view(n, m, g, r, p, s)          # state that enters each chunk
    y = y + (c[:, :, :, None] @ state.transpose(-1, -2).to(c.dtype)) * la.exp().view(n, m, g, r, q, 1).to(x.dtype)
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(n, t, h, p)
    if not last:
        return y, None
    tail = (total[..., -1:] - total[..., 1:]).exp()[..., None, :] @ made
    return y, tail.view(n, h, p, s)


class Mamba2(nn.Module):
    def __init__(self, c, gain):
        super().__init__()
        self.heads, self.dim = c["mamba_num_heads"], c["mamba_head_dim"]
        self.groups, self.state, self.eps = c["n_groups"], c["ssm_state_size"], c["layer_norm_epsilon"]
        inner = self.inner = self.heads * self.dim
        wide = inner + 2 * self.groups * self.state
        self.in_proj = linear(c["hidden_size"], inner + wide + self.heads)
        self.conv1d = nn.Conv1d(wide, wide, c["conv_kernel"], groups=wide)
        nn.init.zeros_(self.conv1d.bias)
        self.A_log = nn.Parameter(torch.log(torch.empty(self.heads).uniform_(1, 16)))
        self.D = nn.Parameter(torch.ones(self.heads))
        dt = torch.exp(torch.empty(self.heads).uniform_(math.log(1e-3), math.log(0.1)))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.norm = RmsNorm(inner, self.eps)
        self.out_proj = linear(inner, c["hidden_size"], gain=gain)

    def parts(self, xbc):
        inner, gn = self.inner, self.groups * self.state
        x, b, c = xbc.split([inner, gn, gn], -1)
        lead = xbc.shape[:-1]
        return (x.reshape(*lead, self.heads, self.dim), b.reshape(*lead, self.groups, self.state),
                c.reshape(*lead, self.groups, self.state))

    def close(self, y, z):
        """Gate, group norm, output projection."""
        v = y.float() * F.silu(z.float())
        v = v.unflatten(-1, (self.groups, -1))
        v = (v * torch.rsqrt(v.square().mean(-1, keepdim=True) + self.eps)).flatten(-2)
        return self.out_proj((v * self.norm.weight.float()).to(z.dtype))

    def forward(self, u, seg, bias, cache):
        z, raw, dt = self.in_proj(u).split([self.inner, self.inner + 2 * self.groups * self.state, self.heads], -1)
        if cache is not None and cache.stepping:
            return self.step(z, raw, dt, cache)
        taps, (n, t, _) = self.conv1d.weight.float(), raw.shape
        width = taps.shape[-1]
        out = raw.float() * taps[:, 0, -1] + self.conv1d.bias.float()
        for k in range(1, width):
            back = F.pad(raw, (0, 0, k, 0))[:, :t].float()
            if seg is not None:
                back = back * (F.pad(seg, (k, 0), value=-1)[:, :t] == seg)[..., None]
            out = out + back * taps[:, 0, width - 1 - k]
        x, b, c = self.parts(F.silu(out).to(raw.dtype))
        dt = F.softplus(dt.float() + self.dt_bias.float())
        if cache is not None:
            dt = dt * cache.valid[..., None]     # padding at the end leaves the state alone
        fresh = None if seg is None else (F.pad(seg, (1, 0), value=-1)[:, :t] != seg).float()
        pad = -t % CHUNK
        if pad:
            x, b, c, dt = (F.pad(v, (0, 0) * (v.dim() - 2) + (0, pad)) for v in (x, b, c, dt))
            fresh = None if fresh is None else F.pad(fresh, (0, pad))
        y, state = scan(x, dt, -self.A_log.float().exp(), b, c, fresh, cache is not None)
        y = (y + x * self.D.to(x.dtype)[:, None])[:, :t]
        if cache is not None:
            cache.keep(self, raw, state, width - 1)
        return self.close(y.reshape(n, t, self.inner), z)

    def step(self, z, raw, dt, cache):
        """One token a row: the recurrence itself."""
        conv, state = cache.mamba[self]
        conv = torch.cat([conv, raw], 1)
        out = (conv.float() * self.conv1d.weight[:, 0].float().T).sum(1) + self.conv1d.bias.float()
        x, b, c = self.parts(F.silu(out).to(raw.dtype))
        dt = F.softplus(dt[:, 0].float() + self.dt_bias.float())
        b, c = (v.float().repeat_interleave(self.heads // self.groups, 1) for v in (b, c))
        decay = torch.exp(-dt * self.A_log.float().exp())[..., None, None]
        state = decay * state + (dt[..., None] * x.float())[..., None] * b[:, :, None]
        y = (state * c[:, :, None]).sum(-1) + self.D.float()[:, None] * x.float()
        cache.mamba[self] = conv[:, 1:], state
        return self.close(y.to(raw.dtype).flatten(1)[:, None], z)


class Block(nn.Module):
    def __init__(self, c, kind, gain):
        super().__init__()
        self.norm = RmsNorm(c["hidden_size"], c["layer_norm_epsilon"])
        self.mixer = {"M": Mamba2, "*": Attention, "-": Mlp}[kind](c, gain)

    def forward(self, h, seg, bias, cache=None):
        return h + self.mixer(self.norm(h), seg, bias, cache).to(h.dtype)


class Cache:
    """What decoding keeps: keys, values, convolution inputs and states of rows of different lengths."""

    def __init__(self, lengths, room):
        self.lengths, self.stepping, self.room = lengths, False, room
        self.kv, self.mamba = {}, {}
        self.valid = (torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]).float()

    def extend(self, layer, k, v):
        n, h, t, d = k.shape
        if layer not in self.kv:
            self.kv[layer] = [F.pad(s, (0, 0, 0, self.room)) for s in (k, v)]
            return k, v
        at = self.lengths[:, None, None, None].expand(n, h, 1, d)
        for old, new in zip(self.kv[layer], (k, v)):
            old.scatter_(2, at, new)
        return self.kv[layer]

    def keep(self, layer, raw, state, columns):
        at = self.lengths[:, None] - columns + torch.arange(columns, device=raw.device)
        conv = raw.gather(1, at.clamp(min=0)[..., None].expand(-1, -1, raw.shape[2]))
        self.mamba[layer] = conv * (at >= 0)[..., None], state


class Backbone(nn.Module):
    def __init__(self, c):
        super().__init__()
        pattern = c["hybrid_override_pattern"]
        self.embeddings = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Block(c, k, 1.0 / math.sqrt(len(pattern))) for k in pattern)
        self.norm_f = RmsNorm(c["hidden_size"], c["layer_norm_epsilon"])


class NemotronVl(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = c = config
        self.llm = llm = c["llm_config"]
        self.vision_model = Holder(radio_model=Holder(model=Tower(c)))
        e = 4 * c["vit_hidden_size"]
        self.mlp1 = nn.Sequential(RmsNorm(e, 1e-5), linear(e, c["projector_hidden_size"]), Relu2(),
                                  linear(c["projector_hidden_size"], llm["hidden_size"]))
        self.language_model = Holder(backbone=Backbone(llm), lm_head=linear(llm["hidden_size"], llm["vocab_size"], gain=0.3))
        mean, std = torch.tensor(c["norm_mean"]).view(3, 1, 1), torch.tensor(c["norm_std"]).view(3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    @property
    def tower(self):
        return self.vision_model.radio_model.model

    def normalise(self, tiles):
        """uint8 [n, side, side, 3] to what the tower takes."""
        return (tiles.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def project(self, features, rows, cols):
        return self.mlp1(pixel_shuffle(features, rows, cols))

    def vision(self, tiles):
        """uint8 tiles [n, side, side, 3] to rows [n, tokens, hidden]."""
        side = tiles.shape[1] // self.config["patch_size"]
        pixels = self.normalise(tiles).to(self.mlp1[1].weight.dtype)
        return self.project(self.tower(pixels), side, side)

    def embed(self, ids, rows=None):
        """Text rows; those of the image token are replaced by vision `rows` in order."""
        h = self.language_model.backbone.embeddings(ids)
        if rows is not None:
            h = h.masked_scatter((ids == self.config["img_context_token_id"])[..., None], rows.to(h.dtype))
        return h

    def backbone(self, h, seg=None, bias=None, cache=None):
        for layer in self.language_model.backbone.layers:
            h = layer(h, seg, bias, cache)
        return h

    def logits(self, h):
        return self.language_model.lm_head(self.language_model.backbone.norm_f(h)).float()


def causal_bias(seg, dtype):
    """[B, 1, L, L], 0 where a token may look and -inf elsewhere."""
    t = seg.shape[1]
    look = (seg[:, :, None] == seg[:, None, :]) & torch.ones(t, t, dtype=torch.bool, device=seg.device).tril()
    return torch.zeros(look.shape, dtype=dtype, device=seg.device).masked_fill_(~look, -torch.inf)[:, None]


@torch.no_grad()
def generate(model, embeddings, stop, most):
    """Greedy answers to prompts, a list of [t, hidden]; ids up to `stop` or `most` tokens."""
    device, dtype = embeddings[0].device, embeddings[0].dtype
    lengths = torch.tensor([len(e) for e in embeddings], device=device)
    h = nn.utils.rnn.pad_sequence(embeddings, batch_first=True)
    n, t = h.shape[:2]
    cache = Cache(lengths, most)
    bias = causal_bias(torch.zeros(1, t, device=device), dtype)
    last = model.backbone(h, bias=bias, cache=cache)[torch.arange(n, device=device), lengths - 1]
    cache.stepping = True
    done, out = torch.zeros(n, dtype=torch.bool, device=device), []
    for _ in range(most):
        token = model.logits(last).argmax(-1)
        out.append(token)
        done |= token == stop
        if bool(done.all()):
            break
        place = torch.arange(t + most, device=device)
        bias = torch.zeros(n, 1, 1, t + most, dtype=dtype, device=device).masked_fill_(
            (place > cache.lengths[:, None])[:, None, None], -torch.inf)
        last = model.backbone(model.embed(token[:, None]), bias=bias, cache=cache)[:, 0]
        cache.lengths = cache.lengths + 1
    answers = []
    for row in torch.stack(out, 1).tolist():
        answers.append(row[:row.index(stop)] if stop in row else row)
    return answers


def load(folder, dtype=torch.float32):
    """A checkpoint folder as a model."""
    from safetensors.torch import load_file
    folder = pathlib.Path(folder)
    model = NemotronVl(json.loads((folder / "config.json").read_text()))
    missing = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False).missing_keys
    if missing:
        raise KeyError(f"{folder}: {missing[0]} is missing, and {len(missing) - 1} more")
    return model.to(dtype).eval()
