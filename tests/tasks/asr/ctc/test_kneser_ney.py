from __future__ import annotations

import io
import random
from collections import defaultdict

import numpy as np
import pytest

from sft_speech.tasks.asr.ctc.kneser_ney import discounts_of, estimate, write_arpa

TEXT = [["a", "b"], ["a", "b"], ["a", "c"]]


def arpa(sentences, order, words=()) -> str:
    file = io.BytesIO()
    write_arpa(file, *estimate(sentences, order, words))
    return file.getvalue().decode()


def sections(content: str) -> list[dict[tuple[str, ...], tuple[float, float]]]:
    """The probability and the backoff of each n-gram, for each length."""
    found: list[dict] = []
    for line in content.splitlines():
        if line.endswith("-grams:"):
            found.append({})
        elif found and "\t" in line:
            score, words, *backoff = line.split("\t")
            found[-1][tuple(words.split(" "))] = 10 ** float(score), 10 ** float(backoff[0] if backoff else 0)
    return found


def probability(model: list[dict], context: tuple[str, ...], word: str) -> float:
    """Of a word after a context, as the ARPA format defines it."""
    if (*context, word) in model[len(context)]:
        return model[len(context)][*context, word][0]
    backoff = model[len(context) - 1].get(context, (0, 1))[1]
    return backoff * probability(model, context[1:], word)


def test_probabilities_worked_out_by_hand():
    """Discounts 0.5, 1, 1.5, since the text is too short to estimate them.

    1-grams count the words that they follow: a 1 (<s>), b 1, c 1, </s> 2 (b, c), 5 in all. (0.5 + 0.5 + 0.5 + 1) / 5 =
    0.5 is left for the five words and <unk>, without <s>: 0.1 each. So a, b and c have 0.5/5 + 0.1, </s> 1/5 + 0.1.
    2-grams count themselves. After a, b has (2 - 1)/3 + 0.5 * 0.2, c (1 - 0.5)/3 + 0.5 * 0.2: 1.5/3 is left.
    """
    singles, pairs = sections(arpa(TEXT, 2))
    assert {word: pytest.approx(one[0], rel=1e-6) for (word,), one in singles.items() if word != "<s>"} == {
        "<unk>": 0.1,
        "</s>": 0.3,
        "a": 0.2,
        "b": 0.2,
        "c": 0.2,
    }
    assert {words: pytest.approx(one[0], rel=1e-6) for words, one in pairs.items()} == {
        ("<s>", "a"): 0.6,
        ("a", "b"): 1 / 3 + 0.1,
        ("a", "c"): 1 / 6 + 0.1,
        ("b", "</s>"): 0.65,
        ("c", "</s>"): 0.65,
    }
    assert singles["a",][1] == pytest.approx(0.5, rel=1e-6)
    assert singles["</s>",][1] == 1


def test_the_format():
    assert arpa([["a"]], 1) == (
        "\\data\\\nngram 1=4\n\n\\1-grams:\n-0.7781513\t<unk>\n-99\t<s>\n-0.3802112\t</s>\n-0.3802112\ta\n\n\\end\\\n"
    )


def test_discounts_of_counts():
    """Chen and Goodman: Y = 10 / 18; 1 - 2 Y 4/10, 2 - 3 Y 2/4, 3 - 4 Y 1/2."""
    counts = np.repeat([1, 2, 3, 4, 5, 0], [10, 4, 2, 1, 7, 3])
    assert discounts_of(counts) == pytest.approx((5 / 9, 7 / 6, 17 / 9))
    assert discounts_of(np.repeat([1, 2, 3], [10, 4, 2])) is None


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_sum_to_one_after_every_context(order):
    """In a text with enough of every count to estimate the discounts, and in one without."""
    rng = random.Random(0)
    words = [f"w{number}" for number in range(40)]
    weights = [1 / number for number in range(1, 41)]
    long = [rng.choices(words, weights, k=rng.randint(1, 9)) for _ in range(600)]
    for text, more in ((long, ()), (TEXT, ()), ([["a"]], ("b", "|"))):
        model = sections(arpa(text, order, more))
        vocabulary = [word for (word,) in model[0] if word != "<s>"]
        contexts = {(), *(gram for length in model[:-1] for gram in length if gram[-1] not in ("</s>", "<unk>"))}
        for context in contexts:
            total = sum(probability(model, context, word) for word in vocabulary)
            assert total == pytest.approx(1, abs=1e-5), context


def test_the_probabilities_are_those_of_the_definition():
    """Trigrams against the recursion of Chen and Goodman with sets and loops."""
    rng = random.Random(1)
    text = [rng.choices("abcdefgh", range(1, 9), k=rng.randint(1, 6)) for _ in range(200)]
    raw, left = defaultdict(int), defaultdict(set)
    for sentence in text:
        marked = ["<s>", *sentence, "</s>"]
        for length in (1, 2, 3):
            for start in range(len(marked) - length + 1):
                gram = tuple(marked[start : start + length])
                raw[gram] += 1
                left[gram].add(marked[start - 1] if start else None)

    def number(gram):
        return 0 if gram == ("<s>",) else raw[gram] if len(gram) == 3 or gram[0] == "<s>" else len(left[gram])

    tables = {length: {gram: number(gram) for gram in raw if len(gram) == length} for length in (1, 2, 3)}
    discounts = {n: discounts_of(np.array([*one.values()])) or (0.5, 1, 1.5) for n, one in tables.items()}

    def expected(context, word):
        length = len(context) + 1
        after = {gram: n for gram, n in tables[length].items() if gram[:-1] == context}
        lower = expected(context[1:], word) if context else 1 / 10  # a ... h, </s>, <unk>
        if not sum(after.values()):
            return lower
        taken = {gram: ((0, *discounts[length])[min(n, 3)]) for gram, n in after.items()}
        own = (*context, word)
        return (after.get(own, 0) - taken.get(own, 0) + sum(taken.values()) * lower) / sum(after.values())

    model = sections(arpa(text, 3))
    for context in [(), ("<s>",), ("h",), ("<s>", "h"), ("g", "h"), ("a", "b")]:
        for word in ["a", "h", "</s>", "<unk>"]:
            assert probability(model, context, word) == pytest.approx(expected(context, word), rel=1e-5)


def test_a_text_too_short_for_the_order():
    assert arpa([["a"]], 6) == arpa([["a"]], 3)
