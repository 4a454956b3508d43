"""Pixels: backgrounds, text, shapes, and the cut of a picture into tiles as the engine does it.

Text returns where each character's centre lies; the tower is taught with them (train.py), nothing else sees them.
"""
import functools
import math
import pathlib

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .text import COLOURS

cv2.setNumThreads(1)
FONT_DIR = ".vt/fonts"
TILE, PATCH, MAX_TILES = 192, 16, 6   # pixels, pixels, tiles of a picture without its thumbnail
GRID = TILE // PATCH                  # patches along a tile's side
SLOTS = 3                             # characters a patch is asked for
LEVELS = 3                            # what a chart's patch is asked for, see level_labels
quick = False                         # training: four of five pictures are resized by other, faster filters


@functools.lru_cache(None)
def font_files(held):
    files = sorted(str(f) for f in (pathlib.Path(FONT_DIR) / ("held" if held else "train")).iterdir())
    if not files:
        raise FileNotFoundError(f"{FONT_DIR}: no fonts; run python -m training.fonts first")
    return files


@functools.lru_cache(8000)
def font_at(path, size):
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(40000)
def advances(path, size):
    """Advance of each printable ASCII character, pixels."""
    font = font_at(path, size)
    return {chr(c): font.getlength(chr(c)) for c in range(32, 127)}


def pick_font(src):
    return src.choice(font_files(src.held))


def width_of(path, size, text):
    table = advances(path, size)
    return sum(table[c] for c in text)


def luma(c):
    return 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2]


def any_colour(src, lo=0, hi=255):
    return tuple(src.randint(lo, hi) for _ in range(3))


def ink_for(src, paper, least=90):
    """A text colour that stands out on `paper`."""
    if src.coin(0.5):
        dark = any_colour(src, 0, 60)
        light = any_colour(src, 215, 255)
        c = dark if luma(paper) > 128 else light
        if abs(luma(c) - luma(paper)) >= least:
            return c
    for _ in range(40):
        c = any_colour(src)
        if abs(luma(c) - luma(paper)) >= least:
            return c
    return (0, 0, 0) if luma(paper) > 128 else (255, 255, 255)


def paper(src, h, w, plain=0.5):
    """A background [h, w, 3] uint8 and its mean colour."""
    k = src.random()
    base = any_colour(src, 205, 255) if k < 0.6 else (255, 255, 255) if k < 0.72 else any_colour(src, 0, 70) if k < 0.86 else any_colour(src)
    img = np.empty((h, w, 3), np.uint8)
    img[:] = base
    if src.coin(plain):
        return img, base
    kind = src.randrange(4)
    if kind == 0:  # gradient
        other = np.array([min(255, max(0, c + src.randint(-35, 35))) for c in base], np.float32)
        t = np.linspace(0, 1, w if src.coin(0.5) else h, dtype=np.float32)
        t = t[None, :, None] if len(t) == w else t[:, None, None]
        img = (np.array(base, np.float32) * (1 - t) + other * t) * np.ones((h, w, 1), np.float32)
        img = img.astype(np.uint8)
    elif kind == 1:  # grain
        noise = np.empty((h, w), np.int16)
        cv2.randn(noise, 0, src.uniform(2, 12))
        img = np.clip(img.astype(np.int16) + noise[..., None], 0, 255).astype(np.uint8)
    elif kind == 2:  # soft blotches
        small = np.random.default_rng(src.getrandbits(32)).integers(-18, 19, (5, 5, 3)).astype(np.float32)
        img = np.clip(img + cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)
    else:  # ruled paper
        step, c = src.randint(8, 40), tuple(min(255, max(0, v + src.choice([-22, 22]))) for v in base)
        for y in range(src.randint(0, step), h, step):
            img[y:y + 1] = c
    return img, base


class Page:
    """A picture under construction; `chars` collects (x, y, character, advance) of printed text, native pixels."""

    def __init__(self, img):
        self.image = Image.fromarray(img)
        self.pen = ImageDraw.Draw(self.image)
        self.chars = []

    def text(self, x, base, text, font, size, colour):
        """Prints `text` with its left end at x and its baseline at base; returns the width."""
        self.pen.text((x, base), text, font=font_at(font, size), fill=tuple(colour), anchor="ls")
        table, at, mid = advances(font, size), x, base - 0.35 * size
        for c in text:
            step = table[c]
            if c != " ":
                self.chars.append((at + step / 2, mid, c, step))
            at += step
        return at - x

    def array(self):
        return np.asarray(self.image)


