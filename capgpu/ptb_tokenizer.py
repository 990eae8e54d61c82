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

Not covered: emoticons but the plainest, entities of HTML but ``&amp;``; a run of letters is a word in any script.
"""

from __future__ import annotations

import re

from capgpu.errors import InvalidTypeError

__all__ = ["coco_tokenize"]

_LETTER = r"[^\W\d_]"
_ALNUM = r"[^\W_]"
_WORD = r"(?:[^\W_]|[\u0300-\u036f])+"
_NUMBER = r"\d+(?:[.,:]\d+)*|(?:[.,:]\d+)+"
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
    ("space", r"\s+"),
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
    ("elided", r"'(?:em|til|cause|n'|n(?!\w))|['’]\d\ds?(?![\w'’:/-])"),
    ("negated", rf"{_LETTER}*?(?!n){_LETTER}(?=n['’]t)"),
    (
        "apostrophe",
        rf"(?:[dol]['’]{_LETTER}{{2,}}|{_LETTER}+[aeiou]['’][aeiou]{_LETTER}*|ma['’]am|c['’]mon|n?e['’]er|ol['’]"
        rf"|y['’](?={_LETTER}))(?:-{_WORD})*",
    ),
    # numbers with their marks
    ("date", r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}(?!\d)"),
    ("fraction", r"(?:\d{1,4}[- \u00a0])?\d{1,4}/\d{1,4}(?!\d|/\d)"),
    ("time", r"\d{1,2}:\d\d(?=[ap]m)"),
    # words with hyphens, in front of which other words may be stuck; those said in one
    ("hyphened", rf"{_ALNUM}(?:{_ALNUM}|[.,_](?=\S)){{0,60}}(?:[-_/]{_ALNUM}+){{0,20}}-{_ALNUM}+(?:[-_/]{_ALNUM}+)*"),
    ("joined", r"can(?=not\b)|(?:gon|wan)(?=na\b)|got(?=ta\b)|(?:lem|gim)(?=me\b)|'t(?=is\b|was\b)"),
    # words with periods
    ("acronym", rf"(?:{_LETTER}\.)+{_LETTER}(?:\.(?!\w)|(?![\w.]))"),
    ("initial", rf"{_LETTER}\.(?!\w|\s*$|\s+(?-i:(?:{_SENTENCE_STARTS})\b|M[rs]\.))"),
    ("abbreviation", rf"(?:{_ABBREVIATIONS}|(?-i:{_CAPITAL_ABBREVIATIONS}))\.(?!\w)|nos?\.(?=[,;:!?]|\s+\d)"),
    ("sentences", rf"{_LETTER}[^\W_]*(?:[.!?]{_LETTER}[^\W_]*)+"),
    ("stopped", rf"{_LETTER}[^\W_]*\.(?=[,;:])"),
    # words and numbers
    ("ampersand", r"(?-i:[A-Z]+(?:&[A-Z]+)+)"),
    ("word", rf"(?=\d*{_LETTER}){_WORD}(?:[_/]{_WORD})*"),
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
    "€": "$", "¤": "$", "£": "#", "¢": "cents", "¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"
}  # fmt: skip
#: Characters that the program writes with others. Two spaces keep a fraction apart from a number before it.
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("“”«»", '"'),
        **dict.fromkeys("‘‛‹›", "`"),
        **dict.fromkeys("–—―", " -- "),
        "…": " ... ",
        **dict.fromkeys("\u00ad\u2010\u2011", ""),
        **{sign: f"  {ascii_text}  " for sign, ascii_text in _IN_ASCII.items()},
        **{sign: f" {sign} " for sign in "¹²³⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉"},
    }
)


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
    if not text.isascii():
        text = text.translate(_CHARACTERS)
    tokens = []
    for found in _SCANNER.finditer(text):
        kind, token = found.lastgroup, found.group()
        if kind in ("space", "mark") or token > "\uffff":
            continue
        if kind == "bracket":
            token = _BRACKETS.get(token, token)
        elif kind in ("clitic", "negated"):
            token = token.replace("’", "'")
        elif kind in ("fraction", "phone", "smiley"):
            token = token.replace(" ", "\u00a0").replace("(", "-lrb-").replace(")", "-rrb-")
        elif kind == "entity":
            token = "&"
        tokens.append(token.lower())
    return tokens
