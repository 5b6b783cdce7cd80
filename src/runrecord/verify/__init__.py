"""Proof: a run rebuilt from its record, and two records compared.

In: two records, or one and the repository. Out: the differences between them, and a verdict. It
knows no tracker; the commands `verify` and `compare` call it, and `sweep` and `trackers` compare.
"""
