"""The card of a run out of the files that it left; here they are written by hand, to the worst."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import yaml
from markdown_it import MarkdownIt
from run_with_card import SPITE, card, figures, write

from sft_speech.errors import UserError
from sft_speech.hub.card import CARD, Run, is_ours, write_card
from sft_speech.hub.files import uploads
from sft_speech.options.settings import save_config
from sft_speech.tasks import task_of
from sft_speech.tasks.tts.config import FinetuneTtsConfig
from sft_speech.tasks.vc.config import FinetuneVcConfig


def test_figures_come_from_the_evaluation_files(folder):
    head, body = card(folder)
    assert head["model-index"][0]["results"][0]["metrics"][0] == {"type": "wer", "value": 10.0, "name": "WER %"}
    found = {
        (result["dataset"]["type"], result["dataset"]["split"], metric["type"], metric["value"])
        for result in head["model-index"][0]["results"]
        for metric in result["metrics"]
    }
    assert found == {
        ("org/judged_by", split, metric, value)
        for split, wer in (("dev", 10.0), ("test", 20.0), ("eval", 30.0))
        for metric, value in (("wer", wer), ("cer", wer / 2))
    }
    assert "| test | org/judged\\_by | 7 | 0.50 | 20.00 (19.00 to 22.00) | 10.00 |" in body
    assert "95 % bootstrap intervals over speakers" in body
    write(folder / "evaluation" / "test.json", figures(0.05))
    assert "| 5.00 (4.00 to 7.00) |" in card(folder)[1]


def test_what_a_run_kept(folder, tmp_path):
    """Of a corpus on the Hub, and of one on this disk, whose folder stays private."""
    private = tmp_path / "secret" / "mine"
    private.mkdir(parents=True)
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    tables = [{"source": "org/other", "split": "test"}, {"source": str(private), "split": "dev"}]
    (folder / "run.yaml").write_text(yaml.safe_dump(settings | {"keep_splits": tables, "interpolate": "auto"}))
    for name, wer in (("keep_other_test", 0.25), ("keep_mine_dev", 0.75)):
        write(folder / "evaluation" / f"{name}.json", figures(wer))
    results = json.loads((folder / "all_results.json").read_text())
    write(folder / "all_results.json", results | {"before_keep_other_test_wer": 0.5})
    head, body = card(folder)
    found = [(one["dataset"]["type"], one["dataset"]["split"]) for one in head["model-index"][0]["results"]]
    assert {("org/other", "test"), ("mine", "dev")} < set(found)
    assert "org/other" in head["datasets"]
    assert "| test (before fine-tuning) | org/other | 7 | 0.50 | 50.00 |" in body
    assert "| test | org/other | 7 | 0.50 | 25.00 (24.00 to 27.00) |" in body
    assert "| dev | mine | 7 | 0.50 | 75.00 (74.00 to 77.00) |" in body
    assert "secret" not in (folder / CARD).read_text()
    files = {upload.path: upload for upload in uploads(folder, task_of(folder))}
    assert "evaluation/keep_other_test.json" in files
    assert b"secret" not in files["run.yaml"].content()


def test_figures_before_fine_tuning(folder):
    results = json.loads((folder / "all_results.json").read_text())
    before = {"before_eval_wer": 0.5, "before_test_wer": 0.6, "before_test_cer": 0.4, "before_test_eval_wer": 0.7}
    write(folder / "all_results.json", results | before)
    write(folder / "evaluation" / "eval.json", figures(0.3, source="another"))  # evaluated later, on another corpus
    head, body = card(folder, all_evaluations=True)
    assert "| dev (before fine-tuning) | org/judged\\_by | 7 | 0.50 | 50.00 | – |\n| dev | " in body
    assert "| test (before fine-tuning) | org/judged\\_by | 7 | 0.50 | 60.00 | 40.00 |\n| test | " in body
    assert "eval (before fine-tuning)" not in body
    assert {one["dataset"]["split"] for one in head["model-index"][0]["results"]} == {"dev", "test", "eval"}


def test_figures_before_fine_tuning_name_their_normalizer(folder):
    results = json.loads((folder / "all_results.json").read_text())
    write(folder / "all_results.json", results | {"before_test_wer": 0.6})
    write(folder / "evaluation" / "test.json", figures(0.05, normalizer="whisper"))
    (folder / "evaluation" / "before").mkdir()
    write(folder / "evaluation" / "before" / "test.json", figures(0.6, normalizer="basic"))
    assert "| test (before fine-tuning) | org/judged\\_by | 7 | 0.50 | 60.00 | – | basic |" in card(folder)[1]


def test_what_the_hub_is_told(folder):
    head, _ = card(folder, "me/model")
    assert head["base_model"] == "org/model"
    assert head["datasets"] == ["org/trained_on", "org/judged_by"]
    assert (head["language"], head["license"]) == ("pt", "cc-by-4.0")
    assert (head["library_name"], head["pipeline_tag"]) == ("transformers", "automatic-speech-recognition")
    assert head["model-index"][0]["name"] == "model"


def test_the_language_is_the_saved_one_unless_an_option_names_it(folder):
    write(folder / "config.json", {"architectures": ["Wav2Vec2ForCTC"], "transcript_language": "de"})
    assert card(folder)[0]["language"] == "pt"
    run = (folder / "run.yaml").read_text()
    for option, code in (("language: null", "de"), ("language: null\ntarget_lang: fra", "de"), ("language: nob", "no")):
        kept = run.replace("target_lang: null\n", "") if "target_lang" in option else run
        (folder / "run.yaml").write_text(kept.replace("language: pt_BR", option))
        assert card(folder)[0]["language"] == code


def test_how_it_was_made(folder):
    _, body = card(folder, "me/model")
    for said in (
        "Preset: wav2vec2-base\\_1h.yaml",
        "sft-speech finetune-asr --config wav2vec2-base_1h.yaml --output_dir out\n",
        "2 x NVIDIA H100; 16 cores, 128 GB of memory. Python 3.12.1, CUDA 13.0, sft_speech 0.1.0, torch 2.14.1.",
        "2.00 h of audio, train loss 1.2500 nats per label, 1:01:01",
        'pipeline("automatic-speech-recognition", "me/model")',
        "license: cc-by-4.0\n",
        "| train | train | 48 | 1.50 | 2 | silent 2 |",
    ):
        assert said in body, said
    for unsaid in (str(folder.parent), "secret-id", "hub_model_id"):
        assert unsaid not in body, unsaid


def test_settings_of_a_run_under_old_names(folder):
    old = (folder / "run.yaml").read_text().replace("oom_check: true", "rehearse: false")
    (folder / "run.yaml").write_text(old.replace("tri_stage", "three_stage"))
    _, body = card(folder)
    assert "oom_check: false\n" in body
    assert "stage" not in body
    assert "rehearse" not in body


def test_a_loss_that_was_never_logged_is_not_told(folder):
    write(folder / "all_results.json", {"audio_hours": 0.1, "train_runtime": 13.0})
    assert "0.10 h of audio, 0:00:13 (h:mm:ss)." in card(folder)[1]


def test_plots_are_pictures_that_the_card_shows(folder):
    _, body = card(folder)
    drawn = sorted(path.name for path in (folder / "plots").iterdir())
    assert drawn == ["evaluation.png", "gradient.png", "learning_rate.png", "loss.png"]
    for name in drawn:
        assert (folder / "plots" / name).read_bytes().startswith(b"\x89PNG")
        assert f"](plots/{name})" in body
    (folder / "log_history.json").unlink()  # then those that are there stay
    assert card(folder)[1].count("](plots/") == 4


def test_an_evaluation_made_afterwards_names_its_own_corpus(folder, tmp_path):
    corpus = tmp_path / "acme"
    write(
        folder / "evaluation" / "other.json",
        figures(0.4, source=str(corpus), decoding={"search": "beam", "lm": "/a/4.arpa"}),
    )
    assert "acme" not in card(folder)[1]
    head, body = card(folder, all_evaluations=True)
    found = head["model-index"][0]["results"]
    assert next(one["dataset"] for one in found if one["dataset"]["split"] == "other")["type"] == "acme"
    assert "| other | acme | 7 | 0.50 | 40.00 (39.00 to 42.00) | 20.00 | beam, 4.arpa |" in body
    assert "acme" not in head["datasets"]


def test_word_error_rates_name_their_normalizer(folder):
    assert "normalizer" not in card(folder)[1]
    (folder / CARD).unlink()
    more = {"wer_as_written": 0.25, "wer_as_written_interval": [0.2, 0.3], "loops": 2, "loop_ids": ["secret-id"]}
    write(folder / "evaluation" / "dev.json", figures(0.1, normalizer="whisper", **more))
    head, body = card(folder)
    assert "| split | corpus | utterances | hours | WER % | WER as written % | CER % | normalizer |" in body
    shown = "10.00 (9.00 to 12.00) | 25.00 (20.00 to 30.00) | 5.00 | whisper |"
    assert f"| dev | org/judged\\_by | 7 | 0.50 | {shown}" in body
    assert "| 20.00 (19.00 to 22.00) | – | 10.00 | – |" in body
    assert "Hypotheses that were likely not spoken (loops, or text for silence): 2." in body
    metrics = head["model-index"][0]["results"][0]["metrics"]
    assert metrics[0] == {"type": "wer", "value": 10.0, "name": "WER % (whisper)"}
    going = {file.path: file.content() for file in uploads(folder, task_of(folder))}
    assert json.loads(going["evaluation/dev.json"])["loops"] == 2
    assert b"secret-id" not in going["evaluation/dev.json"] + going["README.md"]


def test_nothing_that_a_corpus_is_called_breaks_the_card(folder):
    write(folder / "evaluation" / "spite.json", figures(0.4, source=SPITE))
    run = yaml.safe_load((folder / "run.yaml").read_text()) | {"source": SPITE, "train_split": SPITE}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    head, body = card(folder, all_evaluations=True)
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    assert "<script" not in shown
    assert shown.count("<h1>") == 1
    tables = shown.split("<table>")[1:]
    assert [len(one.split("<tr>")) - 1 for one in tables] == [5, 3]
    assert head["pipeline_tag"] == "automatic-speech-recognition"


def test_a_card_that_was_changed_by_hand_stays(folder):
    card(folder)
    text = (folder / CARD).read_text()
    assert is_ours(text)
    (folder / CARD).write_text(text.replace("## Use", "## Mind\n\nNot for medical use.\n\n## Use"))
    assert not write_card(folder, task_of(folder))
    assert "Not for medical use." in (folder / CARD).read_text()
    (folder / CARD).unlink()
    assert write_card(folder, task_of(folder))
    assert (folder / CARD).read_text() == text


def test_a_licence_is_that_of_the_base_model(folder, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / CARD).write_text("---\nlicense: mit\n---\n# base\n")
    run = yaml.safe_load((folder / "run.yaml").read_text()) | {"license": None, "model": str(base)}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    head, body = card(folder)
    assert head["license"] == "mit"
    assert "base_model" not in head
    assert "base fine-tuned for" in body
    shutil.rmtree(base)
    assert "license" not in card(folder)[0]


@pytest.mark.parametrize(
    ("named", "config", "base_model"),
    [
        ("base_model: org/first", {}, "org/first"),
        ("base_model: [org/first]", {"_name_or_path": "org/other"}, "org/first"),
        ("base_model: [org/a, org/b]", {}, None),
        ("license: mit", {"_name_or_path": "org/first"}, "org/first"),
        ("license: mit", {"_name_or_path": "outputs/mine"}, None),  # a folder beside the base
        ("license: mit", {"_name_or_path": "/disk/anna/mine"}, None),
    ],
)
def test_the_base_of_a_local_base_is_named(folder, tmp_path, named, config, base_model):
    (tmp_path / "outputs" / "mine").mkdir(parents=True)
    base = tmp_path / "base"
    base.mkdir()
    (base / CARD).write_text(f"---\n{named}\n---\n# base\n")
    write(base / "config.json", config)
    run = yaml.safe_load((folder / "run.yaml").read_text()) | {"model": str(base)}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    head, body = card(folder)
    assert head.get("base_model") == base_model
    made_of = f", a model made of [{base_model}](https://huggingface.co/{base_model})," if base_model else ""
    assert f"base{made_of} fine-tuned for" in body


@pytest.mark.parametrize(
    ("settings", "language"),
    [
        ({"language": "<|de|>"}, "de"),
        ({"language": "german"}, "de"),
        ({"is_multilingual": False}, "en"),  # a Whisper for English
        ({"is_multilingual": True}, None),
    ],
)
def test_the_language_is_what_the_model_writes(folder, settings, language):
    run = yaml.safe_load((folder / "run.yaml").read_text()) | {"language": None}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    write(folder / "generation_config.json", settings)
    assert card(folder)[0].get("language") == language


def test_a_licence_of_a_base_model_on_the_hub(folder, hub):
    hub.repos["org/model"] = sys.modules["hub_server"].Repo()
    hub.repos["org/model"].files["README.md"] = b"---\nlicense: mit\n---\n# base\n"
    run = yaml.safe_load((folder / "run.yaml").read_text()) | {"license": None}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    assert "license" not in card(folder)[0]
    assert hub.requests == []
    assert write_card(folder, task_of(folder), ask_hub=True)
    assert "license: mit" in (folder / CARD).read_text()


@pytest.mark.parametrize(
    ("architecture", "config", "tag"),
    [
        ("SpeechT5ForTextToSpeech", FinetuneTtsConfig, "text-to-speech"),
        ("SpeechT5ForSpeechToSpeech", FinetuneVcConfig, "audio-to-audio"),
    ],
)
def test_models_that_speak(folder, architecture, config, tag):
    write(folder / "config.json", {"architectures": [architecture]})
    keys = {"model": "org/model", "source": "org/trained_on", "train_split": "train", "eval_split": "dev"}
    save_config(config(**keys, output_dir=str(folder)), folder / "run.yaml")
    found = {"loss": 1.5, "speech_mcd": 7.0, "speech_mcd_interval": [6.0, None], "utterances": 3, "hours": 0.1}
    write(folder / "evaluation" / "dev.json", found)
    head, body = card(folder)
    assert head["pipeline_tag"] == tag
    assert "model-index" not in head
    assert "| dev | org/trained\\_on | 3 | 0.10 | 1.50 | 7.00 |" in body


@pytest.mark.parametrize("content", ["{", "[1]", "3"])
def test_a_damaged_file_is_named(folder, content):
    (folder / "all_results.json").write_text(content)
    with pytest.raises(UserError, match=r"all_results\.json: it cannot be read"):
        write_card(folder, task_of(folder))
    assert Run(folder, task_of(folder)).starts
