"""Check a corpus before training: its content, and likely errors."""
