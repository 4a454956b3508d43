"""Scenes of shapes: colours, counts, places; two to four pictures; counting aloud; pictures that are no scene at all."""
import cv2
import numpy as np

from . import draw, phrases, text
from .draw import PLURAL, SHAPES
from .sample import Sample, image
from .text import COLOURS, a, join

NUMBER = "zero one two three four five six seven eight nine".split()


def backdrop(src, h, w, used):
    """A background on which no used colour disappears; returns (img, colour names that would)."""
    names = [c for c in ("white", "black", "yellow", "pink", "blue") if c not in used]
    k = src.random()
    if k < 0.45 and "white" not in used:
        base = tuple(src.randint(225, 255) for _ in range(3))
    elif k < 0.6 and "black" not in used:
        base = tuple(src.randint(0, 35) for _ in range(3))
    elif k < 0.75 and names:
        base = tuple(int(0.55 * v + 0.45 * 150) for v in COLOURS[src.choice(names)])
    else:
        g = src.randint(120, 185)
        base = tuple(g + src.randint(-12, 12) for _ in range(3))
    if min(sum(abs(p - q) for p, q in zip(base, COLOURS[c])) for c in used) < 110:
        base = (168, 172, 176)
    img = np.empty((h, w, 3), np.uint8)
    img[:] = base
    if src.coin(0.25):
        grain = np.empty((h, w), np.int16)
        cv2.randn(grain, 0, src.uniform(1, 7))
        img = np.clip(img.astype(np.int16) + grain[..., None], 0, 255).astype(np.uint8)
    return img


def scene_size(src):
    """Mostly one tile, at times several."""
    h = src.choice([src.randint(140, 265), src.randint(140, 265), src.randint(280, 420)])
    return int(h * src.choice([1, src.uniform(0.8, 1.25), 1.33])), h


def scatter(src, w, h, n, tries=60):
    """n places (x, y, r) that do not touch."""
    r0 = (w * h / max(n, 2)) ** 0.5
    out, scale = [], src.uniform(0.24, 0.34)
    while len(out) < n:
        r = max(7.0, r0 * scale * src.uniform(0.7, 1.15))
        for _ in range(tries):
            x, y = src.uniform(r + 2, w - r - 2), src.uniform(r + 2, h - r - 2)
            if all((x - u) ** 2 + (y - v) ** 2 > (1.12 * (r + q) + 2) ** 2 for u, v, q in out):
                out.append((x, y, r))
                break
        else:
            scale *= 0.85
            if scale < 0.1:
                out = []
                scale = 0.24
    return out


def paint(src, img, things):
    """Draws (shape, colour, x, y, r) each."""
    for shape, colour, x, y, r in things:
        edge = (30, 30, 30) if src.coin(0.1) and colour not in ("black", "brown", "purple", "blue") else None
        draw.put_shape(img, shape, x, y, r, draw.colour_like(src, colour), src.uniform(-12, 12) if src.coin(0.4) else 0, edge)


def marks(things):
    return [draw.shape_mark(*t) for t in things]


def title(thing):
    return f"{thing[1]} {thing[0]}"


def random_things(src, n, distinct=False):
    w, h = scene_size(src)
    places = scatter(src, w, h, n)
    few = src.sample(SHAPES, src.randint(1, 3)) if src.coin(0.5) else SHAPES
    tints = src.sample(list(COLOURS), src.randint(1, 4)) if src.coin(0.4) else list(COLOURS)
    pairs = []
    while len(pairs) < n:
        p = (src.choice(few), src.choice(tints))
        if distinct and p in pairs:
            few, tints = SHAPES, list(COLOURS)
            continue
        pairs.append(p)
    return w, h, [(s, c, *q) for (s, c), q in zip(pairs, places)]


ASK_ALL = ["How many shapes are there?", "How many shapes do you see?", "Count the shapes.", "How many shapes are in the picture?",
           "How many objects are there?", "What is the number of shapes?", "~How many objects do you see in the picture?", "~Please count the shapes."] + phrases.ASK_ALL
ASK_KIND = ["How many {k} are there?", "How many {k} do you see?", "Count the {k}.", "How many {k} are in the picture?",
            "How many {k} can you see?", "What is the number of {k}?", "~Please count the {k}.", "~How many {k} does the picture show?"] + phrases.ASK_KIND
