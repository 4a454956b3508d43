"""Trains the built-in model; stops at a given time and can go on later.

    python -m training.train RUN --seconds 1300 [--init CHECKPOINT]     # RANK and WORLD_SIZE for several GPUs

RUN holds tokenizer.json's copy and the newest weights (RUN/model), the whole state (RUN/state.pt), and log.jsonl.
Started again on the same RUN it goes on from state.pt; with --init it starts from a checkpoint's weights.
RUN/control.json, if written while it runs, changes {"until": seconds since the epoch, "lr": factor, "aux": weight,
"stop": true}. The learning rate falls to nothing over the last part of the time, whenever that ends.
"""
import argparse
import json
import os
import pathlib
import random
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask

from . import config, data, draw, export, model, quantise, tasks
from .optim import Optimizer

CLASSES = 96 + len(draw.SHAPES) * len(draw.COLOURS)      # none, printable ASCII but the blank, coloured shapes
LEVEL_WEIGHT = 0.1
BINS = 126        # of a chart's levels, two units of 0 to 250 each


class Trainee(nn.Module):
    """The model, and the head that asks the tower what lies in a patch: characters, shapes, levels of charts (training only)."""

    def __init__(self, settings):
        super().__init__()
        self.net = model.NemotronVl(settings)
        self.head = nn.Linear(settings["vit_hidden_size"], draw.SLOTS * CLASSES + draw.LEVELS * BINS)
        nn.init.zeros_(self.head.weight)
        self.attention, self.still = "dense", False

    def begin(self, tiles):
        """Tiles to the tower's input, prefix rows in front."""
        t, p, g = self.net.tower.patch_generator, draw.PATCH, draw.GRID
        x = self.net.normalise(tiles).to(torch.bfloat16 if tiles.is_cuda else torch.float32)
        x = x.view(-1, 3, g, p, g, p).permute(0, 2, 4, 1, 3, 5).reshape(-1, g * g, 3 * p * p)
        x = t.embedder(x)
        x = x + self.net.tower.positions(g, g).to(x.dtype)
        return torch.cat([t.cls_token.token.to(x.dtype).expand(len(x), -1, -1), x], 1)

    def finish(self, x, labels, levels, loose):
        """Vision rows, the loss of the head, and the share of characters that it gets right."""
        x = x[:, x.shape[1] - draw.GRID ** 2:]
        rows = self.net.project(x, draw.GRID, draw.GRID)
        guess = self.head(x.detach() if loose else x).float()
        logits = guess[..., :draw.SLOTS * CLASSES].reshape(-1, CLASSES)
        want = labels.view(-1).long()
        weight = torch.where(want == 255, 0.0, torch.where(want == 0, 0.1, 1.0))
        loss = F.cross_entropy(logits, torch.where(want == 255, 0, want), reduction="none")
        right = ((logits.argmax(-1) == want) & (want > 0) & (want < 255)).sum() / ((want > 0) & (want < 255)).sum().clamp(min=1)
        level = F.log_softmax(guess[..., draw.SLOTS * CLASSES:].reshape(-1, BINS), -1)
        want = levels.view(-1, 1).float()
        there, place = (want < 255).float(), want.clamp(max=249) / 2
        low, part = place.long(), place.frac()      # between two bins
        miss = -(level.gather(1, low) * (1 - part) + level.gather(1, low + 1) * part)
        miss = (miss * there).sum() / there.sum().clamp(min=64.0)
        return rows, (loss * weight).sum() / weight.sum().clamp(min=1.0) + LEVEL_WEIGHT * miss, right, miss.detach()

    def compile(self):
        self.begin = torch.compile(self.begin, dynamic=False)
        self.finish = torch.compile(self.finish, dynamic=False)
        for block in [*self.net.tower.blocks, *self.net.language_model.backbone.layers]:
            block.compile(dynamic=False)

    def forward(self, batch, loose=False):
        u, tiles, n = len(batch["ids"]), data.TILES, data.TILE_TOKENS
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.still):
            x = self.begin(batch["tiles"].flatten(0, 1))
            for block in self.net.tower.blocks:
                x = block(x)
            rows, aux, seen, miss = self.finish(x, batch["labels"].flatten(0, 1), batch["levels"].flatten(0, 1), loose)
        rows = rows.view(u, tiles * n, -1)
        ids, weight, seg, task, at, vision = compact(batch, rows.detach(), self.net.config["img_context_token_id"])
        h = self.net.language_model.backbone.embeddings(ids).to(rows.dtype)
        h = torch.where(vision[..., None], rows.gather(1, at[..., None].expand(-1, -1, rows.shape[-1])), h)
        if self.attention == "flex":
            look = block_mask(lambda b, h, q, k: (q >= k) & (seg[b, q] == seg[b, k]), u, None, ids.shape[1], ids.shape[1], device=ids.device)
        else:
            look = model.causal_bias(seg, h.dtype)
        h = self.net.backbone(h, seg, look)
        learnt = weight.roll(-1, 1).flatten()
        where = (learnt <= 0).byte().argsort(stable=True)[:batch["sizes"][2]]      # nonzero, without waiting for it
        want, learnt = ids.roll(-1, 1).flatten()[where], learnt[where]
        logits = self.net.logits(h.flatten(0, 1)[where])
        loss = (F.cross_entropy(logits, want, reduction="none") * learnt).sum() / learnt.sum()
        right = (logits.detach().argmax(-1) == want).float()
        return loss, aux, {"right": right, "where": where, "seg": seg, "task": task, "seen": seen, "miss": miss}


