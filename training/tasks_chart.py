"""Bar, line and pie charts: which is largest, what is the value."""
import math

import cv2
import numpy as np

from . import draw, phrases, text
from .sample import Sample, image

ASK_TOP = ["Which is the largest?", "Which one is the largest?", "Which {w} is the largest?", "What has the highest value?",
           "Which {w} has the highest value?", "Where is the maximum?", "Which is the highest?", "~Which {w} is the highest?", "~Which one has the largest value?"] + phrases.ASK_TOP
ASK_LOW = ["Which is the smallest?", "Which {w} is the smallest?", "Which {w} has the lowest value?", "Which is the lowest?", "~Which one is the smallest?"] + phrases.ASK_LOW
ASK_VALUE = ["What is the value of {x}?", "How much is {x}?", "What is the value for {x}?", "Which value does {x} have?", "Read the value of {x}.",
             "How high is {x}?", "~Tell me the value of {x}.", "~What value does {x} have?"] + phrases.ASK_VALUE
ASK_EITHER = ["Which is larger, {x} or {y}?", "Which is higher, {x} or {y}?", "[Is {x} or {y} larger|Which has more, {x} or {y}|Which of {x} and {y} is larger]?"]
ASK_NAMES = ["Name [all |]the {w}s.", "Which {w}s are there?", "List the [labels|names|{w}s].", "Read [all |]the labels."]
ASK_VALUES = ["Read all the values.", "What are the values?", "List [all |]the values.", "[Give|Tell] me [all |]the {w}s and their values.", "What [are|is] the value[s|] of each {w}?"]
ASK_RANK = ["Sort the {w}s from largest to smallest.", "List the {w}s from largest to smallest.", "[Order|Rank] the {w}s by value."]
ASK_AXIS = ["Where does the axis end?", "What is the [largest|highest|last] number on the axis?", "Read the [axis|numbers on the axis]."]
ASK_KIND = ["What kind of chart is this?", "Which kind of chart is it?"] + phrases.ASK_CHART


def labels_for(src, n):
    """n short names for the bars."""
    k = src.randrange(6) if src.held else src.choice([0, 1, 2, 3, 4, 4, 4, 5, 5, 5])
    if k == 0 and n <= 7:
        i = src.randint(0, 7 - n)
        return text.DAYS[i:i + n]
    if k == 1:
        i = src.randint(0, 12 - n)
        return text.MONTHS[i:i + n]
    if k == 2:
        i = src.randint(0, 20)
        return [chr(65 + i % 20 + j) if i < 20 else chr(65 + j) for j in range(n)]
    if k == 3:
        y = src.randint(1990, 2024)
        return [str(y + i) for i in range(n)]
    if src.blank:
        return ["000"] * n
    if not src.held and src.coin(0.75):      # few lists are soon known by heart
        out = set()
        while len(out) < n:
            out.add(text.word(src, 7))
        out = src.sample(sorted(out), n)
        return [w.capitalize() for w in out] if src.coin(0.5) else out
    pool = [w for w in (text.GOODS if k == 4 else text.CITY) if len(w) <= 7 and text.is_held(w) == src.held]
    pool += [w for w in (text.word(src, 6) for _ in range(12))] if len(pool) < n + 3 else []
    out = src.sample(sorted(set(pool)), n)
    return [w.capitalize() for w in out] if src.coin(0.5) else out


def nice_step(top):
    raw = top / 5
    unit = 10 ** math.floor(math.log10(raw))
    return next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw)


