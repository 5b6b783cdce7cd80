"""Rebuilding runs, and comparing them bit for bit."""