block_mask = create_block_mask


@torch.no_grad()
def compact(batch, rows, image):
    """Prunes clips by what changes from frame to frame, and closes the gaps: [rows, TOKENS] each.

    `at` names the vision row of an image token; the order of equal changes is that of the frames, as in the engine.
    """
    u, n = len(rows), data.TILE_TOKENS
    start, keep = (batch[k].long().repeat_interleave(n, 1) for k in ("start", "keep"))
    e = F.normalize(rows.float(), dim=-1, eps=1e-8)
    change = F.pad(1 - (e[:, n:] * e[:, :-n]).sum(-1), (n, 0))
    place = torch.arange(start.shape[1], device=rows.device)
    change = change.masked_fill(start == place // n, 255.0)
    order = change.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, start.gather(1, order).argsort(dim=1, stable=True))
    rank = place - start.gather(1, order) * n
    kept = torch.zeros_like(start, dtype=torch.bool).scatter_(1, order, rank < keep.gather(1, order))
    ids = batch["ids"].long()
    vision = ids == image
    at = (vision.cumsum(1) - 1).clamp(min=0)
    stays = (ids >= 0) & (~vision | kept.gather(1, at))
    order = (~stays).byte().argsort(dim=1, stable=True)[:, :data.TOKENS]
    there = torch.arange(data.TOKENS, device=rows.device) < stays.sum(1, keepdim=True)
    pull = lambda v, fill: torch.where(there, v.gather(1, order), fill)
    return (pull(ids, 0), pull(batch["weight"], 0.0), pull(batch["seg"].long(), -1), pull(batch["task"].long(), -1),
            pull(at, 0), pull(vision, False))


def evaluate(trainee, batches, autocast):
    """Share of held-out answers that come out right token by token, a task each, over all ranks.

    Gradients stay on: without them every block would be compiled once more."""
    names = list(tasks.EVALUATION)
    total = torch.zeros(len(names), 2, device=batches[0]["ids"].device)
    losses = []
    for batch in batches:
        with autocast():
            loss, _, info = trainee(batch)
        losses.append(loss.detach())
        key = info["where"] // data.TOKENS * 64 + info["seg"].flatten()[info["where"]]
        exact = torch.ones(len(batch["ids"]) * 64, device=key.device).scatter_reduce_(0, key, info["right"], "amin")
        task = torch.full((len(exact),), -1, device=key.device).scatter_(0, key, info["task"].flatten()[info["where"]])
        for k in range(len(names)):
            total[k, 0] += exact[task == k].sum()
            total[k, 1] += (task == k).sum()
    if dist.is_initialized():
        dist.all_reduce(total)
    return {n: round((r / max(1.0, c)), 3) for n, (r, c) in zip(names, total.tolist())}, torch.stack(losses).mean().item()


