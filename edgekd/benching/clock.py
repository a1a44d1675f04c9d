"""The one clock of the measurements: monotonic, in nanoseconds, and replaceable in tests.

Wall clocks jump; nothing in this room reads one (a test looks). Whoever measures takes a `Clock` and calls it before and
after.
"""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Answers the time in ns since some fixed moment; never goes back."""

MONOTONIC: Clock = time.perf_counter_ns
