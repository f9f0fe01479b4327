"""A check of a corpus before training: what it holds, and what is likely wrong with it."""
