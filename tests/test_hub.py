"""The model card, and what is said where the Hub can't be reached."""

from __future__ import annotations

import pytest

from sft_speech.config import FinetuneAsrConfig
from sft_speech.corpora.report import CorpusReport
from sft_speech.errors import UserError
from sft_speech.hub import push, write_model_card


def test_the_card_tells_each_split_and_where_it_comes_from(tmp_path):
    from huggingface_hub import ModelCard

    config = FinetuneAsrConfig(
        model="org/model",
        source="org/trained_on",
        train_split="train",
        eval_source="org/judged_by",
        eval_split="dev",
        test_splits=["test", "eval"],
        output_dir=str(tmp_path),
    )
    rates = {"eval": 0.1, "test": 0.2, "test_eval": 0.3}
    figures = {f"{role}_{metric}": rate for role, rate in rates.items() for metric in ("wer", "cer")}
    write_model_card(tmp_path, config, figures | {"train_loss": 1.0, "audio_hours": 2.0}, CorpusReport())
    card = ModelCard.load(tmp_path / "README.md")
    assert {(result.dataset_type, result.dataset_split, result.metric_value) for result in card.data.eval_results} == {
        ("org/judged_by", "dev", 10.0),
        ("org/judged_by", "test", 20.0),
        ("org/judged_by", "eval", 30.0),
    }
    assert card.data.base_model == "org/model"
    assert "2.0 h of audio" in card.text


def test_no_connection_is_said_and_the_model_is_safe(tmp_path):
    """A port where nobody listens; another process, since the library reads its settings once."""
    import os
    import subprocess
    import sys

    code = (
        "from pathlib import Path\n"
        "from sft_speech.errors import UserError\n"
        "from sft_speech.hub import push\n"
        "try:\n    push(Path('run'), 'me/model')\n"
        "except UserError as error:\n    print(error)\n"
    )
    away = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_x", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], env=os.environ | away, capture_output=True, text=True)
    assert "push to me/model: the Hub did not take it" in said.stdout, said.stderr[-2000:]
    assert "the model is safe in run" in said.stdout


def test_offline_is_said(tmp_path):
    """The tests run with HF_HUB_OFFLINE."""
    with pytest.raises(UserError, match="the Hub did not take it"):
        push(tmp_path, "me/model")
