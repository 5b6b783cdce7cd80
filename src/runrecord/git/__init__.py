"""Git, and the code of a run as it has it; the only room that runs Git.

In: folders, revisions, bytes. Out: what Git says, the change against a commit, and that code
checked out again. Everybody may call it.
"""
