"""Greedy answers of a checkpoint on held-out samples, scored task by task.

    python -m training.evaluate MODEL [--count 200] [--tasks read_line,shapes] [--variants bf16,float32,fp8,nvfp4,nvfp4-w4a4,evs-0.5] [--json FILE]

The engine has the last word (`videre bench accuracy`); this one needs no build and is quick on a GPU.
"""
import argparse
import collections
import json
import pathlib
import re

import numpy as np
import torch

from . import data, model, prompt, quantise, tasks


def distance(a, b):
    """Edits between two strings."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def number(text):
    found = re.fullmatch(r"-?\d+(\.\d+)?", text.strip())
    return float(found[0]) if found else None


def with_times(text):
    """Text with the times cut out, and the times."""
    pattern = r"(\d+\.\d\d) seconds"
    return re.sub(pattern, "", text), [float(t) for t in re.findall(pattern, text)]


def tool_call(text):
    """The calls of a well-formed answer, or None."""
    found = re.fullmatch(r"<TOOLCALL>(\[.*\])</TOOLCALL>", text, re.S)
    try:
        calls = json.loads(found[1]) if found else None
    except ValueError:
        return None
    good = isinstance(calls, list) and calls and all(isinstance(c, dict) and set(c) == {"name", "arguments"} and isinstance(c["arguments"], dict) for c in calls)
    return calls if good else None


def score(check, got):
    """Figures of one answer; "right" is the one that counts."""
    kind, truth = check["kind"], check["truth"]
    out = {"right": got == truth}
    if kind == "lines":
        a, b = got.split("\n"), truth.split("\n")
        out["lines"] = sum(x == y for x, y in zip(a, b)) / len(b)
        out["characters"] = max(0.0, 1 - distance(got, truth) / len(truth))
    elif kind == "within":
        v, t = number(got), float(truth)
        out["right"] = v is not None and abs(v - t) <= 0.05 * t + 1e-9
        out["of_largest"] = v is not None and abs(v - t) <= 0.05 * check["scale"]
        out["exact"] = got == truth
    elif kind == "times":
        (a, s), (b, t) = with_times(got), with_times(truth)
        out["right"] = a == b and len(s) == len(t) and all(abs(x - y) <= 0.5 for x, y in zip(s, t))
    elif kind == "think":
        thought, mark, answer = got.partition("</think>\n")
        out["well_formed"] = bool(mark) and "</think>" not in answer
        out["right"] = answer == truth
    elif kind == "tool":
        want, have = tool_call(truth), tool_call(got)
        out["valid"], out["right"] = have is not None, have == want
    return out


def pruned(rows, rate):
    """Which rows [frames, tokens, hidden] of a clip stay."""
    frames, n, _ = rows.shape
    keep = max(n, int(float(n) * frames * (1.0 - rate)))
    e = torch.nn.functional.normalize(rows.float(), dim=-1, eps=1e-8)
    change = torch.cat([torch.full((1, n), 255.0, device=rows.device), 1 - (e[1:] * e[:-1]).sum(-1)]).flatten()
    mask = torch.zeros(frames * n, dtype=torch.bool, device=rows.device)
    mask[change.argsort(descending=True, stable=True)[:keep]] = True
    return mask


@torch.no_grad()
def prepare(net, encoder, sample, rate, device):
    ids, _ = encoder.sample(sample, prompt_only=True)
    rows, masks = [], []
    for m in sample.media:
        e = torch.cat([net.vision(torch.from_numpy(np.ascontiguousarray(m.tiles[k:k + 64])).to(device)) for k in range(0, len(m.tiles), 64)])
        clip = hasattr(m, "fps") and rate
        masks.append(pruned(e, rate) if clip else torch.ones(e.shape[0] * e.shape[1], dtype=torch.bool, device=device))
        rows.append(e.flatten(0, 1))
    ids = torch.tensor(ids, device=device)
    if not rows:
        return net.embed(ids)
    keep, rows = torch.cat(masks), torch.cat(rows)
    stay = torch.ones_like(ids, dtype=torch.bool)
    stay[ids == net.config["img_context_token_id"]] = keep
    return net.embed(ids[stay], rows[keep])


def clips_only(name):
    return name.startswith("clip")


def answers_of(net, prompts, encoder, batch):
    out = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda k: len(prompts[k]))
    for k in range(0, len(order), batch):
        part = order[k:k + batch]
        for j, ids in zip(part, model.generate(net, [prompts[j] for j in part], prompt.EOS, 320)):
            out[j] = encoder.decode(ids)
    return out


def tally(table, name, samples, answers, show):
    for s, answer in zip(samples, answers):
        result = score(s.check, answer)
        row = table.setdefault(name if name != "charts" else s.task, collections.defaultdict(float))
        for key, value in result.items():
            row[key] += value
            row[key, "of"] += 1
        if name == "charts":
            row["right " + s.check["sub"]] += result["right"]
            row["right " + s.check["sub"], "of"] += 1
        if not result["right"] and show > 0:
            show -= 1
            print(f"  {s.turns[-1][0]!r}: {answer!r}, not {s.check['truth']!r} {s.check.get('sub', '')}")


def percent(row):
    return {k: round(100 * v / row[k, "of"], 1) for k, v in row.items() if isinstance(k, str)} | {"count": int(row["right", "of"])}


def main():
    arg = argparse.ArgumentParser()
    arg.add_argument("model")
    arg.add_argument("--count", type=int, default=200)
    arg.add_argument("--tasks", default=",".join(tasks.EVALUATION))
    arg.add_argument("--variants", default="bf16", help="of bf16, float32, fp8, nvfp4, nvfp4-w4a4, evs-RATE (clips only)")
    arg.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arg.add_argument("--batch", type=int, default=32)
    arg.add_argument("--first", type=int, default=5 * 10 ** 8, help="seed of the first sample")
    arg.add_argument("--json")
    arg.add_argument("--show", type=int, default=0, help="wrong answers to print, a task each")
    a = arg.parse_args()
    device, variants = torch.device(a.device), a.variants.split(",")
    nets = {kind: model.load(a.model, torch.float32 if kind == "float32" else torch.bfloat16).to(device)
            for kind in ("float32", "bf16") if kind == "float32" and kind in variants or kind == "bf16" and variants != ["float32"]}
    encoder, tables = prompt.Encoder(a.model, data.TILE_TOKENS), {v: {} for v in variants}
    formats = quantise.Formats(nets["bf16"]) if "bf16" in nets else None
    if any(v.startswith(("fp8", "nvfp4")) for v in variants):       # scales come from the training side
        formats.use("calibrate")
        some = [tasks.draw_sample(a.first + 10 ** 8 + k) for k in range(32)]
        model.generate(nets["bf16"], [prepare(nets["bf16"], encoder, s, 0.0, device) for s in some], prompt.EOS, 32)
        formats.use("bf16")
    for name in a.tasks.split(","):
        samples = [tasks.draw_sample(a.first + k, held=True, maker=tasks.EVALUATION[name]) for k in range(a.count)]
        prompts = None
        for variant in variants:
            if variant.startswith("evs"):
                if not clips_only(name):
                    continue
                net, given = nets["bf16"], [prepare(nets["bf16"], encoder, s, float(variant[4:]), device) for s in samples]
            elif variant == "float32":
                net, given = nets["float32"], [prepare(nets["float32"], encoder, s, 0.0, device) for s in samples]
            else:
                net = nets["bf16"]
                prompts = given = prompts or [prepare(net, encoder, s, 0.0, device) for s in samples]
            if formats:
                formats.use(variant if variant.startswith(("fp8", "nvfp4")) else "bf16")
            tally(tables[variant], name, samples, answers_of(net, given, encoder, a.batch), a.show)
            for key in ([name] if name != "charts" else ["chart_top", "chart_value"]):
                if key in tables[variant]:
                    row = tables[variant][key] = percent(tables[variant][key])
                    print(f"{variant:10s} {key:12s}", "  ".join(f"{k} {v}" for k, v in row.items()), flush=True)
    for variant, table in tables.items():
        if table:
            print(f"{variant:10s} mean {sum(r['right'] for r in table.values()) / len(table):.1f} of {len(table)} tasks")
    if a.json:
        pathlib.Path(a.json).write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
