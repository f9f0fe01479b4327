"""Recognition by models that write text token by token: Whisper, Moonshine, Speech2Text."""
