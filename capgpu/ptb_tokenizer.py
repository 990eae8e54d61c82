"""Captions to words as COCO's evaluation takes them: Penn Treebank style, lower case, punctuation left out.

COCO's evaluation runs Stanford CoreNLP 3.4.1's ``PTBTokenizer -preserveLines -lowerCase`` and drops a list of
punctuation marks. The rules below were found by asking that program what it makes of captions; they are one table,
tried from top to bottom at each place of the text. They cover

- clitics (``dog's``, ``he'll``, ``isn't``), words said in one (``cannot``, ``gonna``, ``'twas``), elided words
  (``'em``, ``'til``, ``'90s``) and apostrophes inside words (``o'clock``, ``O'Brien``);
- numbers with their marks (``1,000.5``, ``12:30pm``, ``22 3/4``, ``10-29-2011``, ``555-1234``);
- words joined by hyphens, slashes, underscores and single periods (``t-shirt``, ``and/or``, ``ground.A``);
- periods that belong to a word: acronyms, initials, abbreviations (``U.S.``, ``J. Smith``, ``St.``);
- brackets, which become words (``-lrb-``), quotes, dashes and ellipses, which are dropped, runs of ``!`` and ``?``,
  which are kept as they are kept there, and signs of currency, which that program writes in ASCII;
- addresses, hash tags, tags of markup and smileys, each one word.

Characters beyond ASCII are letters, marks that continue a word (vowel signs and accents of most scripts), signs that
are words, or dropped, as that program has them (``ptb_characters.py``). Dropped are zero-width characters, variation
selectors, joiners, emoji and, since its tables are old, the vowel signs of some scripts (Khmer, Burmese, Tibetan). The
rules see one placeholder for all characters of a kind.

Not covered: emoticons but the plainest, entities of HTML but ``&amp;``.
"""

from __future__ import annotations

import re
from bisect import bisect

from capgpu.errors import InvalidTypeError
from capgpu.ptb_characters import LETTERS, MARKS, SIGNS

__all__ = ["coco_tokenize"]

_LETTER = r"[^\W\d_]"
_ALNUM = r"[^\W_]"
#: Placeholders of a letter, a mark, a sign and a dropped character beyond ASCII.
_A_LETTER, _A_MARK, _A_SIGN, _A_DROPPED = "\u0250", "\u0301", "\u2603", "\ue000"
_WORD = rf"(?:[^\W_]|{_A_MARK})+"
_NUMBER = r"\d+(?:[.,:\u066b\u066c]\d+)*|(?:[.,:]\d+)+"
#: A word that begins with a letter or a mark.
_STARTED = rf"(?:{_LETTER}|{_A_MARK})(?:[^\W_]|{_A_MARK})*"
#: After one letter and a period, these begin a new sentence.
_SENTENCE_STARTS = (
    "A|About|According|After|An|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Now|Once|One|Other|Our|"
    "She|Since|So|Some|Such|That|The|Their|Then|There|These|They|This|We|What|When|While|Yet|You"
)
#: Words whose period belongs to them.
_ABBREVIATIONS = (
    "st|ave|blvd|rd|ft|sq|mt|ct|ste|bldg|dept|est|"
    "mr|mrs|ms|dr|prof|jr|sr|gov|sen|rep|gen|col|capt|lt|sgt|maj|cmdr|cpl|cpt|pvt|pfc|adm|rev|hon|pres|supt|messrs|mme|"
    "vs|etc|inc|co|corp|ltd|bros|cos|assn|univ|intl|natl|ext|tel|al|cf|ph|esq|"
    "jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec|mon|tues|tue|wed|thurs|thu|fri|"
    "ala|ariz|calif|colo|conn|fla|ga|ind|kan|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wis|wisc|wyo"
)
#: The same, with a capital alone.
_CAPITAL_ABBREVIATIONS = "Ark|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash"

