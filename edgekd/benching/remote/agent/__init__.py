"""The far end of a measurement over ssh: it keeps files, starts workers and cleans up after them.

It runs where edgekd is not, with Linux and Python 3.9 alone: its modules import one another relatively and nothing else of
edgekd. Packed into one file, it is sent over the connection at every start, checked by its sha256, and stored nowhere.
"""
