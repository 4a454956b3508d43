"""Samples for the trainer: processes draw, encode and pack them into slots of shared memory.

A slot holds one row: up to TOKENS tokens of several samples after pruning, and up to TILES tiles. Clips that are to
be pruned come whole (at most FULL tokens), because which of their rows stay follows from what the projector says.
"""
import json
import mmap
import multiprocessing
import os
import pathlib
import queue
import random
import threading
import time
import traceback

import numpy as np

from . import draw, prompt, tasks

TOKENS, FULL, TILES = 2048, 2560, 44
TILE_TOKENS = (draw.GRID // 2) ** 2
FIELDS = {"tiles": ("u1", (TILES, draw.TILE, draw.TILE, 3)), "labels": ("u1", (TILES, draw.GRID ** 2, draw.SLOTS)),
          "levels": ("u1", (TILES, draw.GRID ** 2, draw.LEVELS)),
          "ids": ("i2", (FULL,)),       # -1 pads
          "weight": ("f4", (FULL,)),    # of predicting this token; 0 for what is given
          "seg": ("i2", (FULL,)),       # which sample
          "task": ("i2", (FULL,)),
          "start": ("i2", (TILES,)),    # first tile of this tile's clip; the tile itself when it is a picture
          "keep": ("i2", (TILES,)),     # vision rows that its clip keeps
          "size": ("i4", (4,))}         # tokens after pruning, tiles, learnt tokens, samples
CTX = multiprocessing.get_context("fork")


class Slots:
    """Rows in anonymous shared memory: one array a field, [slots, ...]."""

    def __init__(self, n):
        self.count, self.arrays = n, {}
        for name, (kind, shape) in FIELDS.items():
            size = n * int(np.prod(shape)) * np.dtype(kind).itemsize
            self.arrays[name] = np.frombuffer(mmap.mmap(-1, size), kind).reshape(n, *shape)


def encode(sample, encoder, src, tasks_at):
    """A sample as the arrays of a row; None when it cannot fit one."""
    history = not sample.messages and len(sample.turns) > 1 and src.random() < 0.3
    ids, learnt = encoder.sample(sample, as_history=history, label=int(src.random() < 0.2))
    weight, k = np.zeros(len(ids), np.float32), 0
    while k < len(ids):      # an answer counts as the root of its length
        j = k
        while j < len(ids) and learnt[j]:
            j += 1
        weight[k:j] = max(1, j - k) ** -0.5
        k = max(j, k + 1)
    start, keep, tiles, cut = [], [], 0, 0
    for m in sample.media:
        n = len(m.tiles)
        rows = n * TILE_TOKENS
        if hasattr(m, "fps") and m.rate:
            rows = max(TILE_TOKENS, int(float(TILE_TOKENS) * n * (1.0 - m.rate)))
        start += [tiles] * n if hasattr(m, "fps") else range(tiles, tiles + n)
        keep += [rows] * n if hasattr(m, "fps") else [TILE_TOKENS] * n
        tiles, cut = tiles + n, cut + n * TILE_TOKENS - rows
    if tiles > TILES or len(ids) - cut > TOKENS or len(ids) > FULL:
        return None
    return {"ids": np.array(ids, np.int16), "weight": weight, "start": start, "keep": keep, "tiles": tiles, "full": len(ids),
            "tokens": len(ids) - cut, "media": sample.media, "task": tasks_at}


def fill(slots, at, pool, more, depth=10):
    """Packs samples of `pool` into slot `at`, oldest first, until none of `depth` fits."""
    a = {k: v[at] for k, v in slots.arrays.items()}
    a["ids"][:], a["seg"][:], a["weight"][:], a["task"][:] = -1, -1, 0, -1
    a["start"][:] = np.arange(TILES)
    a["keep"][:] = TILE_TOKENS
    a["labels"][:] = 255
    a["levels"][:] = 255
    full = tokens = tiles = samples = 0
    while True:
        while len(pool) < depth:
            pool.append(more())
        fit = next((i for i, s in enumerate(pool) if s["full"] + full <= FULL and s["tokens"] + tokens <= TOKENS
                    and s["tiles"] + tiles <= TILES), None)
        if fit is None:
            break
        s = pool.pop(fit)
        here, there = slice(full, full + s["full"]), slice(tiles, tiles + s["tiles"])
        a["ids"][here], a["weight"][here], a["seg"][here], a["task"][here] = s["ids"], s["weight"], samples, s["task"]
        a["start"][there], a["keep"][there] = np.array(s["start"], np.int16) + tiles, s["keep"]
        k = tiles
        for m in s["media"]:
            a["tiles"][k:k + len(m.tiles)], a["labels"][k:k + len(m.tiles)] = m.tiles, m.labels
            if getattr(m, "levels", None) is not None:
                a["levels"][k:k + len(m.tiles)] = m.levels
            k += len(m.tiles)
        full, tokens, tiles, samples = full + s["full"], tokens + s["tokens"], tiles + s["tiles"], samples + 1
    a["size"][:] = tokens, tiles, int((a["weight"] > 0).sum()), samples


def shares(control, before):
    """The mixture that the control file asks for: {"mix": {task: share}} there; tasks that it does not name keep theirs."""
    try:
        mix = json.loads(pathlib.Path(control).read_text()).get("mix", {})
        return [float(mix.get(m.__name__, p)) for m, p in zip(tasks.MAKERS, before)]
    except (OSError, ValueError, AttributeError, TypeError):
        return before


def worker(number, step, seed, folder, slots, free, ready, level, stop, control):
    """Draws samples `number`, `number + step`, ... for ever."""
    os.nice(5)
    draw.quick = True
    encoder, src, pool, count = prompt.Encoder(folder, TILE_TOKENS), random.Random(seed + number), [], [0]
    mix = [None]

    def more():
        while True:
            k = seed * 10 ** 7 + number + step * count[0]
            if count[0] % 200 == 0 and control.exists():
                mix[0] = shares(control, mix[0] or [q for _, q in tasks.SHARES])
            count[0] += 1
            at = level.value if src.random() < 0.85 else src.uniform(0.0, level.value)
            try:
                row = encode(tasks.draw_sample(k, at, mix=mix[0]), encoder, src, 0)
            except Exception:
                traceback.print_exc()
                continue
            if row:
                return row

    while not stop.value:
        at = free.get()
        fill(slots, at, pool, more)
        ready.put(at)


def held_out(number, step, first, folder, slots):
    """Fills slots number, number + step, ... with held-out samples from `first` on, all tasks in turn."""
    encoder, src, names = prompt.Encoder(folder, TILE_TOKENS), random.Random(number), list(tasks.EVALUATION)
    count = [first + number]

    def more():
        while True:
            k = count[0]
            count[0] += step
            task = k % len(names)
            row = encode(tasks.draw_sample(10 ** 9 + k, held=True, maker=tasks.EVALUATION[names[task]]), encoder, src, task)
            if row:
                return row

    pool = []
    for at in range(number, slots.count, step):
        fill(slots, at, pool, more)


class Source:
    """Forks the drawing processes; must be made before CUDA is touched."""

    def __init__(self, folder, workers, seed, rows, eval_rows, ranks=1, rank=0, control=pathlib.Path("control.json")):
        self.rows = rows
        self.slots, self.level, self.stop = Slots(12 * rows), CTX.Value("d", 0.0), CTX.Value("b", 0)
        self.held = Slots(max(1, eval_rows))
        helpers = [CTX.Process(target=held_out, args=(k, workers, rank * 10 ** 6, folder, self.held), daemon=True) for k in range(workers if eval_rows else 0)]
        self.free, self.ready = CTX.SimpleQueue(), CTX.SimpleQueue()
        for k in range(self.slots.count):
            self.free.put(k)
        self.helpers = helpers
        self.workers = [CTX.Process(target=worker, daemon=True, args=(
            rank * workers + k, ranks * workers, seed, folder, self.slots, self.free, self.ready, self.level, self.stop, control))
            for k in range(workers)]
        for p in helpers + self.workers:
            p.start()

    def close(self):
        self.stop.value = 1
        for p in self.workers:
            p.terminate()


class Feeder:
    """Moves packed rows to the device in a thread. When drawing lags behind, `next` gives an earlier batch again."""

    def __init__(self, source, device, memory=40):
        import torch
        self.torch, self.source, self.device = torch, source, device
        self.past, self.memory, self.fresh, self.again, self.waited = [], memory, 0, 0, 0.0
        self.queue = queue.Queue(2)
        self.cuda = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if self.cuda else None
        self.buffers = [{k: torch.from_numpy(np.empty((source.rows, *shape), kind)) for k, (kind, shape) in FIELDS.items()} for _ in range(3)]
        if self.cuda:
            self.buffers = [{k: v.pin_memory() for k, v in b.items()} for b in self.buffers]
        self.random = random.Random(0)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def load(self, slots, numbers, buffer):
        for j, at in enumerate(numbers):
            for name, array in slots.arrays.items():
                buffer[name][j].numpy()[...] = array[at]

    def send(self, buffer):
        torch = self.torch
        sizes = buffer["size"].sum(0).tolist()
        if not self.cuda:
            return {k: v.clone() for k, v in buffer.items()} | {"sizes": sizes}
        with torch.cuda.stream(self.stream):
            out = {k: v.to(self.device, non_blocking=True) for k, v in buffer.items()}
        self.stream.synchronize()
        return out | {"sizes": sizes}

    def run(self):
        turn = 0
        while not self.source.stop.value:
            numbers = [self.source.ready.get() for _ in range(self.source.rows)]
            buffer = self.buffers[turn % len(self.buffers)]
            self.load(self.source.slots, numbers, buffer)
            for at in numbers:
                self.source.free.put(at)
            self.queue.put(self.send(buffer))
            turn += 1

    def next(self, patience=0.004):
        begun = time.time()
        try:
            batch = self.queue.get(timeout=patience if len(self.past) >= 12 else None)
        except queue.Empty:
            self.again += 1
            self.waited += time.time() - begun
            return self.mine(self.random.choice(self.past))
        self.waited += time.time() - begun
        self.fresh += 1
        self.past.append(batch)
        if len(self.past) > self.memory:
            self.past.pop(self.random.randrange(len(self.past) // 2))
        return self.mine(batch)

    def mine(self, batch):
        """Tells the allocator that the training stream reads the batch, so that dropping it is safe."""
        if self.cuda:
            for v in batch.values():
                if hasattr(v, "record_stream"):
                    v.record_stream(self.torch.cuda.current_stream())
        return batch

    def evaluation(self):
        """The held-out rows as batches."""
        for p in self.source.helpers:
            p.join()
        buffer = {k: self.torch.from_numpy(np.empty((self.source.rows, *shape), kind)) for k, (kind, shape) in FIELDS.items()}
        out = []
        for k in range(0, self.source.held.count - self.source.rows + 1, self.source.rows):
            self.load(self.source.held, range(k, k + self.source.rows), buffer)
            out.append({n: v.to(self.device) if self.cuda else v.clone() for n, v in buffer.items()} | {"sizes": buffer["size"].sum(0).tolist()})
        return out
