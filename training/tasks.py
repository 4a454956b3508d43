"""The mixture: which task comes how often, and how that shifts while training goes on."""
import cv2

from . import tasks_chart, tasks_clip, tasks_read, tasks_scene, tasks_talk
from .text import Src

# task -> (share at the start, share at the end)
MIX = {
    tasks_read.read_line: (40, 9), tasks_read.read_page: (12, 15), tasks_read.form: (5, 10), tasks_read.receipt_task: (4, 4),
    tasks_scene.shapes: (11, 13), tasks_chart.chart: (5, 33), tasks_scene.pictures: (5, 4), tasks_clip.clips: (6, 12),
    tasks_scene.thinking: (5, 7), tasks_scene.sums: (5, 4), tasks_talk.tools: (4, 9), tasks_talk.talk: (3, 3), tasks_scene.photo: (0.3, 0.3),
}
MAKERS, SHARES = list(MIX), list(MIX.values())


def draw_sample(seed, level=1.0, held=False, maker=None, blank=False, mix=None):
    """One sample; the same arguments always give the same one."""
    src = Src(seed, held=held, level=level, blank=blank)
    cv2.setRNGSeed(seed & 0x7FFFFFFF)
    ramp = min(1.0, level)
    maker = maker or src.choices(MAKERS, mix or [p + (q - p) * ramp for p, q in SHARES])[0]
    return maker(src)


EVALUATION = {
    "read_line": lambda s: tasks_read.read_line(s, s.choice(["words", "words", "name", "number", "code"])),
    "read_mixed": lambda s: tasks_read.read_line(s, "mixed"),
    "read_page": lambda s: tasks_read.read_page(s, True), "read_asked": lambda s: tasks_read.read_page(s, False),
    "form": tasks_read.form, "receipt": tasks_read.receipt_task,
    "shapes": tasks_scene.shapes, "charts": tasks_chart.chart, "pictures": tasks_scene.pictures,
    "clip_move": tasks_clip.move, "clip_order": tasks_clip.order, "clip_blink": tasks_clip.blink, "clip_words": tasks_clip.words,
    "thinking": tasks_scene.thinking, "tools": tasks_talk.tools, "talk": tasks_talk.talk,
}
