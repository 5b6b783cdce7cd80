"""The two ways a stage can end badly, each carrying one sentence for the person who started it."""


class UserError(Exception):
    """Something given is wrong, found before any work began; exit status 2."""


class RunFailed(Exception):
    """Work had begun and could not end well; exit status 1."""
