"""Images on disk and in memory."""