def chart(src):
    kind = src.choices(["bar", "across", "line", "pie"], [45, 15, 20, 20])[0]
    n = src.randint(2, 7 if kind != "pie" else 6)
    names = labels_for(src, n)
    scale = src.choice([10, 20, 50, 100, 100, 200, 500, 1000])
    while True:
        values = [src.randint(max(1, scale // 20), scale) for _ in range(n)]
        ranked = sorted(values)
        if ranked[-1] - ranked[-2] >= 0.05 * scale and (n == 1 or ranked[1] - ranked[0] >= 0.02 * scale) and (
                kind != "pie" or ranked[-1] - ranked[-2] >= 0.022 * sum(values)):     # eight degrees
            break
    h = src.choice([src.randint(180, 268), src.randint(275, 420), src.randint(275, 420)])
    w = int(h * src.choice([1, src.uniform(0.9, 1.2), src.uniform(1.25, 1.6), src.uniform(1.25, 1.6)]))
    font, size = draw.pick_font(src), max(11, int(h * src.uniform(0.048, 0.07)))
    white = src.coin(0.6)
    base = (255, 255, 255) if white else draw.any_colour(src, 215, 255) if src.coin(0.7) else draw.any_colour(src, 5, 50)
    ink = (20, 20, 20) if draw.luma(base) > 128 else (235, 235, 235)
    img = np.empty((h, w, 3), np.uint8)
    img[:] = base
    tints = [c for c in text.COLOURS if sum(abs(p - q) for p, q in zip(base, text.COLOURS[c])) > 150]
    tint = [draw.colour_like(src, src.choice(tints), 25)] * n if src.coin(0.5) and kind != "pie" else [
        draw.colour_like(src, c, 20) for c in (src.sample(tints, n) if n <= len(tints) else src.choices(tints, k=n))]
    printed = src.coin(0.45)
    notes = []  # (x, baseline, text, size, whose label), x is the middle
    ends, edges = [None] * n, []
    heading = src.choice(["", "", text.word(src).capitalize()])
    top = size * (2.0 if heading else 0.9) + (size if printed else 0)
    if kind == "pie":
        total, at = sum(values), src.uniform(0, 360)
        r = min(w * 0.5 - 3.2 * size, (h - top) * 0.5 - 1.6 * size)
        legend = src.coin(0.35)
        cx, cy = (r + size if legend else w / 2), top + (h - top) / 2
        if legend:
            r = min(w * 0.3, (h - top) * 0.46)
            cx = r + 0.5 * size
        for i, v in enumerate(values):
            sweep = 360 * v / total
            t = np.radians(np.linspace(at, at + sweep, max(3, int(sweep / 4) + 2)))
            pts = np.concatenate([[(cx, cy)], np.stack([cx + r * np.cos(t), cy + r * np.sin(t)], 1)])
            cv2.fillPoly(img, [np.round(pts * 8).astype(np.int32)], tint[i], cv2.LINE_AA, 3)
            mid = math.radians(at + sweep / 2)
            ends[i] = cx + 0.6 * r * math.cos(mid), cy + 0.6 * r * math.sin(mid)
            if legend:
                y = top + (i + 0.8) * 1.5 * size
                cv2.rectangle(img, (int(cx + r + size), int(y - 0.7 * size)), (int(cx + r + 1.7 * size), int(y)), tint[i], -1)
                wide = draw.width_of(font, size, names[i])
                notes.append((cx + r + 2.1 * size + wide / 2, y, names[i], size, i))
            else:
                wide = draw.width_of(font, size, names[i])
                notes.append((min(w - wide / 2 - 1, max(wide / 2 + 1, cx + (r + 0.9 * size + 0.25 * wide) * math.cos(mid))), cy + (r + 1.0 * size) * math.sin(mid) + 0.35 * size, names[i], size, i))
            if printed and sweep > 25:
                notes.append((cx + 0.62 * r * math.cos(mid), cy + 0.62 * r * math.sin(mid) + 0.35 * size, str(v), size, i))
            at += sweep
    else:
        step = nice_step(max(values))
        ceiling = step * math.ceil(max(values) / step * (1.0 if src.coin(0.6) else 1.1))
        ticks = [int(step * i) for i in range(int(ceiling / step) + 1)] if step >= 1 else [0, int(ceiling)]
        across = kind == "across"
        side = max(draw.width_of(font, size, s) for s in (names if across else [str(t) for t in ticks])) + 0.8 * size
        left, bottom, right = side, h - 1.6 * size, w - max(0.6 * size, 2 + draw.width_of(font, size, str(ticks[-1])) / 2 if across else 0) - (1.5 * size if across and printed else 0)
        rule = tuple(int(0.75 * b + 0.25 * i) for b, i in zip(base, ink))
        lined, mark = src.coin(0.7), max(2, int(0.25 * size))
        for t in ticks:
            f = t / ceiling
            if across:
                x = left + (right - left) * f
                if lined:
                    cv2.line(img, (int(x), int(top)), (int(x), int(bottom)), rule, 1)
                cv2.line(img, (int(x), int(bottom)), (int(x), int(bottom) + mark), ink, 1)
                edges.append((x, bottom, False))
                notes.append((x, bottom + 0.15 * size + size, str(t), size, None))
            else:
                y = bottom - (bottom - top) * f
                if lined:
                    cv2.line(img, (int(left), int(y)), (int(right), int(y)), rule, 1)
                cv2.line(img, (int(left) - mark, int(y)), (int(left), int(y)), ink, 1)
                edges.append((left, y, True))
                notes.append((left - 0.4 * size - draw.width_of(font, size, str(t)) / 2, y + 0.35 * size, str(t), size, None))
        cv2.line(img, (int(left), int(bottom)), (int(right), int(bottom)), ink, 1)
        cv2.line(img, (int(left), int(top)), (int(left), int(bottom)), ink, 1)
        pitch = ((bottom - top) if across else (right - left)) / n
        half = pitch * src.uniform(0.25, 0.45)
        small = size
        if not across:
            widest = max(draw.width_of(font, size, s) for s in names)
            if widest > pitch * 0.95:
                small = max(8, int(size * pitch * 0.95 / widest))
        points = []
        for i, v in enumerate(values):
            mid = (top if across else left) + (i + 0.5) * pitch
            f = v / ceiling
            if across:
                x = left + (right - left) * f
                cv2.rectangle(img, (int(left) + 1, int(mid - half)), (round(x), int(mid + half)), tint[i], -1)
                ends[i] = x, mid
                edges.append((x, mid, False))
                notes.append((left - 0.4 * size - draw.width_of(font, size, names[i]) / 2, mid + 0.35 * size, names[i], size, i))
                if printed:
                    notes.append((x + 0.3 * size + draw.width_of(font, size, str(v)) / 2, mid + 0.35 * size, str(v), size, i))
                continue
            y = bottom - (bottom - top) * f
            points.append((mid, y))
            if kind == "bar":
                cv2.rectangle(img, (int(mid - half), round(y)), (int(mid + half), int(bottom) - 1), tint[i], -1)
            ends[i] = mid, y
            edges.append((mid, y, True))
            notes.append((mid, bottom + 0.3 * size + small * 0.85, names[i], small, i))
            if printed:
                notes.append((mid, y - 0.35 * size, str(v), size, i))
        if kind == "line":
            pts = np.round(np.array(points) * 8).astype(np.int32)
            cv2.polylines(img, [pts], False, tint[0], src.randint(1, 3), cv2.LINE_AA, 3)
            for x, y in points:
                draw.put_shape(img, "circle", x, y, max(2.5, 0.2 * size), tint[0])
    page = draw.Page(img)
    total = sum(values) if kind == "pie" else ceiling
    marks = [(*ends[i], v / total, v / max(values)) for i, v in enumerate(values)]
    for x, y, s, z, i in notes:
        first = len(page.chars)
        page.text(x - draw.width_of(font, z, s) / 2, y, s, font, z, ink)
        if i is not None:
            marks += [(c[0], c[1], *marks[i][2:]) for c in page.chars[first:]]
    if heading:
        page.text((w - draw.width_of(font, size, heading)) / 2, 1.2 * size, heading, font, size, ink)
    noun = {"bar": "bar", "across": "bar", "line": "point", "pie": "slice"}[kind]
    best, low = names[values.index(max(values))], names[values.index(min(values))]
    readable = [i for i in range(n) if kind != "pie" or printed and 360 * values[i] / sum(values) > 25]
    apart = n > 2 and min(b - a for a, b in zip(ranked, ranked[1:])) >= (0.03 * scale if kind != "pie" else 0.02 * sum(values))
    turns, sub = [], []
    asks = ["top", "value"] if readable else ["top"]
    more = [a for a, good in [("top", True), ("top", True), ("low", True), ("value", readable), ("value", readable), ("value", readable), ("either", n > 1), ("either", n > 1),
                              ("names", kind != "pie" or legend), ("values", len(readable) == n), ("values", len(readable) == n), ("rank", apart), ("axis", kind != "pie"), ("kind", True)] if good]
    for ask in ([src.choice(asks)] if src.held else src.choices(more, k=src.randint(2, 5))):
        if ask == "value":
            i = src.choice(readable)
            turn = src.phrase(ASK_VALUE, x=names[i]), str(values[i])
        elif ask == "top":
            turn = src.phrase(ASK_TOP, w=noun), best
        elif ask == "low":
            turn = src.phrase(ASK_LOW, w=noun), low
        elif ask == "either":
            i, k = src.sample(range(n), 2)
            if abs(values[i] - values[k]) < (0.03 * scale if kind != "pie" else 0.02 * sum(values)):
                continue
            turn = src.phrase(ASK_EITHER, x=names[i], y=names[k]), names[i] if values[i] > values[k] else names[k]
        elif ask == "names":
            turn = src.phrase(ASK_NAMES, w=noun), ", ".join(names)
        elif ask == "values":
            turn = src.phrase(ASK_VALUES, w=noun), ", ".join(f"{x} {v}" for x, v in zip(names, values))
        elif ask == "rank":
            turn = src.phrase(ASK_RANK, w=noun), ", ".join(x for _, x in sorted(zip(values, names), reverse=True))
        elif ask == "axis":
            turn = src.phrase(ASK_AXIS), str(ticks[-1])
        else:
            turn = src.phrase(ASK_KIND), f"It is a {'bar' if kind == 'across' else kind} chart."
        turns.append(turn)
        sub.append(ask)
    if not turns:
        turns, sub = [(src.phrase(ASK_TOP, w=noun), best)], ["top"]
    value = sub[-1] == "value"
    return Sample("chart_value" if value else "chart_top", turns, [image(draw.wear(src, page.array()), page.chars, levels=(marks, edges))],
                  check={"kind": "within" if value else "exact", "truth": turns[-1][1], "scale": max(values), "sub": kind + (" printed" if printed else "")})
