"""One training or evaluation sample: a conversation, its media as tiles, and how to score the last answer."""
from dataclasses import dataclass, field

import numpy as np

from . import draw


@dataclass
class Image:
    native: np.ndarray              # [h, w, 3] uint8
    tiles: np.ndarray               # [n, TILE, TILE, 3] uint8
    labels: np.ndarray              # [n, patches, SLOTS] uint8, see draw.patch_labels
    levels: np.ndarray = None       # [n, patches, LEVELS] uint8 of a chart, see draw.level_labels


@dataclass
class Clip:
    native: list                    # F frames [h, w, 3] uint8
    tiles: np.ndarray               # [F, TILE, TILE, 3] uint8
    labels: np.ndarray
    fps: float
    indices: list                   # source frame of each sampled frame
    rate: float = 0.0               # EVS pruning rate

    def times(self):
        ms = int(1000 / self.fps)
        return [i * ms / 1000 for i in self.indices]


@dataclass
class Sample:
    task: str
    turns: list                     # [(question, answer)], the first question carries the media
    media: list = field(default_factory=list)
    system: str = ""
    tools: list = None
    think: bool = False             # the answer then starts with the reasoning, up to </think>
    messages: list = None           # whole history before the last answer, instead of turns, for tool results
    check: dict = field(default_factory=dict)


def image(img, chars=(), max_tiles=draw.MAX_TILES, levels=None):
    tiles, grid = draw.cut_tiles(img, max_tiles)
    h, w = img.shape[:2]
    return Image(img, tiles, draw.patch_labels(list(chars), w, h, grid), draw.level_labels(*levels, w, h, grid) if levels else None)


def clip(frames, fps, indices, rate=0.0, chars=None):
    tiles = np.stack([draw.resize(f, draw.TILE, draw.TILE) for f in frames])
    h, w = frames[0].shape[:2]
    labels = np.concatenate([draw.patch_labels(c, w, h, (1, 1)) for c in chars]) if chars else \
        np.full((len(frames), draw.GRID ** 2, draw.SLOTS), 255, np.uint8)
    return Clip(frames, tiles, labels, fps, indices, rate)
