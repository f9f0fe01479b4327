"""Another corpus is told from the one that a checkpoint was trained on."""

from __future__ import annotations

import datasets
import numpy as np
import pytest

from sft_speech.training import same_corpus

IDS, SECONDS = ["a", "bc", "d"], np.array([1.0, 2.0, 3.0])


def rows_of(ids):
    return datasets.Dataset.from_dict({"id": ids})


@pytest.mark.parametrize(
    ("ids", "seconds", "said"),
    [
        (IDS, SECONDS, None),
        (["ab", "c", "d"], SECONDS, "other ids or lengths"),
        (IDS, SECONDS[::-1].copy(), "other ids or lengths"),
        (IDS[:2], SECONDS[:2], "3 utterances of 0.00 h then, 2 utterances of 0.00 h now"),
    ],
)
def test_what_has_changed_is_said(tmp_path, caplog, ids, seconds, said):
    same_corpus.save(same_corpus.identity(rows_of(IDS), SECONDS), tmp_path)
    same_corpus.compare(same_corpus.identity(rows_of(ids), seconds), tmp_path)
    assert (said in caplog.text) if said else not caplog.text


def test_the_layout_of_a_table_does_not_count():
    apart = datasets.concatenate_datasets([rows_of(IDS[:1]), rows_of(IDS[1:])])
    chosen = rows_of([*IDS, "e"]).select([0, 1, 2])
    whole = same_corpus.identity(rows_of(IDS), SECONDS)
    assert same_corpus.identity(apart, SECONDS) == same_corpus.identity(chosen, SECONDS) == whole


def test_older_checkpoints_have_no_such_file(tmp_path, caplog):
    same_corpus.compare(same_corpus.identity(rows_of(IDS), SECONDS), tmp_path)
    assert not caplog.text
