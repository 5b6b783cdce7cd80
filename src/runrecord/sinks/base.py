"""What a sink is."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from runrecord.events import Event


class Sink(ABC):
    """Somewhere that events are shown. Made and used on one thread.

    A run's first event is its start. Played the same run again, whole or from a point at which it
    was cut off, a sink shows nothing twice.
    """

    name: ClassVar[str]
    remedy: ClassVar[str]
    """What a person can do about a run that the sink could not show."""

    @abstractmethod
    def __init__(self, root: Path) -> None:
        """Open it, for the main repository at `root`; may be slow and may raise."""

    @abstractmethod
    def handle(self, event: Event) -> None:
        """Show one event; may be slow and may raise."""

    @abstractmethod
    def close(self) -> None:
        """Write out what is held back."""
