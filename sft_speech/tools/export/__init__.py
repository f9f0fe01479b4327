"""Models for other runtimes, and how far they agree with the original."""
