"""Datasets on the Hub that cannot be opened: one line with the way out."""

from __future__ import annotations

import sys

import pytest

from sft_speech.corpora import load_corpus
from sft_speech.corpora.hub import split_names
from sft_speech.errors import UserError


@pytest.fixture
def datasets_hub(hub, monkeypatch):
    """The Hub on loopback for the ``datasets`` library, and a function that adds a dataset of some files."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    server = sys.modules["hub_server"]

    def add(id, private=False, branches=(), **files):
        content = {name: text.encode() for name, text in files.items()}
        hub.repos[id] = server.Repo(private, {name: dict(content) for name in ("main", *branches)})

    hub.add, hub.refuse = add, server.Answer
    return hub


def error_of(source, **arguments) -> tuple[str, str]:
    found = []
    for opens in (lambda: load_corpus(source, **arguments), lambda: split_names(source, None)):
        with pytest.raises(UserError) as error:
            opens()
        assert error.value.given == source
        assert len(str(error.value).splitlines()) == 2
        found.append((error.value.why, error.value.do))
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_loading_script_that_the_hub_has_converted(datasets_hub, streaming):
    datasets_hub.add("org/speech", branches=["refs/convert/parquet"], **{"speech.py": "import datasets"})
    why, do = error_of("org/speech", streaming=streaming)
    assert why == "its loading script speech.py would have to be run, which the datasets library no longer does"
    assert do == (
        "take the Hub's copy in parquet: `hf download org/speech --repo-type dataset --revision refs/convert/parquet "
        "--local-dir speech`, and give speech as the source"
    )


def test_a_loading_script_that_the_hub_has_not_converted(datasets_hub):
    datasets_hub.add("org/speech", **{"speech.py": "import datasets", "README.md": "# Speech"})
    page = f"{datasets_hub.url}/datasets/org/speech"
    assert error_of("org/speech")[1] == (
        f"get its audio as {page} says, and give a folder of it with a table (audio, text)"
    )


def test_a_dataset_without_data(datasets_hub):
    datasets_hub.add("org/empty", **{"README.md": "# Soon", ".gitattributes": ""})
    why, do = error_of("org/empty")
    assert why == "it has no data files that can be read: audio, parquet, csv, json, or archives of these"
    assert do == f"see what it holds, and how to get its data: {datasets_hub.url}/datasets/org/empty"


@pytest.mark.parametrize(
    ("token", "status", "why", "do"),
    [
        (
            False,
            401,
            "it is gated: its owner wants to know who uses it",
            "accept its terms on {page}, then `hf auth login`",
        ),
        (True, 403, "it is gated, and the account of your token has no access to it", "ask for it on {page}"),
    ],
)
def test_a_gated_dataset(datasets_hub, monkeypatch, token, status, why, do):
    if not token:
        monkeypatch.delenv("HF_TOKEN")
    datasets_hub.add("org/gated", **{"a.txt": "x"})

    def gated(handler):
        raise datasets_hub.refuse(status, "Access to dataset org/gated is restricted.", "GatedRepo")

    with datasets_hub.failing("org/gated", gated):
        assert error_of("org/gated") == (why, do.format(page=f"{datasets_hub.url}/datasets/org/gated"))


def test_a_private_or_missing_dataset_without_a_token(datasets_hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    datasets_hub.add("org/private", private=True)
    for source in ("org/private", "org/gone"):
        why, do = error_of(source)
        assert why == (
            "no such folder here, and no such public dataset on the Hub: misspelled, removed, renamed or private"
        )
        assert do == "check the name; the Hub shows a private one after `hf auth login`"


def test_a_missing_dataset_with_a_token(datasets_hub):
    assert error_of("org/gone") == (
        "no such folder here, and no dataset on the Hub that your token may read: misspelled, removed or private",
        "check the name; if it is private, `hf auth whoami` says whose token this is",
    )


@pytest.mark.parametrize(
    ("status", "message", "do"),
    [
        (403, "Access to this resource is disabled.", "see {page}, or try again later"),
        (401, "Invalid credentials in Authorization header", "log in again: `hf auth login`"),
        (429, "Too many requests", "see {page}, or try again later"),
    ],
)
def test_the_hub_refuses(datasets_hub, status, message, do):
    def refuse(handler):
        raise datasets_hub.refuse(status, message)

    with datasets_hub.failing("org/x", refuse):
        why, found = error_of("org/x")
    assert why == f"the Hub does not give it: {message} ({status})"
    assert found == do.format(page=f"{datasets_hub.url}/datasets/org/x")


def test_a_local_folder_with_a_loading_script(tmp_path):
    folder = tmp_path / "speech"
    folder.mkdir()
    (folder / "speech.py").write_text("raise SystemExit('it was run')")
    (folder / "README.md").write_text("# Speech")
    with pytest.raises(UserError, match=r"speech\.py is a loading script.*it holds 1 \*\.[pm][yd], 1 \*\.[mp][dy]"):
        load_corpus(folder)


def test_an_offline_machine_is_told_so(datasets_hub, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert error_of("org/x") == (
        "no such folder here, and HF_HUB_OFFLINE is set, and it is not in the cache",
        "check the path, or unset HF_HUB_OFFLINE",
    )
