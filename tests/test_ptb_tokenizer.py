"""The words of COCO's evaluation: recorded of Stanford's PTBTokenizer, and asked of it where it is there."""

from __future__ import annotations

import shutil
import subprocess
import unicodedata
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgpu.ptb_tokenizer import _scan
from capgpu.tokens import TOKENIZERS, coco_tokenize
from capgpu.vocabulary import SPECIAL_WORDS
from oracles.shared_data import coco_captions

# what pycocoevalcap drops of the program's tokens
PUNCTUATION = {"''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"}

#: Captions, and the words of CoreNLP 3.4.1's program without those marks, set apart by plain spaces.
RECORDED = {
    # clitics and apostrophes
    "A giraffe's head isn't here; it’s gone, they'll say": "a giraffe 's head is n't here it 's gone they 'll say",
    "I'm sure he'd can't won't DON'T the dogs' toys": "i 'm sure he 'd ca n't wo n't do n't the dogs toys",
    "two o'clock, O'Brien, ma'am, an hors d'oeuvre, y'all": "two o'clock o'brien ma'am an hors d'oeuvre y' all",
    "the '90s, the 1950's, rock'n'roll, get 'em 'til ten": "the '90s the 1950 's rock 'n' roll get 'em 'til ten",
    "I cannot; gonna wanna gotta lemme gimme. 'Twas": "i can not gon na wan na got ta lem me gim me 't was",
    "abc'def dog'cat": "abc def dog cat",
    # brackets, quotes, dashes, ellipses
    'a (b) [c] {d} "e" `f` “g” ‘h’ «i»': "a -lrb- b -rrb- -lsb- c -rsb- -lcb- d -rcb- e f g h i",
    "a - b -- c --- d—e–f wait... what.. no…": "a b c d e f wait what no",
    "-lrb- a -rrb-": "-lrb- a -rrb-",
    "what? no! really?! yes!! ??": "what no really ?! yes !! ??",
    # hyphens, slashes, periods inside of words
    "a well-lit T-shirt, tub/shower and/or x_ray": "a well-lit t-shirt tub/shower and/or x_ray",
    "on the ground.A dog by the stair.s end.Two": "on the ground.a dog by the stair.s end.two",
    "close- up -like un-lived a/ b w/ w/o": "close up like un-lived a / b w / w/o",
    # periods that belong to a word
    "Mr. Smith of the U.S. at 5 p.m. on St. John St.": "mr. smith of the u.s. at 5 p.m. on st. john st.",
    "8th Ave. and Fort York Blvd. sign": "8th ave. and fort york blvd. sign",
    "J. Smith and W. Centre st.": "j. smith and w. centre st.",
    "Plan B. The dog. Plan B. then": "plan b the dog plan b. then",
    "No. 5 is no. A T.V. and t.v. set.": "no. 5 is no a t.v. and t.v. set",
    "Wash. state, we wash. Mass. and mass.": "wash. state we wash mass. and mass",
    # numbers
    "1,000.50 of 3rd 22nd 1950s 4x4 B-25 747": "1,000.50 of 3rd 22nd 1950s 4x4 b-25 747",
    "12:43 and 12:43pm, 10-29-2011, 11.01.2009, 1/2/2003": "12:43 and 12:43 pm 10-29-2011 11.01.2009 1/2/2003",
    "22 3/4 st and 1/2 cup, 50/50": "22\u00a03/4 st and 1/2 cup 50/50",
    "call 555-1234 or (555) 555-1234": "call 555-1234 or -lrb-555-rrb-\u00a0555-1234",
    "5½ of $5.00, £5, 5¢, €5, 5% #1": "5 1/2 of $ 5.00 # 5 5 cents $ 5 5 % # 1",
    "5'6\" tall": "5 6 tall",
    # signs and other scripts
    "AT&T & a&b &amp; a=b + c * d ** e @ f ~": "at&t & a & b & a = b + c * d ** e @ f ~",
    "café naïve ñandú 日本語 m² 90°": "café naïve ñandú 日本語 m ² 90 °",
    "a 😀 dog☃cat": "a dog ☃ cat",
    "एक कुत्ता घास पर दौड़ रहा है। बच्चे's कुत्ता-घर": "एक कुत्ता घास पर दौड़ रहा है । बच्चे 's कुत्ता घर",
    "كَلْبٌ يَجْرِي، على العشب؟ ١٢٣ שָׁלוֹם עולם": "كَلْبٌ يَجْرِي ، على العشب ؟ ١٢٣ שָׁלוֹם עולם",
    "หมาวิ่งอยู่บนสนามหญ้า தமிழ் மொழி తెలుగు বাংলা": "หมาวิ่งอยู่บนสนามหญ้า தமிழ் மொழி తెలుగు বাংলা",
    "Tie\u0301ng Vie\u0323\u0302t, cafe\u0301 \u0301a": "tie\u0301ng vie\u0323\u0302t cafe\u0301 \u0301a",
    "❤\ufe0f 1\ufe0f\u20e3 👨\u200d👩\u200d👧 ✌🏻 🇫🇷 ☀\ufe0fsun ™": "❤ 1 ✌ ☀ sun ™",
    "\ufeffa\u200bb \u200ca\u200d \u2060 a\u200e\u202a \x01 می\u200cرود": "a b a a می رود",
    "犬が。走る 개가 달린다！ собака.кот È. é/b a/bé Ⅷ": "犬が 。 走る 개가 달린다 ！ собака.кот è é / b a/b é",
    "l’été c’est d'un j’ai rock’n’roll a‐b 5٫5 T-shirt-é ΣΚΥΛΟΣ-Ο": (
        "l’été c’est d'un j’ ai rock ’n’ roll a‐b 5٫5 t-shirt-é σκυλοσ-ο"
    ),
    "see http://www.foo.com/x?y=1 or a@b.com #tag <b>": "see http://www.foo.com/x?y=1 or a@b.com #tag <b>",
    "fun :) :-( :D": "fun :-rrb- :--lrb- :d",
    " \t ": "",
}


