from __future__ import annotations

import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import SuppressTokensAtBeginLogitsProcessor, SuppressTokensLogitsProcessor

from sft_speech.tasks.asr.seq2seq.processors import LengthBound, Recorder, Sampling, Suppressed


def test_each_clip_ends_at_its_own_bound() -> None:
    bound = LengthBound(given=2, bounds=torch.tensor([1, 3]), end=0)
    ids, scores = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 4)
    assert bound(ids, scores).tolist() == [[0.0, *[-torch.inf] * 3], [1.0] * 4]
    assert bound(ids[:, :2], scores).equal(scores)
    assert scores.equal(torch.ones(2, 4))


def test_beams_of_a_clip_share_its_bound() -> None:
    bound = LengthBound(given=0, bounds=torch.tensor([1, 3]), end=0, beams=2)
    found = bound(torch.zeros(4, 2, dtype=torch.long), torch.ones(4, 3))
    assert found.isinf().any(-1).tolist() == [True, True, False, False]


def test_log_probabilities_are_those_of_the_tokens_that_were_chosen() -> None:
    recorder = Recorder()
    first, second = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[0.0, 0.0, 5.0]])
    ids = torch.tensor([[7, 7]])
    assert recorder(ids, first).equal(first)
    ids = torch.cat([ids, torch.tensor([[1]])], 1)
    recorder(ids, second)
    ids = torch.cat([ids, torch.tensor([[0]])], 1)
    expected = torch.stack([first.log_softmax(-1)[0, 1], second.log_softmax(-1)[0, 0]])
    torch.testing.assert_close(recorder.logprobs(ids)[0], expected)


def test_samples_have_the_probabilities_of_their_temperature() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(2, -1)
    sampling = Sampling(0.5, torch.device("cpu"))
    drawn = torch.stack([sampling(torch.zeros(2, 1), logits).argmax(-1) for _ in range(4000)])
    assert drawn[:, 0].equal(drawn[:, 1])  # whatever the batch
    shares = torch.bincount(drawn[:, 0], minlength=3) / 4000
    torch.testing.assert_close(shares, (logits[0] / 0.5).softmax(-1), atol=0.03, rtol=0)


def test_a_token_that_is_forbidden_is_never_sampled() -> None:
    logits = torch.tensor([[-torch.inf, 0.0]])
    sampling = Sampling(1.0, torch.device("cpu"))
    assert {int(sampling(torch.zeros(1, 1), logits).argmax()) for _ in range(50)} == {1}


def test_tokens_are_suppressed_as_by_transformers() -> None:
    ours = Suppressed(2, GenerationConfig(suppress_tokens=[1, 4], begin_suppress_tokens=[3]), torch.device("cpu"))
    always, first = SuppressTokensLogitsProcessor([1, 4]), SuppressTokensAtBeginLogitsProcessor([3], 2)
    scores = torch.arange(12.0).view(2, 6)
    for length in (2, 3):
        ids = torch.zeros(2, length, dtype=torch.long)
        assert torch.equal(ours(ids, scores), first(ids, always(ids, scores)))
    assert ours(torch.zeros(2, 2), scores)[1].tolist() == [6, -torch.inf, 8, -torch.inf, -torch.inf, 11]
    assert scores[1, 1] == 7
