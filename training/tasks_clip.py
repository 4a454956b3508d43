"""Short clips: which way it moves, what comes after what, how often it blinks, which words appear and when.

Only the frames that the engine would sample are drawn: every frame of a short file, else evenly spread ones.
"""
import cv2
import numpy as np

from . import draw, phrases, text
from .sample import Sample, clip
from .tasks_scene import NUMBER, backdrop
from .text import COLOURS, a, join

ASK_MOVE = ["Which way does the {t} move?", "In which direction does the {t} move?", "Where does the {t} go?", "Which way does it move?",
            "In which direction does it move?", "How does the {t} move?", "Which direction does the {t} go?", "~Which way is the {t} moving?", "~In which direction does the {t} go?"] + phrases.ASK_MOVE
ASK_AFTER = ["What comes after the {t}?", "What follows the {t}?", "Which shape comes after the {t}?", "What appears after the {t}?", "What is shown after the {t}?",
             "~What do you see after the {t}?", "~Which shape follows the {t}?"] + phrases.ASK_AFTER
ASK_FIRST = ["What comes first?", "What is shown first?", "Which shape comes first?", "What appears first?", "~What do you see first?"] + phrases.ASK_FIRST
ASK_LAST = ["What comes last?", "What is shown last?", "Which shape comes last?", "What appears last?", "~What do you see last?"] + phrases.ASK_LAST
ASK_ORDER = ["In which order do the shapes appear?", "What happens in the clip?", "Describe the video.", "What appears in the video?", "~Please describe the video."] + phrases.ASK_ORDER
ASK_BLINK = ["How often does the {t} blink?", "How many times does the {t} blink?", "How often does it blink?", "How many times does it blink?",
             "Count how often the {t} blinks.", "~How often do you see the {t} blink?", "~Count the blinks of the {t}."] + phrases.ASK_BLINK
ASK_WORDS = ["Which words appear, and when?", "Which words appear and at what second?", "What words appear and when?", "Read the words and say when they appear.",
             "Which words are shown, and at what time?", "~Which words do you see, and when?", "~Say which words appear and at what second."] + phrases.ASK_WORDS
ASK_WHEN = ["When does {x} appear?", "At what second does {x} appear?", "When do you see {x}?", "At what time does {x} appear?", "When is {x} shown?",
            "~At what second is {x} shown?", "~When can you see {x}?"] + phrases.ASK_WHEN
ASK_READ = ["What does the video say?", "Which words appear?", "Read the words.", "Which words are shown?", "~Which words do you see?"] + phrases.ASK_VIDEO
WAYS = {"to the left": (-1, 0), "to the right": (1, 0), "up": (0, -1), "down": (0, 1)}


def sampled(src, seconds, least):
    """Rate, frame indices and their drawing times for a clip of about `seconds`, with at least `least` frames."""
    fps = src.choice([4, 5, 8, 10, 12, 15, 24, 25, 29.97, 30])
    total = max(least, int(seconds * fps))
    n = src.choices([32, 16, 8, int(seconds * 2), int(seconds), src.randint(4, 24)], [22, 22, 18, 16, 4, 18])[0]
    n = max(least, min(n, total, 32))
    indices = list(range(total)) if n == total else [int(i) for i in np.linspace(0, total - 1, n)]
    return fps, indices, total


def finish(src, task, turns, frames, fps, indices, chars=None, sub=""):
    rate = 0.0 if src.held else src.choice([0.0, 0.0, 0.5, 0.75, 0.75])
    if src.coin(0.25 * (not src.held) + 0.15):  # sensor grain, different in every frame
        sigma, out = src.uniform(1, 5), []
        for f in frames:
            grain = np.empty(f.shape[:2], np.int16)
            cv2.randn(grain, 0, sigma)
            out.append(np.clip(f.astype(np.int16) + grain[..., None], 0, 255).astype(np.uint8))
        frames = out
    media = clip(frames, fps, indices, rate, chars)
    return Sample(task, turns, [media], check={"kind": "exact", "truth": turns[-1][1], "sub": sub})


