"""Where the time of a run goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Wall seconds per stage."""

    last: float = field(default_factory=time.perf_counter)
    laps: dict[str, float] = field(default_factory=dict)

    def lap(self, name: str) -> None:
        """End the stage of this name, which began when the last one ended."""
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def seconds(self) -> dict[str, float]:
        """Per stage and in total, rounded to milliseconds."""
        laps = {name: round(value, 3) for name, value in self.laps.items()}
        return {**laps, "total": round(sum(self.laps.values()), 3)}