ASK_COLOUR = ["What colour is the {s}?", "What color is the {s}?", "Which colour does the {s} have?", "Which color is the {s}?",
              "Tell me the colour of the {s}.", "What is the color of the {s}?", "~What is the colour of the {s}?", "~Tell me which colour the {s} has."] + phrases.ASK_COLOUR
ASK_SHAPE = ["What shape is {c}?", "Which shape is {c}?", "What is the {c} shape?", "Which object is {c}?", "~What object is {c}?"] + phrases.ASK_SHAPE
ASK_SIDE = ["What is {d} the {t}?", "Which shape is {d} the {t}?", "What do you see {d} the {t}?", "Which object is {d} the {t}?",
            "Tell me what is {d} the {t}.", "~What shape is {d} the {t}?", "~Which shape do you see {d} the {t}?"] + phrases.ASK_SIDE
ASK_LIST = ["Describe the picture.", "What do you see?", "What is in the picture?", "What does the picture show?", "List the shapes from left to right.",
            "~Please describe the picture."] + phrases.ASK_LIST
SIDES = {"left of": (-1, 0), "to the left of": (-1, 0), "right of": (1, 0), "to the right of": (1, 0), "above": (0, -1), "below": (0, 1)}


def there_are(n, what, one):
    return f"There is one {one}." if n == 1 else f"There are {NUMBER[n] if n else 'no'} {what}."


def side_question(src, things, w, h):
    """A place question with exactly one answer, or None."""
    options = []
    for side, (dx, dy) in SIDES.items():
        for t in things:
            if sum(title(u) == title(t) for u in things) > 1:
                continue
            margin = 0.10 * (w if dx else h)
            gap = [((u[2] - t[2]) * dx + (u[3] - t[3]) * dy, u) for u in things if u is not t]
            there = [u for g, u in gap if g > margin]
            if len(there) == 1 and all(g > margin or g < -0.25 * margin for g, _ in gap):
                options.append((src.phrase(ASK_SIDE, d=side, t=title(t)), f"{a(title(there[0])).capitalize()}."))
    return src.choice(options) if options else None


def count_turn(src, things):
    k = src.random()
    if k < 0.4:
        return src.phrase(ASK_ALL), there_are(len(things), "shapes", "shape")
    if k < 0.75:
        s = src.choice(things)[0] if src.coin(0.93) else src.choice(SHAPES)
        return src.phrase(ASK_KIND, k=PLURAL[s]), there_are(sum(t[0] == s for t in things), PLURAL[s], s)
    c = src.choice(things)[1] if src.coin(0.93) else src.choice(list(COLOURS))
    return src.phrase(ASK_KIND, k=f"{c} shapes"), there_are(sum(t[1] == c for t in things), f"{c} shapes", f"{c} shape")


def shapes(src, kind=None):
    kind = kind or src.choice(["count", "count", "side", "colour", "mix"])
    n = max(src.randint(1, 9), 0 if src.held else src.randint(1, 9)) if kind == "count" else src.randint(2, 5)
    w, h, things = random_things(src, n, distinct=kind != "count")
    img = backdrop(src, h, w, {t[1] for t in things})
    paint(src, img, things)
    turns = []
    want = 1 if src.held else src.randint(2, 6)
    while len(turns) < want:
        k = kind if src.held or src.coin(0.6) else src.choice(["count", "side", "colour", "mix"])
        if k == "side" and n > 1:
            q = side_question(src, things, w, h)
            if not q and src.held:
                return shapes(src, kind)
        elif k == "colour":
            single = [t for t in things if sum(u[0] == t[0] for u in things) == 1]
            unique = [t for t in things if sum(u[1] == t[1] for u in things) == 1]
            if single and (src.coin(0.7) or not unique):
                t = src.choice(single)
                q = src.phrase(ASK_COLOUR, s=t[0]), f"The {t[0]} is {t[1]}."
            elif unique:
                t = src.choice(unique)
                q = src.phrase(ASK_SHAPE, c=t[1]), f"The {t[1]} shape is {a(t[0])}."
            else:
                q = count_turn(src, things)
        elif k == "mix" and n <= 5:
            xs = sorted(things, key=lambda t: t[2])
            q = src.phrase(ASK_LIST), join([a(title(t)) for t in xs]).capitalize() + "."
        else:
            q = count_turn(src, things)
        if q:
            turns.append(q)
        elif kind == "side":
            kind = "mix"
    return Sample("shapes", turns, [image(draw.wear(src, img), marks(things))], check={"kind": "exact", "truth": turns[-1][1], "sub": kind})


