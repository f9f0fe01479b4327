"""Self-contained HTML pages: markup of untrusted text, styles, figures, players."""
