"""Signs of transcription that are not words: tags, noises, HTML, and where they come from.

- GigaSpeech: ``<COMMA>`` and its like become punctuation; ``<SIL>``, ``<MUSIC>``, ``<NOISE>``, ``<OTHER>`` are removed.
- TED-LIUM: ``{NOISE}``, ``<unk>``, ``ignore_time_segment_in_scoring``; ``it 's`` is "it's", ``the(2)`` "the".
- Switchboard and Fisher, as in Kaldi's recipe: ``[noise]``, ``[laughter-yes]`` is "yes", ``[was/wasn't]`` "was",
  ``ab[solute]-`` "ab-", ``about_1`` "about", ``((guess))`` "guess", ``<b_aside>``.
- Transcription services: ``(inaudible)``, ``[crosstalk 00:12:31]``, ``(laughs)``.
- HTML and subtitles: ``&amp;``, ``<i>``, ``<br/>``.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from sft_speech.text.normalize import NONE, Normalized

# Other texts have none of these signs. It begins with a set of characters, for which re searches fastest.
SUSPECT = re.compile(r"[<\[({&_'](?:(?<!')|(?<=\s')|(?<=\sn')(?=t))", re.IGNORECASE)

ENTITY = re.compile(r"&(?:#\d{1,6}|#[xX][\da-fA-F]{1,5}|[A-Za-z]{2,8});")
INLINE_TAG = re.compile(r"</?(?:i|b|u|s|em|strong|font|span|small|big|sub|sup|c|v|ruby|rt)(?:[\s.][^<>]*)?/?>", re.I)
BLOCK_TAG = re.compile(r"</?(?:br|p|div|li|ul)(?:\s[^<>]*)?/?>", re.IGNORECASE)
PUNCTUATION = {"COMMA": ",", "PERIOD": ".", "QUESTIONMARK": "?", "EXCLAMATIONPOINT": "!"}
PUNCTUATION_TAG = re.compile(rf"\s*<({'|'.join(PUNCTUATION)})>", re.IGNORECASE)

EVENTS = (
    "(?:background|spoken|vocalized|vocali[sz]ed|human|non-?speech)?[ _-]?noises?|laugh(?:ter|s|ing)?|cough(?:s|ing)?|"
    "breath(?:s|e|es|ing)?|inhal(?:e|es|ing)|exhal(?:e|es|ing)|sniff(?:s|le|les|ing)?|sneez(?:e|es|ing)|"
    "sigh(?:s|ing)?|lip[ _-]?smack(?:s|ing)?|smack|throat[ _-]?clear(?:s|ing)?|clears[ _]throat|silence|sil|"
    "(?:background[ _-])?music|applause|unintelligible|inaudible|indiscernible|cross[ _-]?talk|blank[ _-]audio|spn|nsn"
)
TAGS = "other|unk|unknown|s|/s|pause|[be]_aside|beep|click|static|hes"  # in angles and square brackets only
TIME = r"(?:[\s,@]+\d{1,2}:\d{2}(?::\d{2})?(?:\.\d+)?)?"
EVENT = re.compile(
    rf"<\s*(?:{EVENTS}|{TAGS}){TIME}\s*>|\[\s*(?:{EVENTS}|{TAGS}){TIME}\s*\]|"
    rf"\{{\s*(?:{EVENTS}){TIME}\s*\}}|\(\s*(?:{EVENTS}){TIME}\s*\)|\bignore_time_segment_in_scoring\b",
    re.IGNORECASE,
)
# (pattern, what is spoken)
SPOKEN = [
    (re.compile(r"\[laughter-([^\[\]\s]+)\]", re.IGNORECASE), r"\1"),
    (re.compile(r"\[([\w'-]+)/[\w'-]+\]"), r"\1"),
    (re.compile(r"(?<=\w)\[[\w']+\]-(?!\w)"), "-"),
    (re.compile(r"(?<!\w)-\[[\w']+\](?=\w)"), "-"),
    (re.compile(r"(?<=[A-Za-z'])_1\b"), ""),
    (re.compile(r"(?<=[A-Za-z]{2})\(\d\)"), ""),
    (re.compile(r"\(\(\s*(.*?)\s*\)\)"), r"\1"),
]
DUTCH = "(?:avond|morgen|nacht|middag|ochtend|winter|zomer|anderendaag|[a-z]+dag)s|graven|hertogen"  # 's avonds
NEGATED = "don|won|can|ain|isn|wasn|didn|aren|hadn|hasn|couldn|wouldn|shouldn|doesn|haven|weren|mustn|needn"
CLITIC = re.compile(
    rf"(?<=[A-Za-z])\s(?:'(?:s(?!\s(?:{DUTCH}))|re|ll|ve|d|m)|n't)\b|\b(?:{NEGATED})\s't\b", re.IGNORECASE
)
UNKNOWN = re.compile(r"\[[^\[\]]{1,30}\]|<[^<>]{1,30}>|\{[^{}]{1,30}\}|\([^()]{1,30}\)")


class Cleaned(NamedTuple):
    """A transcript without signs of transcription.

    Args:
        text: what was spoken.
        marks: the signs that were removed or replaced.
        unknown: words in brackets that no known convention explains; they are still in the text.
    """

    text: str
    marks: Counter[str] = NONE
    unknown: Counter[str] = NONE


def clean(text: str, language: str | None = None) -> Cleaned:
    """Return a transcript without the signs of known conventions.

    Args:
        language: its code; clitics are joined (``it 's``) if it is English or not known.
    """
    if not SUSPECT.search(text):
        return Cleaned(text)
    marks: Counter[str] = Counter()

    def replace(pattern: re.Pattern[str], spoken: str | Callable[[re.Match[str]], str], text: str) -> str:
        def noted(match: re.Match[str]) -> str:
            written = spoken(match) if callable(spoken) else match.expand(spoken)
            if written != match[0]:
                marks[match[0].strip()] += 1
            return written

        return pattern.sub(noted, text)

    for _ in range(2):  # &amp;#39; was escaped twice
        text = replace(ENTITY, lambda match: html.unescape(match[0]), text)
    text = replace(PUNCTUATION_TAG, lambda match: PUNCTUATION[match[1].upper()], text)
    text = replace(BLOCK_TAG, " ", replace(EVENT, " ", text))
    text = replace(INLINE_TAG, "", text)
    for pattern, spoken in SPOKEN:
        text = replace(pattern, spoken, text)
    if language is None or language.lower().replace("_", "-").split("-")[0] == "en":
        text = replace(CLITIC, lambda match: "".join(match[0].split()), text)
    text = " ".join(text.split()) if marks else text
    return Cleaned(text, marks, Counter(UNKNOWN.findall(text)))


@dataclass(frozen=True)
class WithoutMarks:
    """Normalizes transcripts without their signs of transcription.

    Args:
        normalize: the normalizer of the rest.
        language: see :func:`clean`.
    """

    normalize: Callable[[str], Normalized]
    language: str | None

    def __call__(self, text: str) -> Normalized:
        cleaned = clean(text, self.language)
        normalized = self.normalize(cleaned.text)
        if not cleaned.marks and not cleaned.unknown:
            return normalized
        return normalized._replace(marks=cleaned.marks, unknown_marks=cleaned.unknown)