@pytest.mark.parametrize("caption", RECORDED)
def test_unusual_captions_have_the_recorded_words(caption):
    assert coco_tokenize(caption) == [word for word in RECORDED[caption].split(" ") if word]


def ask_java(captions: list[str], folder: Path) -> list[list[str]]:
    """Run the program that pycocoevalcap runs, and drop what it drops."""
    package = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    if shutil.which("java") is None:
        pytest.skip("there is no java on PATH")
    jar = Path(package.__file__).parent / package.STANFORD_CORENLP_3_4_1_JAR
    # each caption comes before one that begins with A, as most of them do: the program looks that far ahead
    lines = [line for caption in captions for line in (caption.replace("\n", " "), "A dog")]
    (folder / "captions.txt").write_text("\n".join(lines), encoding="utf-8")
    program = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    command = [*program, "-preserveLines", "-lowerCase", str(folder / "captions.txt")]
    out = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout.decode()
    return [
        [word for word in line.rstrip().split(" ") if word and word not in PUNCTUATION]
        for line in out.split("\n")[: 2 * len(captions) : 2]
    ]


def test_the_recorded_words_are_those_of_the_stanford_tokenizer(tmp_path):
    for caption, words in zip(RECORDED, ask_java(list(RECORDED), tmp_path), strict=True):
        assert " ".join(words) == RECORDED[caption]


def test_all_coco_captions_have_the_stanford_tokenizers_words(tmp_path):
    captions = [caption for own in coco_captions().values() for caption in own]
    assert len(captions) == 25014
    for caption, words in zip(captions, ask_java(captions, tmp_path), strict=True):
        assert coco_tokenize(caption) == words


#: Words of many scripts, one line a language; vowel signs, accents and joiners are part of them.
SCRIPTS = """
एक कुत्ता घास पर दौड़ रहा है लड़की ज़मीन के पीछे
كَلْبٌ يَجْرِي على العشب رجل يركب دراجة
หมาวิ่งอยู่บนสนามหญ้า ผู้ชายกำลังขี่จักรยาน
שָׁלוֹם עולם כלב רץ על הדשא
తెలుగు భాష కుక్క గడ్డి మీద
தமிழ் மொழி நாய் புல்வெளியில் ஓடுகிறது
বাংলা ভাষা কুকুর ঘাসের উপর দৌড়ায়
می\u200cرود سگ کتاب\u200cها روی چمن
собака бежит по траве ёж Й И\u0306
Ο σκύλος τρέχει στο γρασίδι ΣΚΥΛΟΣ
犬が芝生を走る パーティー か\u3099
一只狗在草地上跑 개가 잔디 위를 달린다
con chó chạy trên cỏ tie\u0301ng Vie\u0323\u0302t
été à côté cœur Straße größer İstanbul ışık
ឆ្កែរត់លើស្មៅ ခွေး ပြေး བོད་སྐད ውሻ ይሮጣል
շունը վազում է ძაღლი დარბის ایک کتا ہے
බල්ලා දුවනවා മലയാളം നായ ಕನ್ನಡ ನಾಯಿ ગુજરાતી કૂતરો
ਪੰਜਾਬੀ ਕੁੱਤਾ ໝາແລ່ນ ᠮᠣᠩᠭᠣᠯ нохой
"""
SIGNS = [
    *(
        "❤\ufe0f",
        "👍🏽",
        "👨\u200d👩\u200d👧",
        "🇫🇷",
        "1\ufe0f\u20e3",
        "☀",
        "✌🏻",
        "\u200b",
        "\u200c",
        "\u200d",
        "\ufe0f",
    ),
    *("\u200e", "\u2060", "\ufeff", "™", "°", "…", "“", "”", "—", "،", "।", "؟", "。", "、", "！", "¿", "¡", "·", "•"),
    *("½", "€5", "3²", "१२", "٣", "①"),
]
ENGLISH = ["A", "dog", "runs", "over", "the", "grass", "the", "man's", "T-shirt", "at", "5", "with", "2", "birds"]


