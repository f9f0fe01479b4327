"""A language model of three words in ARPA."""

from __future__ import annotations

CHARACTERS = "enotw"
# Base 10 logarithms, as in ARPA; ("one", "two") is likely, ("one", "ten") is not.
UNIGRAMS = {"<s>": (-99, -0.3), "</s>": (-1.0, 0), "<unk>": (-2.0, 0), "one": (-0.5, -0.2), "two": (-0.7, -0.2)}
UNIGRAMS |= {"ten": (-0.7, -0.2)}
BIGRAMS = {("one", "two"): -0.1, ("one", "ten"): -3.0, ("two", "</s>"): -0.4}


def arpa(path, unigrams=UNIGRAMS, bigrams=BIGRAMS, case=str):
    lines = ["\\data\\", f"ngram 1={len(unigrams)}", f"ngram 2={len(bigrams)}", "", "\\1-grams:"]
    named = {word: word if word.startswith("<") else case(word) for word in unigrams}
    lines += [f"{p}\t{named[word]}\t{backoff}" for word, (p, backoff) in unigrams.items()]
    lines += ["", "\\2-grams:", *(f"{p}\t{named[a]} {named[b]}" for (a, b), p in bigrams.items()), "", "\\end\\", ""]
    path.write_text("\n".join(lines))
    return str(path)