def main():
    arg = argparse.ArgumentParser()
    arg.add_argument("run")
    arg.add_argument("--tokenizer", default=".vt/tok")
    arg.add_argument("--seconds", type=float, default=1300)
    arg.add_argument("--steps", type=int, default=10 ** 9)
    arg.add_argument("--init")
    arg.add_argument("--rows", type=int, default=32)
    arg.add_argument("--eval-rows", type=int, default=64)
    arg.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    arg.add_argument("--seed", type=int, default=1)
    arg.add_argument("--lr", type=float, default=0.02)
    arg.add_argument("--adam", type=float, default=2e-3)
    arg.add_argument("--decay-from", type=float, default=0.6, help="share of the time after which the rate falls")
    arg.add_argument("--quantised", type=float, default=0.5, help="share of the steps with weights and activations rounded to NVFP4")
    arg.add_argument("--quantise-from", type=float, default=0.6, help="share of the time after which they begin")
    arg.add_argument("--head", help="the head's weights that an earlier run left, RUN/head.pt")
    arg.add_argument("--ramp", type=float, default=0.35, help="share of the time until tasks are at full difficulty")
    arg.add_argument("--attention", default="dense", choices=["dense", "flex"])
    arg.add_argument("--no-compile", action="store_true")
    arg.add_argument("--cpu", action="store_true")
    arg.add_argument("--still", action="store_true", help="tower and projector stay as they are")
    arg.add_argument("--log-every", type=int, default=50, help="steps")
    arg.add_argument("--every", type=float, default=60, help="seconds between evaluations")
    arg.add_argument("--overfit", action="store_true", help="repeat the first batch, to see that all is wired up")
    a = arg.parse_args()
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    run = pathlib.Path(a.run)
    run.mkdir(parents=True, exist_ok=True)
    state_file = run / "state.pt"
    saved = torch.load(state_file, map_location="cpu", mmap=True, weights_only=True) if state_file.exists() else None
    source = data.Source(a.tokenizer, a.workers, a.seed * 10 ** 8 + (saved["drawn"] if saved else 0), a.rows, a.eval_rows, ranks, rank, run / "control.json")

    device = torch.device("cpu") if a.cpu else torch.device("cuda", rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if ranks > 1:
        dist.init_process_group("nccl", device_id=device)
    vocabulary = json.loads((pathlib.Path(a.tokenizer) / "tokenizer.json").read_text())
    torch.manual_seed(a.seed)
    trainee = Trainee(config.build(vocabulary))
    trainee.attention = a.attention
    trainee = trainee.to(device)
    trainee.still = a.still
    if a.still:
        for part in (trainee.net.vision_model, trainee.net.mlp1, trainee.head):
            part.requires_grad_(False)
    optimizer = Optimizer([(n, p) for n, p in trainee.named_parameters() if p.requires_grad], a.lr, adam=a.adam)
    step = drawn = 0
    used, loose_until = 0.0, 0
    if saved:
        trainee.load_state_dict(saved["weights"])
        optimizer.load(saved["optimizer"])
        step, drawn, used = saved["step"], saved["drawn"], saved["used"]
    elif a.init:
        trainee.net.load_state_dict(model.load(a.init).state_dict())
        if a.head:
            trainee.head.load_state_dict(torch.load(a.head, map_location="cpu", weights_only=True))
        else:
            loose_until = 150      # the head is new: it must not disturb the tower
    rounded = quantise.Rounded(trainee.net)
    if not a.no_compile:
        torch._dynamo.config.recompile_limit = 64
        trainee.compile()
        global block_mask
        if a.attention == "flex":
            block_mask = torch.compile(create_block_mask, dynamic=False)
    autocast = lambda: torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda")
    params = [p for p in trainee.parameters() if p.requires_grad]
    feeder = data.Feeder(source, device)
    log = open(run / "log.jsonl", "a") if rank == 0 else None

    def say(**row):
        if rank == 0:
            line = json.dumps(row)
            print(line, flush=True)
            log.write(line + "\n")
            log.flush()

    def save():
        if rank:
            return
        export.save(trainee.net, vocabulary, run / "model")
        torch.save(trainee.head.state_dict(), run / "head.pt")
        torch.save({"weights": trainee.state_dict(), "optimizer": optimizer.state(), "step": step, "drawn": drawn, "used": used}, run / "state.new")
        (run / "state.new").rename(state_file)

    begun = time.time()
    source.level.value = 0.0 if not (saved or a.init) else 1.0
    say(rank=rank, ranks=ranks, parameters=sum(p.numel() for p in trainee.net.parameters()), device=str(device), step=step, used=used)
    held = feeder.evaluation() if a.eval_rows else []
    say(held=len(held), seconds=round(time.time() - begun, 1))
    clock = last_eval = last_say = time.time()
    until = clock + a.seconds - used
    first, count, sums, fresh = step, 0, torch.zeros(5, device=device), 0
    one, dice = None, random.Random(a.seed)
    while step < a.steps:
        now = time.time()
        if step % 10 == 0 or step == first:      # rank 0 alone reads clock and control file
            word = torch.zeros(4, dtype=torch.float64)
            if rank == 0:
                try:
                    extra = json.loads((run / "control.json").read_text())
                except (FileNotFoundError, ValueError):
                    extra = {}
                end = extra.get("until", until)
                word = torch.tensor([min(1.0, (now - clock + used) / max(1.0, end - clock + used)), extra.get("lr", 1.0),
                                     extra.get("aux", 1.0), float(extra.get("stop", False) or now >= end)], dtype=torch.float64)
            if ranks > 1:
                word = word.to(device)
                dist.broadcast(word, 0)
            progress, rate, aux_weight, halt = word.tolist()
            if halt:
                break
            if not a.init:
                source.level.value = min(1.0, progress / a.ramp)
        fall = 1.0 if progress < a.decay_from else max(0.0, (1 - progress) / (1 - a.decay_from))
        scale = min(1.0, (step - first + 1) / 100) * fall * rate
        batch = feeder.next() if not a.overfit or one is None else one
        one = batch
        rough = progress >= a.quantise_from and dice.random() < a.quantised      # all ranks throw the same
        rounded.begin(rough)
        with autocast():
            loss, aux, info = trainee(batch, step - first < loose_until)
        (loss if a.still else loss + aux_weight * aux).backward()
        rounded.end()
        if ranks > 1:
            flat = torch._utils._flatten_dense_tensors([p.grad for p in params])
            dist.all_reduce(flat, dist.ReduceOp.AVG)
            for p, g in zip(params, torch._utils._unflatten_dense_tensors(flat, params)):
                p.grad = g
        optimizer.step(scale)
        for p in params:
            p.grad = None
        step, count, drawn = step + 1, count + 1, drawn + batch["sizes"][3] * ranks
        sums += torch.stack([loss.detach(), aux.detach(), info["right"].mean(), info["seen"], info["miss"]])
        if step == first + 1:      # compiling is not training
            if device.type == "cuda":
                torch.cuda.synchronize()
            say(first_step=round(time.time() - clock, 1))
            clock = last_eval = last_say = time.time()
            until = clock + a.seconds - used
            drawn_at = drawn
        elif step % a.log_every == 0:
            values, took = (sums / count).tolist(), time.time() - last_say
            say(step=step, t=round(time.time() - clock + used, 1), p=round(progress, 3), loss=round(values[0], 4), aux=round(values[1], 4),
                acc=round(values[2], 4), seen=round(values[3], 4), miss=round(values[4], 3), level=round(source.level.value, 2), lr=round(scale, 3), ms=round(1000 * took / count, 1),
                per_s=round((drawn - drawn_at) / took), again=feeder.again, fresh=feeder.fresh, waited=round(feeder.waited, 1),
                fill=[round(batch["sizes"][0] / a.rows / data.TOKENS, 3), round(batch["sizes"][1] / a.rows / data.TILES, 3)],
                gib=round(torch.cuda.max_memory_allocated() / 2 ** 30, 1) if device.type == "cuda" else 0)
            last_say, count, drawn_at = time.time(), 0, drawn
            sums.zero_()
        if step % 10 == 0:
            due = torch.tensor([float(time.time() - last_eval > a.every)], device=device)
            if ranks > 1:
                dist.broadcast(due, 0)
            if due.item():
                if held:
                    exact, held_loss = evaluate(trainee, held, autocast)
                    say(step=step, t=round(time.time() - clock + used, 1), held=round(held_loss, 4), mean=round(sum(exact.values()) / len(exact), 4), exact=exact)
                if ranks > 1:              # rounding must not let the ranks drift apart
                    for p in params:
                        dist.broadcast(p.data, 0)
                keep = used
                used += time.time() - clock
                save()
                used = keep
                last_eval = time.time()
    used += time.time() - clock
    if held:
        exact, held_loss = evaluate(trainee, held, autocast)
        say(step=step, t=round(used, 1), held=round(held_loss, 4), mean=round(sum(exact.values()) / len(exact), 4), exact=exact, drawn=drawn)
    save()
    say(done=True, step=step, drawn=drawn, used=round(used, 1))
    source.close()
    if ranks > 1:
        dist.destroy_process_group()
    os._exit(0)


if __name__ == "__main__":
    main()
