"""Write capgpu/ptb_characters.py: what Stanford's PTBTokenizer does with each character beyond ASCII.

Runs the tokenizer of pycocoevalcap (CoreNLP 3.4.1, the extra coco-metrics; needs a Java runtime) on each character by
itself, between letters and between digits::

    python tools/build_ptb_characters.py > capgpu/ptb_characters.py
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

CONTEXTS = ("x {} y", "a{}b", "5{}5")
HEADER = '''"""What Stanford's PTBTokenizer does with characters beyond ASCII: written by tools/build_ptb_characters.py.

Ranges of code points in hexadecimal. Characters that are in none of them are dropped and separate words, as are those
beyond the Basic Multilingual Plane.
"""

from __future__ import annotations

__all__ = ["LETTERS", "MARKS", "SIGNS"]
'''


def words_of(lines: list[str]) -> list[list[str]]:
    """Return the tokenizer's tokens of each line."""
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(lines))
        file.flush()
        command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
        out = subprocess.run([*command, "-preserveLines", file.name], capture_output=True, check=True).stdout.decode()
    return [line.split() for line in out.split("\n")[: len(lines)]]


def ranges(codes: Iterable[int]) -> str:
    """Format increasing code points as hexadecimal ranges: ``aa b5 c0-d6``."""
    ordered = list(codes)
    starts = [0, *(i for i, (a, b) in enumerate(pairwise(ordered), 1) if b != a + 1), len(ordered)]
    parts = [(ordered[a], ordered[b - 1]) for a, b in pairwise(starts)]
    return " ".join(f"{first:x}" if first == last else f"{first:x}-{last:x}" for first, last in parts)


def assignment(name: str, comment: str, text: str) -> str:
    """Return the source of a string assignment with lines of at most 120 characters."""
    lines, line = [], ""
    for part in text.split():
        if len(line) + len(part) > 108:
            lines.append(line)
            line = ""
        line += part + " "
    body = "\n".join(f'    "{line}"' for line in [*lines, line.rstrip()])
    return f"#: {comment}\n{name} = (\n{body}\n)"


def main() -> None:
    """Run the tokenizer and print the module."""
    # without surrogates and the code points that end a line
    chars = [chr(c) for c in range(0x80, 0x10000) if not 0xD800 <= c < 0xE000 and c not in (0x85, 0x2028, 0x2029)]
    spaced, between_letters, between_digits = (
        words_of([context.format(char) for char in chars]) for context in CONTEXTS
    )
    letters, marks, signs = [], [], []
    for char, spaced_tokens, letter_tokens, digit_tokens in zip(
        chars, spaced, between_letters, between_digits, strict=True
    ):
        if spaced_tokens != ["x", char, "y"]:
            continue
        if letter_tokens != [f"a{char}b"]:
            signs.append(ord(char))
        elif digit_tokens == [f"5{char}5"]:
            letters.append(ord(char))
        else:
            marks.append(ord(char))
    print(HEADER)
    print(assignment("LETTERS", "Letters and digits.", ranges(letters)))
    print(assignment("MARKS", "Characters of words that do not make a word of a number.", ranges(marks)))
    print(assignment("SIGNS", "Words of one character.", ranges(signs)))


if __name__ == "__main__":
    main()