def stage(src, things):
    h = src.randint(120, 240)
    w = int(h * src.choice([1, 1, 1.33, 1.78]))
    return backdrop(src, h, w, {c for _, c in things}), w, h


def some_things(src, n):
    every = [(s, c) for s in draw.SHAPES for c in COLOURS]
    return src.sample(every, n)


def look(t):
    return f"{t[1]} {t[0]}"


def show(img, thing, x, y, r, tint):
    out = img.copy()
    draw.put_shape(out, thing[0], x, y, r, tint)
    return out


def move(src):
    things = some_things(src, src.choice([1, 1, 2]))
    base, w, h = stage(src, things)
    fps, indices, total = sampled(src, src.uniform(1, 8), 3)
    way = src.choice(list(WAYS))
    dx, dy = WAYS[way]
    r = min(w, h) * src.uniform(0.08, 0.2)
    tint, aside = draw.colour_like(src, things[0][1]), []
    if len(things) > 1:  # a bystander in a corner
        q = min(w, h) * 0.09
        x = src.choice([q + 3, w - q - 3]) if dy else src.uniform(q + 3, w - q - 3)
        y = src.choice([q + 3, h - q - 3])
        draw.put_shape(base, things[1][0], x, y, q, draw.colour_like(src, things[1][1]))
        aside = [draw.shape_mark(*things[1], x, y, q)]
    span = (w if dx else h) - 2 * r - 2
    reach = span * src.uniform(0.4, 1.0)
    begin = r + 1 + (span - reach) * src.random()
    drift = src.uniform(-0.12, 0.12) * reach
    cross = src.uniform(r + 1 + abs(drift), max(r + 2 + abs(drift), (h if dx else w) - r - 1 - abs(drift)))
    frames, chars = [], []
    for i in indices:
        f = i / max(1, total - 1)
        along = begin + reach * (f if dx + dy > 0 else 1 - f)
        across = cross + drift * f
        spot = (along, across) if dx else (across, along)
        frames.append(show(base, things[0], *spot, r, tint))
        chars.append([draw.shape_mark(*things[0], *spot, r)] + aside)
    turns = [(src.phrase(ASK_MOVE, t=src.choice([look(things[0]), things[0][0]]) if len(things) < 2 or things[0][0] != things[1][0] else look(things[0])),
              f"The {things[0][0]} moves {way}.")]
    if len(things) > 1 and "{" not in turns[0][0] and " it " in turns[0][0]:
        pass  # "it" is the one that moves
    return finish(src, "clip_move", turns, frames, fps, indices, chars, sub="move")


def order(src):
    n = src.randint(2, 4)
    things = some_things(src, n)
    base, w, h = stage(src, things)
    fps, indices, total = sampled(src, src.uniform(0.7, 2.5) * n, 2 * n)
    r = min(w, h) * src.uniform(0.15, 0.35)
    stay = src.coin(0.5)
    spots = [(w / 2, h / 2)] * n if stay else [(src.uniform(r, w - r), src.uniform(r, h - r)) for _ in things]
    tints = [draw.colour_like(src, t[1]) for t in things]
    frames, chars = [], []
    for i in indices:
        k = min(n - 1, int(i * n / total))
        frames.append(show(base, things[k], *spots[k], r, tints[k]))
        chars.append([draw.shape_mark(*things[k], *spots[k], r)])
    seen = [min(n - 1, int(i * n / total)) for i in indices]
    names = [f"{a(look(t))}".capitalize() + "." for t in things]
    turns = []
    for _ in range(1 if src.held else src.randint(2, 4)):
        k = src.random()
        if k < 0.5:
            i = src.randrange(n - 1)
            turns.append((src.phrase(ASK_AFTER, t=look(things[i])), names[i + 1]))
        elif k < 0.65:
            turns.append((src.phrase(ASK_FIRST), names[0]))
        elif k < 0.8:
            turns.append((src.phrase(ASK_LAST), names[-1]))
        else:
            turns.append((src.phrase(ASK_ORDER), ", then ".join(a(look(t)) for t in things).capitalize() + "."))
    assert len(set(seen)) == n
    return finish(src, "clip_order", turns, frames, fps, indices, chars, sub="order")


