"""Whether a device's clock runs as fast as this machine's, seen from afar: what it measures is worth what its clock is."""

TOLERANCE = 0.02
MIN_S = 10.0


class ClockCheck:
    """Compares how much time has passed here and there, without knowing how long messages are under way.

    A question sent at `sent_ns` and answered by `received_ns` (both here) was answered in between. So between two questions
    the device's clock must show at least the time from the first answer to the second question, and at most that from the
    first question to the second answer. Delays widen these bounds; they never make a good clock look bad.
    """

    def __init__(self) -> None:
        self._first: tuple[int, int, int] | None = None

    def hear(self, *, sent_ns: int, there_ns: int, received_ns: int) -> str:
        """Take one answer, and return why the device's clock cannot be believed, or ''."""
        if self._first is None:
            self._first = (sent_ns, there_ns, received_ns)
            return ""
        first_sent_ns, first_there_ns, first_received_ns = self._first
        least_s = (sent_ns - first_received_ns) / 1e9
        most_s = (received_ns - first_sent_ns) / 1e9
        shown_s = (there_ns - first_there_ns) / 1e9
        if shown_s < 0 or (least_s > MIN_S and not least_s * (1 - TOLERANCE) <= shown_s <= most_s * (1 + TOLERANCE)):
            return (
                f"by the device's clock {shown_s:.1f} s have passed, by this machine's {least_s:.1f} to {most_s:.1f} s:"
                " what it measures cannot be believed (was one of them suspended?)"
            )
        return ""
