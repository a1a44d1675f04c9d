"""What can be read of a machine and of how it is doing: processors, limits, boards, GPUs, environment; and samples of it.

This package also runs where edgekd is not: packed into one file it is brought to devices. Therefore it is written for Python
3.9 with nothing but the standard library, its modules import one another relatively and nothing else of edgekd. Everything is
read from files below a root, so that tests stand in recorded trees of /proc and /sys. What cannot be read is None, never an
error.
"""
