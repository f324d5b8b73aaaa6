"""For how long a place that does not answer is asked again: all requests of a process together, not each by itself."""

from __future__ import annotations

import time

#: Seconds for which what may pass is tried again.
PATIENCE = 60.0
#: The same for a place that was never reached: its address is wrong, perhaps.
FIRST_PATIENCE = 5.0


class Patience:
    """What the requests to one place learn from each other.

    A request is given up after a minute, or when no request to its place has succeeded for a minute: those that queue
    behind one that was given up are tried once. Else each of hundreds would wait for a minute of its own.

    Attributes
    ----------
    was_reached : bool
        Whether the place ever answered.

    Notes
    -----
    Threads may share one: each of its changes is one assignment, and a lost one is made up for by the next request.
    """

    def __init__(self) -> None:
        self.was_reached = False
        self._failing: tuple[float, float] | None = None  # since the last success: first try, and last failure

    def answered(self) -> None:
        """Take note of an answer."""
        self.was_reached = True
        self._failing = None

    def failed(self, began: float, tried: float) -> bool:
        """Take note of a try that failed, and tell whether its request is to be given up.

        Parameters
        ----------
        began, tried : float
            When the request began, and this try of it; as of `time.monotonic`.

        Returns
        -------
        bool
            Whether it was tried for long enough.
        """
        now = time.monotonic()
        first, last = self._failing or (tried, now)
        if now - last > PATIENCE:  # nobody asked since: the place may have been back for long
            first = tried
        self._failing = first, now
        return now - min(began, first) > self._most()

    @property
    def is_over(self) -> bool:
        """Whether nothing has succeeded for so long that nobody should ask for what is not necessary."""
        failing = self._failing
        return failing is not None and failing[1] - failing[0] > self._most()

    def _most(self) -> float:
        return PATIENCE if self.was_reached else FIRST_PATIENCE
