"""Which column means what."""

from __future__ import annotations

import pytest

from sft_speech.corpora.columns import find_columns
from sft_speech.errors import UserError


@pytest.mark.parametrize(
    ("seen", "given", "found"),
    [
        (["audio", "text"], None, {"audio": "audio", "text": "text"}),
        (["file_name", "transcription", "x"], {}, {"audio": "file_name", "text": "transcription"}),
        (["file", "audio", "text", "speaker_id"], {}, {"audio": "audio", "text": "text", "speaker": "speaker_id"}),
        (["path", "text", "raw"], {"text": "raw"}, {"text": "raw", "audio": "path"}),
        (
            ["audio", "text", "id", "who"],
            {"speaker": "who"},
            {"speaker": "who", "audio": "audio", "text": "text", "id": "id"},
        ),
    ],
)
def test_found(seen, given, found):
    assert find_columns(seen, given, "a table") == found


@pytest.mark.parametrize(
    ("seen", "given", "message"),
    [
        (["audio", "words"], {}, "no column for the text .* audio, words"),
        (["text"], {}, "no column for the audio"),
        (["audio", "transcript", "sentence"], {}, "any of the columns transcript, sentence"),
        (["audio", "text"], {"text": "txt"}, "did you mean 'text'"),
        (["audio", "text"], {"txt": "text"}, "did you mean 'text'"),
    ],
)
def test_errors_name_what_was_seen(seen, given, message):
    with pytest.raises(UserError, match=message):
        find_columns(seen, given, "a table")
