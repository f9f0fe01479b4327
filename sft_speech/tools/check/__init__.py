"""A corpus looked at before anything is trained on it: what it holds, and what is likely wrong with it."""
