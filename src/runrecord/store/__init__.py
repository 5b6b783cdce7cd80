"""The run store: the folder `.runrecord/` beside a repository, and all records in it.

In: the main repository's root. Out: folders of runs, claimed, locked, closed, listed and found by
name. Everybody may call it.
"""
