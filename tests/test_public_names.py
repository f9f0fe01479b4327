"""The names that users import."""

from __future__ import annotations

import pytest

import sft_speech


def test_every_public_name_can_be_imported():
    assert [getattr(sft_speech, name).__name__ for name in sft_speech.__all__] == sft_speech.__all__


def test_other_names_cannot():
    with pytest.raises(AttributeError, match="no attribute 'Transcribe'"):
        sft_speech.Transcribe  # noqa: B018
