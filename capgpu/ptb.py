"""Captions to words as COCO's evaluation takes them: Penn Treebank style, lower case, punctuation left out.

COCO's evaluation runs Stanford CoreNLP 3.4.1's ``PTBTokenizer -preserveLines -lowerCase`` and drops a list of
punctuation marks. The rules below were found by asking that program what it makes of captions; they are one table,
tried from top to bottom at each place of the text.
"""

from __future__ import annotations

import re

__all__ = ["coco_tokenize"]

_APOSTROPHE = "['’]"
_LETTER = r"[^\W\d_]"
_WORD = r"[^\W_]+"
_NUMBER = r"\d*(?:[.,:]\d+)+|\d+"
_SENTENCE_STARTS = "A|The|It|He|She|In|This|They|There|But"
#: Abbreviations whose period belongs to them.
_ABBREVIATIONS = (
    "st|ave|blvd|rd|ft|ky|mr|mrs|ms|dr|prof|jr|sr|vs|etc|inc|co|corp|ltd|"
    "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec"
)

#: Kinds of tokens and their patterns.
_RULES = (
    ("tag", r"</?[A-Za-z!?][^<>\n]*>"),
    ("address", r"https?://[^\s<>\"]*[^\s<>\".,;:!?)]|www\.(?:[^\s<>\".,;:!?)/]+\.)+\w{2,4}(?:/[^\s<>\"]*)?"),
    ("mail", r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    ("handle", r"[@#][A-Za-z_]\w*"),
    # apostrophes: clitics (dog's, he'll), what lost its front ('em, '90s), words said in one (cannot, 'twas)
    ("clitic", rf"{_APOSTROPHE}(?:s|m|d|ll|re|ve)(?!\w)|n{_APOSTROPHE}t(?!\w)"),
    ("elided", rf"{_APOSTROPHE}(?:em|til|cause|n{_APOSTROPHE}?|\d\ds?)(?!\w)"),
    ("joined", rf"can(?=not\b)|(?:gon|wan)(?=na\b)|got(?=ta\b)|(?:lem|gim)(?=me\b)|{_APOSTROPHE}t(?=is\b|was\b)"),
    ("negated", rf"{_LETTER}+?(?=n{_APOSTROPHE}t(?!\w))"),
    (
        "apostrophe",
        rf"(?:[dol]{_APOSTROPHE}{_LETTER}{{2,}}|{_LETTER}+[aeiou]{_APOSTROPHE}[aeiou]{_LETTER}*|ma{_APOSTROPHE}am"
        rf"|c{_APOSTROPHE}mon|n?e{_APOSTROPHE}er|ol{_APOSTROPHE}|y{_APOSTROPHE}(?={_LETTER}))(?:-{_WORD})*",
    ),
    # numbers with their marks
    ("date", r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}"),
    ("fraction", r"(?:\d{1,4}[- \u00a0])?\d{1,4}/\d{1,4}(?![\d/])"),
    ("time", r"\d{1,2}:\d\d(?=[ap]m)"),
    # words
    ("acronym", rf"\b(?:{_LETTER}\.)+{_LETTER}(?:\.(?!\w)|(?![\w.]))"),
    ("initial", rf"\b{_LETTER}\.(?=\s+\S)(?!\s+(?-i:{_SENTENCE_STARTS})\b)"),
    ("abbreviation", rf"(?:{_ABBREVIATIONS})\.(?!\w)"),
    ("dotted", rf"{_WORD}(?:\.{_LETTER}+)+(?![\w-])"),
    ("word", rf"(?=\d*{_LETTER})(?:{_WORD}(?:[-_/]{_WORD})*)|\d+(?:-{_WORD})+"),
    ("number", rf"[-+]?(?:{_NUMBER})"),
    # everything else
    ("bracket", r"[(){}\[\]]"),
    ("exclamation", r"[!?]{2,}"),
    ("mark", r"[.,;:!?'\"`’‘“”–—-]"),
    ("sign", r"\S"),
)
_SCANNER = re.compile("|".join(f"(?P<{name}>{pattern})" for name, pattern in _RULES), re.IGNORECASE)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


def coco_tokenize(text: str) -> list[str]:
    """Split a caption as COCO's evaluation does: lower-case words, clitics apart, punctuation left out."""
    if not isinstance(text, str):
        raise TypeError(f"coco_tokenize takes one string, got {type(text).__name__}: tokenize each caption by itself")
    tokens = []
    for found in _SCANNER.finditer(text):
        kind, token = found.lastgroup, found.group().lower()
        if kind == "mark":
            continue
        if kind == "bracket":
            token = _BRACKETS[token]
        elif kind == "fraction":
            token = token.replace(" ", "\u00a0")
        tokens.append(token)
    return tokens
