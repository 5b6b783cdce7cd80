"""Text made harmless: what comes from elsewhere and is shown to a person."""

from runrecord.secrets import redact


def printable(text: str) -> str:
    """`text` as one line without what would steer a terminal: such characters become U+FFFD."""
    return "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in text)


def reason(error: Exception) -> str:
    """The first line of what went wrong, fit to be shown, without a full stop."""
    return printable(redact((str(error).strip() or repr(error)).splitlines()[0].rstrip(".")))
