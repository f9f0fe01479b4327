"""Publishing on the Hub: the model card, the files to upload, the repository, and uploads during a run."""