def blink(src):
    n = src.randint(1, 6)
    things = some_things(src, 1)
    base, w, h = stage(src, things)
    r = min(w, h) * src.uniform(0.12, 0.35)
    x, y = src.uniform(r, w - r), src.uniform(r, h - r)
    tint = draw.colour_like(src, things[0][1])
    fps, indices, total = sampled(src, src.uniform(0.5, 1.2) * n + 1, max(5, int(2.5 * n) + 3))
    m = len(indices)
    # A blink is the shape showing up and going away; each state holds for one sampled frame at least.
    while True:
        cuts = sorted(src.sample(range(1, m), 2 * n)) if m - 1 >= 2 * n else None
        if cuts:
            break
        n -= 1
    lit = np.zeros(m, bool)
    for i, j in zip(cuts[::2], cuts[1::2]):
        lit[i:j] = True
    on = show(base, things[0], x, y, r, tint)
    frames = [on if v else base for v in lit]
    chars = [[draw.shape_mark(*things[0], x, y, r)] if v else [] for v in lit]
    times = "once" if n == 1 else "twice" if n == 2 else f"{NUMBER[n]} times"
    return finish(src, "clip_blink", [(src.phrase(ASK_BLINK, t=things[0][0]), f"It blinks {times}.")], frames, fps, indices, chars, sub="blink")


def words(src):
    n = src.randint(1, 4)
    strings = []
    while len(strings) < n:
        s = text.words(src, 9, 1)
        if s.lower() not in (t.lower() for t in strings):
            strings.append(s)
    font = draw.pick_font(src)
    h = src.randint(130, 240)
    w = int(h * src.choice([1, 1, 1.33, 1.78]))
    wide = max(draw.width_of(font, 100, s) for s in strings) / 100
    size = max(14, int(min(w * src.uniform(0.6, 0.92) / wide, h * 0.35)))
    w = max(w, int(wide * size + 8))
    img, base = draw.paper(src, h, w, plain=0.8)
    ink = draw.ink_for(src, base, 110)
    fps, indices, total = sampled(src, src.uniform(1.0, 3.0) * n + 0.5, 2 * n + 1)
    m = len(indices)
    starts = [0] + sorted(src.sample(range(1, m), n)) if src.coin(0.6) else sorted(src.sample(range(m), n))
    if len(starts) > n:  # an empty beginning
        starts = starts[1:]
    gaps = src.coin(0.4)
    pages, when = [None] * m, []
    ms = int(1000 / fps)
    for k, s in enumerate(strings):
        page = draw.Page(img)
        page.text(src.uniform(2, max(3, w - draw.width_of(font, size, s) - 4)), src.uniform(1.1 * size, h - 0.4 * size), s, font, size, ink)
        end = starts[k + 1] if k + 1 < n else m
        if gaps:
            end = src.randint(starts[k] + 1, end)
        for i in range(starts[k], end):
            pages[i] = page
        when.append(indices[starts[k]] * ms / 1000)
    frames = [p.array() if p else img for p in pages]
    chars = [p.chars if p else [] for p in pages]
    turns = []
    for _ in range(1 if src.held else src.randint(1, 4)):
        k = src.random()
        if k < 0.45:
            turns.append((src.phrase(ASK_WORDS), join([f"{s} at {t:.2f} seconds" for s, t in zip(strings, when)]) + "."))
        elif k < 0.8:
            i = src.randrange(n)
            turns.append((src.phrase(ASK_WHEN, x=strings[i]), f"At {when[i]:.2f} seconds."))
        else:
            turns.append((src.phrase(ASK_READ), ", ".join(strings)))
    out = finish(src, "clip_words", turns, frames, fps, indices, chars, sub="words")
    out.check["kind"] = "times"
    return out


def clips(src):
    return src.choices([move, order, blink, words], [17, 20, 25, 38])[0](src)
