"""The run log: one JSON object per line and event."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ddistill.runtime.storage import append_line


class RunLog:
    """Appends events to ``log.jsonl``; without a folder it keeps nothing.

    Each line has the event's name, the seconds since this process started the run, and the event's own fields.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.started = time.perf_counter()

    def event(self, name: str, **fields: Any) -> None:
        """Write one line and flush it to the operating system."""
        if self.path is None:
            return
        seconds = round(time.perf_counter() - self.started, 3)
        line = json.dumps({"event": name, "seconds": seconds, **fields}, default=str)
        append_line(self.path, line)
