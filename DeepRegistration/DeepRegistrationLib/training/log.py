"""What a training leaves to read: ``log.txt`` for people, ``log.jsonl`` for programs, ``curve.png``."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..errors import OutputError
from .curve import Panel, draw_panels

TEXT, ROWS, CURVE = "log.txt", "log.jsonl", "curve.png"
_MOST_ROWS = 2000
_LINE_SECONDS = 10.0
"""Between two lines of progress in log.txt."""


class TrainingLog:
    """Collects steps into rows: one row per step in a short training, means of several in a long one.

    Args:
        folder: where the files are.
        steps: of the whole training.
        resumed_at: the step of the checkpoint that is gone on from; later rows are dropped. None starts
            new files.
    """

    def __init__(self, folder: Path, steps: int, resumed_at: int | None = None) -> None:
        self._folder, self._steps = folder, steps
        self._every = max(1, math.ceil(steps / _MOST_ROWS))
        self._last_line = -math.inf
        self._header: tuple[str, ...] = ()
        self._clear()
        kept = [] if resumed_at is None else [row for row in self.rows() if row["step"] <= resumed_at]
        write_text(folder / ROWS, "".join(json.dumps(row) + "\n" for row in kept))
        if resumed_at is None:
            write_text(folder / TEXT, "")

    def say(self, text: str) -> None:
        """A line for people, with the time of day."""
        self._append(TEXT, f"{time.strftime('%H:%M:%S')}  {text}\n")

    def step(
        self,
        step: int,
        stage: str,
        rate: float,
        terms: dict[str, float],
        seconds: float,
        memory: float | None,
    ) -> None:
        """Take a step's numbers.

        Args:
            step: steps done, this one included.
            stage: its name.
            rate: learning rate.
            terms: of the loss, and the length of the gradient.
            seconds: the step took.
            memory: peak so far, MB.
        """
        self._count += 1
        self._seconds += seconds
        for name, value in terms.items():
            total, count = self._terms.get(name, (0.0, 0))
            self._terms[name] = (total + value, count + 1)
        self._latest = {"step": step, "stage": stage, "rate": rate, "memory_mb": memory}
        if step % self._every == 0 or step == self._steps:
            self.close_row()

    def close_row(self) -> None:
        """Write what was collected since the last row."""
        if not self._count:
            return
        means = {name: total / count for name, (total, count) in self._terms.items()}
        row = {**self._latest, "terms": means, "seconds_per_step": self._seconds / self._count}
        self._append(ROWS, json.dumps(row) + "\n")
        now = time.monotonic()
        if now - self._last_line >= _LINE_SECONDS or row["step"] == self._steps:
            self._last_line = now
            self._line(row)
        self._clear()

    def validation(self, step: int, numbers: dict[str, Any]) -> None:
        """Take the result of a look at held-out pairs."""
        self.close_row()
        self._append(ROWS, json.dumps({"step": step, "validation": numbers}) + "\n")
        shown = [f"MSE {numbers['mse_before']:.4g} -> {numbers['mse_after']:.4g}"]
        if "dice_after" in numbers:
            shown.insert(0, f"Dice {numbers['dice_before']:.3f} -> {numbers['dice_after']:.3f}")
        shown.append(f"folds {numbers['folds_percent']:.4f} %")
        self.say(f"held-out pairs ({numbers['pairs']}) after {step} steps: {', '.join(shown)}")

    def draw(self) -> None:
        """Write ``curve.png`` from all rows so far."""
        rows = self.rows()
        steps = [row for row in rows if "terms" in row]
        looks = [row for row in rows if "validation" in row]
        names = list(dict.fromkeys(name for row in steps for name in row["terms"]))
        curves = {
            name: _points([(row["step"], row["terms"][name]) for row in steps if name in row["terms"]])
            for name in names
            if name != "gradient"
        }
        panels = [Panel(curves, "Training", "step", "loss terms", log=True)]
        for keys, what in ((("dice_before", "dice_after"), "Dice"), (("folds_percent",), "folds (%)")):
            curves = {
                key.replace("_", " "): _points(
                    [(row["step"], row["validation"][key]) for row in looks if key in row["validation"]]
                )
                for key in keys
            }
            if any(x for x, _ in curves.values()):
                panels.append(Panel(curves, "Held-out pairs", "step", what, x_range=(0, rows[-1]["step"])))
        draw_panels(self._folder / CURVE, panels)

    def rows(self) -> list[dict[str, Any]]:
        """All rows of ``log.jsonl``; a last line cut short by a crash is left out."""
        path = self._folder / ROWS
        if not path.is_file():
            return []
        found = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [row for row in found if isinstance(row, dict) and "step" in row]

    def _clear(self) -> None:
        self._count, self._seconds = 0, 0.0
        self._terms: dict[str, tuple[float, int]] = {}
        self._latest: dict[str, Any] = {}

    def _line(self, row: dict[str, Any]) -> None:
        header = ("step", "stage", *row["terms"], "rate", "s/step", "memory MB")
        if header != self._header:
            self._header = header
            self.say("  ".join(name.rjust(10) for name in header))
        numbers = [f"{value:.5g}" for value in row["terms"].values()]
        memory = "-" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}"
        cells = [str(row["step"]), row["stage"], *numbers, f"{row['rate']:.3g}"]
        cells += [f"{row['seconds_per_step']:.3g}", memory]
        self.say("  ".join(c.rjust(max(10, len(h))) for c, h in zip(cells, header, strict=True)))

    def _append(self, name: str, text: str) -> None:
        path = self._folder / name
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise OutputError(f"{path} could not be written: {error.strerror}.") from error


def _points(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]
