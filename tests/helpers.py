"""What several test files share."""

from ddistill.engine import Observer


class Interrupt(Observer):
    """Raises when a phase has got so far; remembers what it was told."""

    def __init__(self, phase: str = "", at: int = 0) -> None:
        self.phase, self.at, self.notes, self.seen = phase, at, [], []

    def progress(self, phase, done, total, **figures):
        self.seen.append((phase, done))
        if phase == self.phase and done == self.at:
            raise KeyboardInterrupt

    def note(self, text):
        self.notes.append(text)