#: Kinds of tokens and their patterns.
_RULES = (
    ("space", rf"[\s{_A_DROPPED}\u066b\u066c]+"),
    ("tag", r"</?[A-Za-z!?][^<>\n]*>"),
    ("address", r"https?://[^\s<>\"]*[^\s<>\".,;:!?)]|www\.(?:[^\s<>\".,;:!?)/]+\.)+\w{2,4}(?:/[^\s<>\"]*)?"),
    ("mail", r"[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+"),
    ("handle", r"[@#][A-Za-z_]\w*"),
    ("phone", r"(?:\+\d{1,3}[- ])?(?:\(\d{2,4}\)[- ]?|\d{2,4}[- ])\d{3,4}[- ]\d{3,5}(?![\w-])"),
    ("entity", "&amp;"),
    ("bracket", r"[(){}\[\]]|-[lr][rsc]b-"),
    ("smiley", r"[:;=]-?[()dp](?!\w)"),
    # apostrophes
    ("clitic", rf"['’](?:s|m|d|ll|re|ve)(?!\w)|n['’]t{_LETTER}*"),
    ("elided", r"'(?:em|til|cause)|['’]n(?:['’]|(?!\w))|['’]\d\ds?(?![\w'’:/-])"),
    ("negated", rf"{_LETTER}*?(?!n){_LETTER}(?=n['’]t)"),
    (
        "apostrophe",
        rf"(?:[dol]['’]{_LETTER}{{2,}}|(?-i:[A-HJ-XZn])['’](?!(?:re|ve|ll)\b){_LETTER}{{2,}}|c['’]est|{_LETTER}+[aeiou]['’][aeiou]{_LETTER}*|ma['’]am|c['’]mon|n?e['’]er|ol['’]"
        rf"|y['’](?={_LETTER}))(?:-{_WORD})*|[dlj]['’]",
    ),
    # numbers with their marks
    ("date", r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}(?!\d)"),
    ("fraction", r"(?:\d{1,4}[- \u00a0])?\d{1,4}/\d{1,4}(?!\d|/\d)"),
    ("time", r"\d{1,2}:\d\d(?=[ap]m)"),
    # words of ASCII with slashes and hyphens, in front of which other words may be stuck; words of any letters with
    # hyphens
    (
        "stuck",
        r"[a-z0-9](?:[a-z0-9]|[.,_](?=\S)){0,60}(?:[-_/][a-z0-9]+){0,20}-[a-z0-9]+(?:[-_/][a-z0-9]+)*(?!-?[^\W_])"
        r"|(?=[0-9/]{0,40}[a-z])(?=[a-z0-9_]*/)[a-z0-9]+(?:_[a-z0-9]+)*(?:/[a-z0-9]+(?:_[a-z0-9]+)*){1,2}",
    ),
    ("hyphened", rf"{_ALNUM}+(?:[-_]{_ALNUM}+){{0,20}}-{_ALNUM}+(?:[-_]{_ALNUM}+)*"),
    ("joined", r"can(?=not\b)|(?:gon|wan)(?=na\b)|got(?=ta\b)|(?:lem|gim)(?=me\b)|'t(?=is\b|was\b)"),
    # words with periods
    ("acronym", rf"(?:[a-z]\.)+[a-z]\.(?!\w)|(?:{_LETTER}\.)+{_LETTER}(?![\w.])"),
    ("initial", rf"[a-z]\.(?!\w|\s*$|\s+(?-i:(?:{_SENTENCE_STARTS})\b|M[rs]\.))"),
    ("abbreviation", rf"(?:{_ABBREVIATIONS}|(?-i:{_CAPITAL_ABBREVIATIONS}))\.(?!\w)|nos?\.(?=[,;:!?]|\s+\d)"),
    ("sentences", rf"{_STARTED}(?:[.!?]{_STARTED})+"),
    ("stopped", rf"{_STARTED}\.(?=[,;:])"),
    # words and numbers
    ("ampersand", r"(?-i:[A-Z]+(?:&[A-Z]+)+)"),
    ("word", rf"{_STARTED}(?:_{_WORD})*|(?=\d+{_LETTER}){_ALNUM}+(?:_{_WORD})*"),
    ("number", rf"[-+]?(?:{_NUMBER})"),
    # everything else
    ("shout", r"[!?]{2,}"),
    ("mark", r"\.{3}|-{2,4}|[.,;:!?'\"`’-]"),
    ("sign", r"-{5,}|\*{2,}|_+|\S"),
)
#: What nearly all captions are: words of ASCII letters, some with a comma behind them, and a period at the end.
_PLAIN = re.compile(r"\s*[A-Za-z]+(?:,?\s+[A-Za-z]+)*\s*(?:\.\s*)?")
_SAID_IN_ONE = frozenset({"cannot", "gonna", "wanna", "gotta", "lemme", "gimme"})
_WITH_PERIOD = frozenset(f"{_ABBREVIATIONS}|{_CAPITAL_ABBREVIATIONS.lower()}".split("|"))
_SCANNER = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _RULES), re.IGNORECASE)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_IN_ASCII = {
    "€": "$", "\x80": "$", "₠": "$", "¤": "$", "£": "#", "¢": "cents",
    "¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"
}  # fmt: skip
#: Characters that the program writes with others. Two spaces keep a fraction apart from a number before it.
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("“”«»", '"'),
        **dict.fromkeys("‘‛‹›", "`"),
        **dict.fromkeys("–—―", " -- "),
        "…": " ... ",
        "\u00ad": "",
        **{sign: f"  {ascii_text}  " for sign, ascii_text in _IN_ASCII.items()},
        **{sign: f" {sign} " for sign in "¹²³⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉"},
    }
)


