"""Speech recognition with CTC: checkpoints, fine-tuning, evaluation, transcription."""