def turn(src, img, chars, degrees):
    """Rotates a picture about its centre, edges stretched outwards."""
    h, w = img.shape[:2]
    m = cv2.getRotationMatrix2D((w / 2, h / 2), degrees, 1.0)
    img = cv2.warpAffine(img, m, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return img, [(m[0, 0] * x + m[0, 1] * y + m[0, 2], m[1, 0] * x + m[1, 1] * y + m[1, 2], c, s) for x, y, c, s in chars]


def wear(src, img):
    """What pictures suffer on their way: JPEG, blur, grain."""
    k = src.random()
    if k < 0.12:
        ok, data = cv2.imencode(".jpg", img, [cv2.IMWRITE_JPEG_QUALITY, src.randint(60, 95)])
        return cv2.imdecode(data, cv2.IMREAD_COLOR)
    if k < 0.18:
        return cv2.GaussianBlur(img, (3, 3), src.uniform(0.3, 0.8))
    if k < 0.26:
        noise = np.empty(img.shape[:2], np.int16)
        cv2.randn(noise, 0, src.uniform(1, 9))
        return np.clip(img.astype(np.int16) + noise[..., None], 0, 255).astype(np.uint8)
    return img


# --- shapes ----------------------------------------------------------------------------------------------------

SHAPES = "circle square triangle star diamond hexagon cross heart".split()
PLURAL = {s: s + "s" for s in SHAPES} | {"cross": "crosses"}


@functools.lru_cache(None)
def outline(shape):
    """Corner points in the unit square [-1, 1], y down."""
    def ring(n, turn=0.0, inner=None):
        pts = []
        for i in range(n * (2 if inner else 1)):
            r = 1.0 if not inner or i % 2 == 0 else inner
            t = 2 * math.pi * i / (n * (2 if inner else 1)) + turn
            pts.append((r * math.sin(t), -r * math.cos(t)))
        return np.array(pts)
    if shape == "square":
        return np.array([(-.86, -.86), (.86, -.86), (.86, .86), (-.86, .86)])
    if shape == "triangle":
        return np.array([(0, -.95), (.98, .8), (-.98, .8)])
    if shape == "star":
        return ring(5, inner=0.42)
    if shape == "diamond":
        return np.array([(0, -1), (.68, 0), (0, 1), (-.68, 0)])
    if shape == "hexagon":
        return ring(6, math.pi / 6)
    if shape == "cross":
        t = 0.3
        return np.array([(-t, -1), (t, -1), (t, -t), (1, -t), (1, t), (t, t), (t, 1), (-t, 1), (-t, t), (-1, t), (-1, -t), (-t, -t)])
    if shape == "heart":
        t = np.linspace(0, 2 * math.pi, 40)
        return np.stack([np.sin(t) ** 3, -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16], 1)
    return ring(40)


def colour_like(src, name, spread=14):
    return tuple(int(min(255, max(0, c + src.randint(-spread, spread)))) for c in COLOURS[name])


def put_shape(img, shape, x, y, r, colour, degrees=0.0, edge=None):
    """Fills a shape of radius r at (x, y), with eighth-pixel steps and smooth edges."""
    pts = outline(shape)
    if degrees:
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        pts = pts @ np.array([[c, s], [-s, c]])
    pts = np.round((pts * r + (x, y)) * 8).astype(np.int32)
    cv2.fillPoly(img, [pts], colour, cv2.LINE_AA, 3)
    if edge is not None:
        cv2.polylines(img, [pts], True, edge, 1, cv2.LINE_AA, 3)


def shape_mark(shape, colour, x, y, r):
    """A shape as an entry of `chars`: the codes after the printable ones name shape and colour."""
    return x, y, chr(127 + SHAPES.index(shape) * len(COLOURS) + list(COLOURS).index(colour)), 2 * r


# --- tiles -----------------------------------------------------------------------------------------------------

@functools.lru_cache(4096)
def grid_for(w, h, max_tiles=MAX_TILES, side=TILE):
    """Columns and rows of tiles for a picture: the nearest aspect ratio, a larger grid on ties when the picture fills it."""
    best, best_diff = (1, 1), math.inf
    for n in range(1, max_tiles + 1):
        for i in range(1, n + 1):
            if n % i:
                continue
            j = n // i
            d = abs(w / h - i / j)
            if d < best_diff or (d == best_diff and w * h > 0.5 * side * side * i * j):
                best, best_diff = (i, j), d
    return best


def resize(img, w, h):
    if img.shape[1] == w and img.shape[0] == h:
        return img
    if quick and (img.shape[1] + img.shape[0] + w) % 5:
        wide = w > img.shape[1] and h > img.shape[0]
        return cv2.resize(img, (w, h), interpolation=cv2.INTER_CUBIC if wide else cv2.INTER_AREA)
    return np.asarray(Image.fromarray(img).resize((w, h), Image.BICUBIC))


def cut_tiles(img, max_tiles=MAX_TILES):
    """A picture [h, w, 3] as tiles [n, TILE, TILE, 3], thumbnail last when there are several; and the grid."""
    h, w = img.shape[:2]
    i, j = grid_for(w, h, max_tiles)
    big = resize(img, i * TILE, j * TILE)
    tiles = big.reshape(j, TILE, i, TILE, 3).transpose(0, 2, 1, 3, 4).reshape(i * j, TILE, TILE, 3)
    if i * j > 1:
        tiles = np.concatenate([tiles, resize(img, TILE, TILE)[None]])
    return np.ascontiguousarray(tiles), (i, j)


def patch_labels(chars, w, h, grid):
    """Which characters or shapes have their centre in each patch: [n, GRID*GRID, SLOTS] uint8; 0 none, 255 not to be learnt."""
    i, j = grid
    n = i * j + (i * j > 1)
    out = np.zeros((n, GRID * GRID, SLOTS), np.uint8)
    views = [(i, j, 0)] + ([(1, 1, i * j)] if n > 1 else [])
    for cols, rows, first in views:
        sx, sy = cols * TILE / w, rows * TILE / h
        if chars and np.median([s for *_, s in chars]) * sx < 4.5:  # too small to be read there
            out[first:first + cols * rows] = 255
            continue
        fill = {}
        for x, y, c, _ in sorted(chars, key=lambda t: t[0]):
            px, py = int(x * sx) // PATCH, int(y * sy) // PATCH
            if 0 <= px < cols * GRID and 0 <= py < rows * GRID:
                k = fill.get((px, py), 0)
                if k < SLOTS:
                    tile = first + (py // GRID) * cols + px // GRID
                    out[tile, (py % GRID) * GRID + px % GRID, k] = ord(c) - 31
                    fill[px, py] = k + 1
    return out


def level_labels(marks, edges, w, h, grid):
    """What a chart's patches show, [n, GRID*GRID, LEVELS] uint8, 0 to 250 for 0 to 1, 255 not to be learnt.

    `marks` (x, y, share of the axis, share of the largest) lie at what belongs to a value: its bar's end, its label; they
    fill the view of the whole chart. `edges` (x, y, upright) are ends of bars and ticks: where in its patch each lies."""
    i, j = grid
    n = i * j + (i * j > 1)
    out = np.full((n, GRID * GRID, LEVELS), 255, np.uint8)
    sx, sy = TILE / w, TILE / h
    for x, y, share, top in marks:
        px, py = int(x * sx) // PATCH, int(y * sy) // PATCH
        if 0 <= px < GRID and 0 <= py < GRID:
            out[n - 1, py * GRID + px, :2] = round(250 * share), round(250 * top)
    for cols, rows, first in [(i, j, 0)] + ([(1, 1, i * j)] if n > 1 else []):
        for x, y, upright in edges:
            u, v = x * sx * cols / PATCH, y * sy * rows / PATCH
            px, py = int(u), int(v)
            if 0 <= px < cols * GRID and 0 <= py < rows * GRID:
                out[first + (py // GRID) * cols + px // GRID, (py % GRID) * GRID + px % GRID, 2] = round(250 * ((v if upright else u) % 1))
    return out