def _kinds() -> dict[int, str]:
    """Return the first code point of each run of characters beyond ASCII of one kind, and its placeholder."""
    runs = {0x80: _A_DROPPED, 0x10000: _A_DROPPED}
    ends = set()
    for text, placeholder in ((LETTERS, _A_LETTER), (MARKS, _A_MARK), (SIGNS, _A_SIGN)):
        for part in text.split():
            first, _, last = part.partition("-")
            runs[int(first, 16)] = placeholder
            ends.add(int(last or first, 16) + 1)
    return dict.fromkeys(ends, _A_DROPPED) | runs


class _Placeholders(dict[int, str]):
    """What the rules see of each character: itself, or a placeholder; filled as characters occur."""

    def __init__(self) -> None:
        # hyphens of other scripts, and marks of numbers
        super().__init__(
            {0x058A: "-", 0x2010: "-", 0x2011: "-", 0x2019: "’", 0x2044: "\u2044", 0x066B: "\u066b", 0x066C: "\u066c"}
        )
        self._starts: list[int] = []
        self._kinds: list[str] = []

    def __missing__(self, code: int) -> str:
        if not self._starts:
            kinds = _kinds()
            self._starts = sorted(kinds)
            self._kinds = [kinds[start] for start in self._starts]
        char = chr(code)
        if code < 0x80:
            seen = char if char.isprintable() or char.isspace() else _A_DROPPED
        elif char.isspace():
            seen = char
        else:
            seen = self._kinds[bisect(self._starts, code) - 1]
            if seen == _A_LETTER and char.isdecimal():
                seen = char
        self[code] = seen
        return seen


_PLACEHOLDERS = _Placeholders()


def coco_tokenize(text: str) -> list[str]:
    r"""Split a caption into the words that COCO's evaluation compares.

    Equal to what pycocoevalcap's ``PTBTokenizer`` makes of each of the 25,014 captions of COCO's 2017 validation set.

    Parameters
    ----------
    text : str
        One caption.

    Returns
    -------
    list of str
        Words in lower case, none of them empty. A mixed number is one word with a no-break space: ``"1\u00a01/2"``.

    Raises
    ------
    TypeError
        If text is not a string.

    Notes
    -----
    That program reads on into the next caption of its file to decide whether a single letter with a period ends a
    sentence. Here the caption ends there: ``"12th Ave S."`` gives ``s``, as in front of a caption that begins with A.
    Of characters beyond the Basic Multilingual Plane (emoji) nothing is kept, as there.
    """
    if not isinstance(text, str):
        raise InvalidTypeError(
            f"coco_tokenize: expected one string, got {type(text).__name__}. Tokenize each caption separately."
        )
    if _PLAIN.fullmatch(text):
        words = text.lower().replace(",", " ").replace(".", " ").split()
        if _SAID_IN_ONE.isdisjoint(words) and words[-1] not in _WITH_PERIOD:
            return words
    return _scan(text)


def _scan(text: str) -> list[str]:
    """Tokenize any caption by the complete rules."""
    scanned_text = text
    if not (text.isascii() and text.isprintable()):
        text = text.translate(_CHARACTERS)
        scanned_text = text.translate(_PLACEHOLDERS)
    tokens = []
    for token_match in _SCANNER.finditer(scanned_text):
        kind, token = token_match.lastgroup, text[token_match.start() : token_match.end()]
        if kind in ("space", "mark"):
            continue
        if kind == "bracket":
            token = _BRACKETS.get(token, token)
        elif kind in ("clitic", "negated"):
            token = token.replace("’", "'")
        elif kind in ("fraction", "phone", "smiley"):
            token = token.replace(" ", "\u00a0").replace("(", "-lrb-").replace(")", "-rrb-")
        elif kind == "entity":
            token = "&"
        if "Σ-" in token:
            # Java's lower case of a sigma in front of a hyphen and a letter with cases is not that of a word's end
            token = re.sub("Σ-(?=(.))", lambda match: "σ-" if match[1].lower() != match[1].upper() else match[0], token)
        tokens.append(token.lower())
    return tokens
