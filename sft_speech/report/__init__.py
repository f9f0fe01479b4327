"""The report of a run: its curves, utterances, errors and dropped rows, as one HTML page."""