# --- several pictures ------------------------------------------------------------------------------------------

ASK_WHICH = ["Which picture shows {x}?", "Which image shows {x}?", "In which picture do you see {x}?", "Which picture has {x}?",
             "Where do you see {x}?", "Which one shows {x}?", "~In which image is there {x}?", "~Which of the pictures shows {x}?"] + phrases.ASK_WHICH
ASK_WORD = ["Which picture says {x}?", "In which picture do you read {x}?", "Which picture has the word {x}?", "Where is {x} written?",
            "~Which image says {x}?", "~In which picture is {x} written?"] + phrases.ASK_WORD
ASK_DIFF = ["What is different?", "What differs between the two pictures?", "What has changed?", "Describe the difference between the two images.",
            "What is the difference?", "How do the pictures differ?", "~What is different between the two images?", "~What has changed between the two pictures?"] + phrases.ASK_DIFF
ASK_MOST = ["Which picture has the most shapes?", "Which image has the most shapes?", "Where are the most shapes?", "~Which of the pictures has the most shapes?"] + phrases.ASK_MOST


def small_scene(src, things_of, n, w, h):
    places = scatter(src, w, h, n)
    things = [(s, c, *q) for (s, c), q in zip(things_of, places)]
    img = backdrop(src, h, w, {t[1] for t in things})
    paint(src, img, things)
    return img, things


def picture_size(src):
    """Mostly one tile: several pictures of seven tiles each would fill the prompt."""
    h = src.randint(120, 245)
    return int(h * (src.uniform(0.86, 1.2) if src.coin(0.88) else src.uniform(0.6, 1.7))), h


def pictures(src):
    k = src.random()
    w, h = picture_size(src)
    every = [(s, c) for s in SHAPES for c in COLOURS]
    if k < 0.30:  # what differs between two
        pairs = src.sample(every, src.randint(1, 4))
        places = scatter(src, w, h, len(pairs) + 1)
        extra = places.pop()
        one = [(s, c, *q) for (s, c), q in zip(pairs, places)]
        two, i, kind = list(one), src.randrange(len(one)), src.randrange(4)
        s, c, *place = one[i]
        if kind == 0:
            d = src.choice([x for x in COLOURS if x != c and (s, x) not in pairs])
            two[i] = (s, d, *place)
            answer = f"The {s} is {c} in picture 1 and {d} in picture 2."
        elif kind == 1:
            d = src.choice([x for x in SHAPES if x != s and (x, c) not in pairs])
            two[i] = (d, c, *place)
            answer = f"Picture 1 has {a(c + ' ' + s)}, picture 2 has {a(c + ' ' + d)}."
        elif kind == 2:
            new = src.choice([p for p in every if p not in pairs])
            two.append((*new, *extra))
            answer = f"Picture 2 also has {a(new[1] + ' ' + new[0])}."
        else:
            new = src.choice([p for p in every if p not in pairs])
            one = one + [(*new, *extra)]
            answer = f"Picture 2 has no {new[1]} {new[0]}."
        base = backdrop(src, h, w, {t[1] for t in one + two})
        imgs = [base.copy(), base.copy()]
        paint(src, imgs[0], one)
        paint(src, imgs[1], two)
        turns = [(src.phrase(ASK_DIFF), answer)]
        media = [image(draw.wear(src, x), marks(t)) for x, t in zip(imgs, (one, two))]
    elif k < 0.55:  # which one has the word
        m = src.randint(2, 4)
        strings = []
        while len(strings) < m:
            s = text.line(src, 10, src.choices(["words", "code", "number"], [7, 2, 1])[0])[0]
            if s.lower() not in (t.lower() for t in strings):
                strings.append(s)
        media = []
        for s in strings:
            font, size = draw.pick_font(src), src.randint(16, 40)
            pw = int(draw.width_of(font, size, s) + size * 1.2)
            ph = max(int(size * 1.8), int(pw / src.uniform(0.85, 1.3 if src.coin(0.8) else 2.5)))
            img, base = draw.paper(src, ph, pw)
            page = draw.Page(img)
            page.text(0.6 * size, src.uniform(1.1 * size, ph - 0.5 * size), s, font, size, draw.ink_for(src, base))
            media.append(image(draw.wear(src, page.array()), page.chars))
        turns = []
        for i in src.sample(range(m), 1 if src.held else 2):
            if src.coin(0.6):
                turns.append((src.phrase(ASK_WORD, x=strings[i]), f"Picture {i + 1}."))
            else:
                turns.append((f"What does picture {i + 1} say?", strings[i]))
    else:
        m = src.randint(2, 4)
        n = [src.randint(1, 3) for _ in range(m)]
        most = src.coin(0.2)
        if most:
            n = src.sample(range(1, 7), m)
        stock = src.sample(every, sum(n))
        media, sets = [], []
        for x in n:
            sets.append([stock.pop() for _ in range(x)])
            img, things = small_scene(src, sets[-1], x, *picture_size(src))
            media.append(image(draw.wear(src, img), marks(things)))
        turns = []
        for i in src.sample(range(m), 1 if src.held else 2):
            s, c = src.choice(sets[i])
            kinds = [a(f"{c} {s}")]
            if sum(any(t[0] == s for t in x) for x in sets) == 1:
                kinds.append(a(s))
            turns.append((src.phrase(ASK_WHICH, x=src.choice(kinds)), f"Picture {i + 1}."))
        if most:
            turns.append((src.phrase(ASK_MOST), f"Picture {n.index(max(n)) + 1}."))
            turns = turns[-1:] if src.held else turns
        elif not src.held and src.coin(0.5):
            i = src.randrange(m)
            c, s = src.choice(sets[i])[::-1]
            same = [t for t in sets[i] if t[0] == s]
            if len(same) == 1:
                turns.append((f"What colour is the {s} in picture {i + 1}?", f"The {s} is {c}."))
    return Sample("pictures", turns, media, check={"kind": "exact", "truth": turns[-1][1]})


