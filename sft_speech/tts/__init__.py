"""Speech synthesis by SpeechT5."""
