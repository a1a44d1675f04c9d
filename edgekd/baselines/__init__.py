"""Runs that later ones are judged against, in a store by content: a folder, or any place that fsspec reaches by URL.

Only `keep` writes, and only when it is asked to. What is read is checked against its digest, byte by byte.
"""

from edgekd.baselines.keeping import Entry, entries, keep, resolve, shown
from edgekd.baselines.places import STORE_VARIABLE
from edgekd.baselines.telling import line, lines

__all__ = ["STORE_VARIABLE", "Entry", "entries", "keep", "line", "lines", "resolve", "shown"]
