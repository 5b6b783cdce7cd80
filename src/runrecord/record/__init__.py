"""A record: one folder that tells all of one run, as a series of events.

In: events and the bytes of files. Out: the folder, and read again the same events; a reader takes
it for untrusted input. Everybody may call it; it knows no other room but `safety`.
"""
