"""The page in the browser: models to try out with microphone, files and texts."""