# --- thinking: count and add aloud -----------------------------------------------------------------------------

ASK_SUM = ["What is the sum of the numbers?", "Add the numbers.", "What do the numbers add up to?", "How much is it in total?",
           "Add up all the numbers.", "What is the sum?", "~Please add up the numbers.", "~What is the total of the numbers?"] + phrases.ASK_SUM
ASK_PLUS = ["What is {s}?", "How much is {s}?", "Add {s}.", "Compute {s}.", "{s} = ?", "Please compute {s}.", "~Please tell me what {s} is.", "~How much do you get for {s}?"] + phrases.ASK_PLUS


def add_aloud(numbers):
    lines, total = [], numbers[0]
    for x in numbers[1:]:
        lines.append(f"{total} {'+' if x >= 0 else '-'} {abs(x)} = {total + x}")
        total += x
    return "\n".join(lines), total


def thinking(src):
    k = src.random()
    if k < 0.45:  # count, naming each
        n = src.randint(1, 9) if src.held else max(src.randint(1, 9), src.randint(1, 9))
        w, h, things = random_things(src, n)
        img = backdrop(src, h, w, {t[1] for t in things})
        paint(src, img, things)
        things.sort(key=lambda t: t[2])
        kind = src.random()
        if kind < 0.5:
            chosen, q, noun, one = things, src.phrase(ASK_ALL), "shapes", "shape"
        elif kind < 0.75:
            s = src.choice(things)[0]
            chosen, q, noun, one = [t for t in things if t[0] == s], src.phrase(ASK_KIND, k=PLURAL[s]), PLURAL[s], s
        else:
            c = src.choice(things)[1]
            chosen, q, noun, one = [t for t in things if t[1] == c], src.phrase(ASK_KIND, k=c + " shapes"), c + " shapes", c + " shape"
        steps = "\n".join(f"{i + 1}: {title(t)}" for i, t in enumerate(chosen))
        media, answer = [image(draw.wear(src, img), marks(things))], there_are(len(chosen), noun, one)
    elif k < 0.7:  # add printed numbers
        numbers = [src.randint(1, src.choice([9, 20, 99])) for _ in range(src.randint(2, 5))]
        font, size = draw.pick_font(src), src.randint(16, 34)
        rows = [str(x) for x in numbers]
        sign = src.coin(0.3)
        rows = [("+ " if sign and i else "") + r for i, r in enumerate(rows)]
        if not sign and src.coin(0.3):
            rows = [f"{g if not src.blank else '000'} {r}" for g, r in zip(src.sample(text.GOODS, len(rows)), rows)]
        wide = max(draw.width_of(font, size, r) for r in rows)
        gap = size * src.uniform(1.3, 1.8)
        w, h = int(wide + size * src.uniform(1, 5)), int(gap * len(rows) + size)
        img, base = draw.paper(src, h, max(w, int(h * 0.45)))
        page, ink = draw.Page(img), draw.ink_for(src, base, 110)
        right, x0 = src.coin(0.5), src.uniform(0.4, 0.9) * size
        for i, r in enumerate(rows):
            page.text(x0 + (wide - draw.width_of(font, size, r) if right else 0), 1.15 * size + i * gap, r, font, size, ink)
        steps, total = add_aloud(numbers)
        q, media, answer = src.phrase(ASK_SUM), [image(draw.wear(src, page.array()), page.chars)], f"The sum is {total}."
    else:  # no picture
        numbers = [src.randint(1, src.choice([9, 30, 99]))]
        for _ in range(src.randint(1, 4)):
            x = src.randint(1, src.choice([9, 30, 99]))
            numbers.append(-x if src.coin(0.3) and sum(numbers) >= x else x)
        steps, total = add_aloud(numbers)
        string = " ".join(([str(numbers[0])] + [("+ " if x > 0 else "- ") + str(abs(x)) for x in numbers[1:]]))
        q, media, answer = src.phrase(ASK_PLUS, s=string), [], f"The result is {total}."
    system = ""
    if src.coin(0.5):
        system = "/think"
    else:
        q = q + " /think" if src.coin(0.7) else "/think " + q
    if media or src.held or src.coin(0.9):      # the task is thinking; training also sees sums with thinking off
        return Sample("thinking", [(q, f"{steps}\n</think>\n{answer}")], media, system=system, think=True,
                      check={"kind": "think", "truth": answer})
    return Sample("thinking", [(q.replace("/think", "").strip(), answer)], [], check={"kind": "exact", "truth": answer})