def mixed_captions(count: int, seed: int) -> list[str]:
    """Write captions of one to three of the scripts, English and signs, with marks between some words."""
    random = Random(seed)
    languages = [line.split() for line in SCRIPTS.strip().split("\n")]
    captions = []
    for _ in range(count):
        words = [word for own in random.sample(languages, random.randint(1, 3)) for word in own]
        parts = [random.choice(random.choices([words, SIGNS, ENGLISH], [7, 2, 2])[0]) for _ in range(9)]
        text = parts[0]
        for part in parts[1:]:
            text += random.choice([" "] * 9 + [", ", "-", "'s ", ". ", " 2 ", "\u200d"]) + part
        captions.append(text + random.choice(["", " .", ".", "!", "।"]))
    return captions


def test_captions_of_mixed_scripts_have_the_stanford_tokenizers_words(tmp_path):
    captions = mixed_captions(5_000, seed=0)
    different = [
        (caption, words, coco_tokenize(caption))
        for caption, words in zip(captions, ask_java(captions, tmp_path), strict=True)
        if coco_tokenize(caption) != words
    ]
    assert not different, f"{len(different)}: {different[:3]}"


def test_each_non_ascii_character_is_classified_as_by_the_stanford_tokenizer(tmp_path):
    chars = [chr(code) for code in range(0xA0, 0x3000) if chr(code) not in "\u2028\u2029"]
    captions = [context.format(char) for char in chars for context in ("a {} b", "a{}b")]
    different = [
        (ascii(caption), words, coco_tokenize(caption))
        for caption, words in zip(captions, ask_java(captions, tmp_path), strict=True)
        if coco_tokenize(caption) != words
    ]
    assert not different, f"{len(different)}: {different[:9]}"


@given(st.text(max_size=20))
def test_no_word_is_invisible(text):
    for word in coco_tokenize(f"a {text} \u200b b"):
        assert any(unicodedata.category(char) not in ("Cc", "Zs", "Cn", "Co") for char in word)


@given(st.text(max_size=60) | st.text("ab'’nt.-/ 12:,A($!?\"", max_size=30))
def test_words_of_any_text_are_lower_case(text):
    words = coco_tokenize(text)
    assert all(words)
    assert not set(words) & {*PUNCTUATION, *SPECIAL_WORDS}
    assert not any(space in word for word in words for space in " \t\r\n")
    assert words == [word.lower() for word in words]


@given(
    st.lists(
        st.sampled_from(["a", "A", "dog", "dog,", "cannot", "Gonna", "st", "Wash", "no", "s", "the", "n"]), min_size=1
    ),
    st.sampled_from(["", ".", " .", ". ", "\n", ","]),
)
def test_the_fast_path_for_plain_captions_gives_the_same_words(words, end):
    caption = " ".join(words) + end
    assert coco_tokenize(caption) == _scan(caption)


def test_special_words_in_a_text_are_ordinary_words():
    assert coco_tokenize("<NULL> <START> <END> <UNK>") == ["<null>", "<start>", "<end>", "<unk>"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["a", "a.", "a-", "1", "1/", "o'", "n't", "<a", "www.", "a@", "-", "(", " 1 ", "é", "a,", "1:", " " * 8]
)
def test_the_time_does_not_grow_quadratically_with_the_text(piece):
    coco_tokenize(piece * 20_000)
    coco_tokenize("a" + piece * 20_000 + "!")


@pytest.mark.parametrize("tokenize", TOKENIZERS.values())
def test_tokenizers_refuse_lists(tokenize):
    with pytest.raises(TypeError, match="one string, got list"):
        tokenize(["a", "dog"])
