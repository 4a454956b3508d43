"""Progress bars on stderr: tqdm's where it is installed, else one of our own with the same face."""

import sys
import time
from typing import Any


class Bar:
    """The part of tqdm's face that calls use."""

    def __init__(self, total: int, desc: str = "", postfix: str = "", **_: Any):
        self.total, self.desc, self.postfix = total, desc, postfix
        self.n = 0
        self._start = time.monotonic()
        self._shown = 0.0
        self._tty = sys.stderr is not None and sys.stderr.isatty()
        self._show()

    def update(self, n: int = 1) -> None:
        self.n += n
        if self.n >= self.total or time.monotonic() - self._shown > 0.2:
            self._show()

    def refresh(self) -> None:
        pass  # the next update shows it

    def close(self) -> None:
        self._show(last=True)

    def _show(self, last: bool = False) -> None:
        self._shown = time.monotonic()
        if sys.stderr is None or not (self._tty or last):
            return
        elapsed = self._shown - self._start
        share = self.n / self.total if self.total else 1.0
        filled = int(20 * share)
        line = (
            f"{self.desc}: {100 * share:3.0f}%|{'#' * filled}{' ' * (20 - filled)}| {self.n}/{self.total} "
            f"[{elapsed:.0f}s, {self.n / elapsed if elapsed > 0 else 0:.2f}it/s{', ' + self.postfix if self.postfix else ''}]"
        )
        start = "\r" if self._tty else ""
        sys.stderr.write(start + line + ("\n" if last else ""))
        sys.stderr.flush()


def bar_class(use_tqdm: Any) -> Any:
    """The class to make bars of, or None for silence. A callable is taken as the class itself."""
    if not use_tqdm:
        return None
    if callable(use_tqdm):
        return use_tqdm
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]
    except ImportError:
        return Bar
    return tqdm


class Progress:
    """The two bars of a call: prompts handed over, and prompts answered with their speed."""

    def __init__(self, use_tqdm: Any, num_prompts: int):
        make = bar_class(use_tqdm)
        self._adding = self._answers = None
        if make is None:
            return
        self._start = time.monotonic()
        self._in = self._out = 0
        self._added = 0
        self._total = num_prompts
        self._adding = make(total=num_prompts, desc="Adding requests")
        self._answers = make(
            total=num_prompts,
            desc="Processed prompts",
            dynamic_ncols=True,
            postfix=f"est. speed input: {0:.2f} toks/s, output: {0:.2f} toks/s",
        )

    def added(self, count: int) -> None:
        if self._adding is not None and count > self._added:
            self._adding.update(count - self._added)
            self._added = count
            if count == self._total:
                self._adding.close()
                self._adding = None

    def answered(self, output: Any) -> None:
        if self._answers is None:
            return
        self._in += len(output.prompt_token_ids or ())
        self._out += sum(len(answer.token_ids) for answer in output.outputs)
        elapsed = max(time.monotonic() - self._start, 1e-9)
        self._answers.postfix = (
            f"est. speed input: {self._in / elapsed:.2f} toks/s, output: {self._out / elapsed:.2f} toks/s"
        )
        self._answers.update(1)

    def close(self) -> None:
        for bar in (self._adding, self._answers):
            if bar is not None:
                bar.close()
        self._adding = self._answers = None
