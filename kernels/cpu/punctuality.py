"""Whether sharing work pays just now: threads that wait for each other are slow where other programs use the cores.

A region ends, and a recurrence goes on, when the last thread arrives. On free cores that is a matter of microseconds.
A thread whose core another program has taken arrives milliseconds late, again and again, and everybody waits: two
threads are then slower than one. So the team notes who comes late; when that becomes a habit, the caller works alone
for a while, at first a short one, then tries again. Results do not depend on it: a region gives the same bits for any
number of threads.
"""

from __future__ import annotations

__all__ = ["Punctuality"]

#: Waiting counts as late from this many seconds, and from this part of the region's time.
LATE, LATE_SHARE = 2e-4, 0.3
#: A late region counts 1 and fades with each region that follows; this much of it is a habit.
FADING, HABIT = 0.95, 2.0
#: Seconds of working alone: at first, and at most. Each relapse doubles them, each such time without one halves them.
SHORTEST, LONGEST = 0.02, 1.0


class Punctuality:
    """Decides between working together and working alone, from how late the threads come.

    All times are readings of one clock, in seconds.

    Attributes
    ----------
    alone_until : float
        Until when the caller should work alone.
    """

    def __init__(self) -> None:
        self.alone_until = 0.0
        self._lateness = 0.0
        self._period = SHORTEST
        self._together_since = 0.0

    def alone(self, now: float) -> bool:
        """Tell whether the caller should work alone now."""
        return now < self.alone_until

    def note(self, now: float, took: float, waited: float) -> None:
        """Learn from a region that was shared.

        Parameters
        ----------
        now : float
            When it ended.
        took : float
            How long it took.
        waited : float
            How long threads waited for others in it, and at its end.
        """
        if waited <= max(LATE, LATE_SHARE * took):
            self._lateness *= FADING
            if now - self._together_since > self._period > SHORTEST:
                self._period, self._together_since = max(SHORTEST, self._period / 2), now
            return
        self._lateness = self._lateness * FADING + 1.0
        if self._lateness >= HABIT:
            self.alone_until = self._together_since = now + self._period
            self._period = min(LONGEST, 2 * self._period)
            self._lateness = 0.0