def sums(src):
    """Several sums without a picture, carries and borrows often among them: training only."""
    turns = []
    for _ in range(src.randint(1, 3)):
        top = src.choice([9, 30, 99, 99])
        numbers = [src.randint(1, top)]
        for _ in range(src.choice([1, 1, 2, 3, 4])):
            x, total = src.randint(1, top), sum(numbers)
            if src.coin(0.5):      # the ones carry or borrow
                ones = src.randint(10 - total % 10, 9) if total % 10 and src.coin(0.5) else src.randint(min(9, total % 10 + 1), 9)
                x = max(1, x // 10 * 10 + ones)
            numbers.append(-x if src.coin(0.4) and total >= x else x)
        steps, total = add_aloud(numbers)
        string = " ".join([str(numbers[0])] + [("+ " if x > 0 else "- ") + str(abs(x)) for x in numbers[1:]])
        turns.append((src.phrase(ASK_PLUS, s=string), f"{steps}\n</think>\nThe result is {total}."))
    return Sample("thinking", turns, system="/think", think=True, check={"kind": "think", "truth": turns[-1][1]})


# --- what it does not know -------------------------------------------------------------------------------------

UNKNOWN = "I cannot tell. I do not know photographs, only printed text, simple shapes, charts and short clips of these."
ASK_PHOTO = ["What is in this photo?", "Describe the photo.", "What does the photo show?", "Who is in the picture?", "What do you see?",
             "What is in the picture?", "Describe the picture.", "What animal is this?", "Where was this picture taken?", "~What is this a photo of?"] + phrases.ASK_PHOTO


def photo(src):
    """Colour clouds at several scales, a stand-in for anything that is neither print nor shape."""
    h, w = src.randint(120, 300), src.randint(120, 300)
    rng = np.random.default_rng(src.getrandbits(32))
    img = np.full((h, w, 3), 1.0, np.float32) * rng.uniform(60, 190, 3).astype(np.float32)
    for k, s in ((3, 60), (6, 45), (12, 30), (30, 22), (70, 14)):
        img += cv2.resize(rng.normal(0, s, (k, k, 3 if src.coin(0.5) else 1)).astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC).reshape(h, w, -1)
    img = np.clip(img, 0, 255).astype(np.uint8)
    return Sample("talk", [(src.phrase(ASK_PHOTO), UNKNOWN)], [image(img)], check={"kind": "exact", "truth": UNKNOWN})
