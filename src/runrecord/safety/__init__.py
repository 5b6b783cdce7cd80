"""What may leave the machine: secrets struck out, text made harmless for a terminal.

In: text and events. Out: the same without secrets or control characters. Everybody may call it.
"""
