"""Holds model.py against reference outputs of a small checkpoint (a folder with checkpoint/ and golden.safetensors).

    python -m training.check FIXTURE
"""
import pathlib
import sys

import torch
from safetensors.torch import load_file

from . import model as m


def compare(name, got, want, limit=2e-4):
    worst = ((got.float() - want.float()).abs().max() / want.float().std()).item()
    print(f"{name:32s} worst difference {worst:.1e} standard deviations")
    if not worst <= limit:
        raise SystemExit(f"{name}: differs by {worst:.1e} standard deviations, at most {limit:.0e} expected")


@torch.no_grad()
def main():
    folder = pathlib.Path(sys.argv[1])
    gold, net = load_file(folder / "golden.safetensors"), m.load(folder / "checkpoint")
    rgb = gold["vision.rgb"].permute(0, 2, 3, 1) if gold["vision.rgb"].shape[1] == 3 else gold["vision.rgb"]
    features = net.tower(net.normalise(rgb[:len(gold["vision.features"])]))
    compare("vision.features", features, gold["vision.features"])
    compare("vision.projected", net.vision(rgb), gold["vision.projected"])
    for key in sorted(k for k in gold if k.startswith("vision.rect_") and k.endswith(".pixels")):
        compare(key[:-7], net.tower(gold[key]), gold[key[:-7] + ".features"].view(len(gold[key]), -1, features.shape[-1]))
    for key in sorted(k for k in gold if k.startswith("llm.ids_")):
        ids = gold[key].long().view(1, -1)
        want = gold["llm.logits_" + key[8:]]
        bias = m.causal_bias(torch.zeros_like(ids), torch.float32)
        got = net.logits(net.backbone(net.embed(ids), bias=bias))[0]
        compare("llm.logits_" + key[8:], got[-len(want):], want)
        # The same prompt packed behind another one, and cut into prefill and single tokens.
        pair = torch.cat([torch.arange(20, 27)[None], ids], 1)
        seg = torch.tensor([[0] * 7 + [1] * ids.shape[1]])
        got = net.logits(net.backbone(net.embed(pair), seg, m.causal_bias(seg, torch.float32)))[0]
        compare("packed", got[-len(want):], want)
        some = min(len(want), 4, ids.shape[1] - 1)
        if not some:
            continue
        cut = ids.shape[1] - some
        cache = m.Cache(torch.tensor([cut]), some + 1)
        net.backbone(net.embed(ids[:, :cut]), bias=m.causal_bias(torch.zeros(1, cut), torch.float32), cache=cache)
        cache.stepping, rows = True, []
        for k in range(cut, ids.shape[1]):
            wide = torch.zeros(1, 1, 1, cut + some + 1).masked_fill_(torch.arange(cut + some + 1) > k, -torch.inf)
            rows.append(net.logits(net.backbone(net.embed(ids[:, k:k + 1]), bias=wide, cache=cache))[0, 0])
            cache.lengths = cache.lengths + 1
        compare("decoded", torch.stack(rows), want[-some:])


if __name__ == "__main__":
    main()
