"""A small corpus and its scores by pycocoevalcap 1.2, recorded so that tests need not have that package."""

from __future__ import annotations

#: Captions and their references, words set apart by plain spaces; "1\u00a01/2" is one word of COCO's tokens.
PICTURES = (
    (
        "a brown dog runs along the beach",
        ("a dog runs on the beach", "a brown dog is running along the sea", "the dog enjoys the sand"),
    ),
    ("two red kites in the sky", ("two kites fly high in a blue sky", "red kites in the sky over a field")),
    ("the the the the cat", ("the cat sleeps on the sofa", "a cat on the sofa", "a grey cat is asleep")),
    ("", ("an old clock on a wall", "a clock")),
    ("a clock", ("a clock",)),
    (
        "a long wooden table with plates , cups and a big bowl of ripe fruit in the middle of it",
        ("a table with fruit", "plates and cups on a table"),
    ),
    ("dog", ("dog", "a dog")),
    (
        "a street with parked cars and a street with parked cars",
        ("a street with parked cars", "cars parked along a street in the rain"),
    ),
    ("a half of 1\u00a01/2 pizzas", ("one and a half pizzas", "1\u00a01/2 pizzas on a plate")),
    ("nothing here is like them", ("three boats wait at the quay", "boats in a harbour")),
    ("a dog runs on the beach with a red ball", ("a dog with a ball on the beach", "the dog runs with its red ball")),
)

CAPTIONS = [caption.split(" ") if caption else [] for caption, _ in PICTURES]
REFERENCES = [[truth.split(" ") for truth in truths] for _, truths in PICTURES]

#: For each metric the figure of the corpus and those of the captions: ``Bleu(4)``, ``Rouge()`` and ``Cider()``.
RECORDED = {
    "BLEU-1": (
        0.6301369862927378,
        [
            0.999999999857,
            0.716531310335,
            0.59999999976,
            0.0,
            0.999999999,
            0.349999999983,
            0.999999998,
            0.454545454504,
            0.833333333056,
            1.9999999996e-16,
            0.9999999999,
        ],
    ),
    "BLEU-2": (
        0.5000543566813573,
        [
            0.912870929034,
            0.640885087156,
            0.387298334456,
            0.0,
            0.99999999875,
            0.135724178501,
            0.0009999999985,
            0.426401432671,
            0.707106780939,
            2.236067977e-16,
            0.816496580842,
        ],
    ),
    "BLEU-3": (
        0.3467057625965164,
        [
            0.550321208056,
            0.604345912824,
            3.68403149694e-06,
            0.0,
            0.00999999999,
            1.00773725144e-06,
            9.99999998667e-05,
            0.392800487897,
            0.499999999814,
            2.55436477398e-16,
            0.436790232319,
        ],
    ),
    "BLEU-4": (
        0.24535580351222383,
        [
            8.03428418792e-05,
            0.569836377314,
            1.25743342903e-08,
            0.0,
            0.000999999999125,
            2.78546851721e-09,
            3.16227765622e-05,
            0.350843969526,
            8.0342841862e-05,
            3.02137539639e-16,
            5.873949094e-05,
        ],
    ),
    "ROUGE-L": (
        0.553722802079866,
        [
            0.780051150895,
            0.696347031963,
            0.357771260997,
            0.0,
            1.0,
            0.378881987578,
            1.0,
            0.67032967033,
            0.6,
            0.0,
            0.607569721116,
        ],
    ),
    "CIDEr": (
        1.95047165226251,
        [
            1.90573690583,
            3.67125440505,
            1.26405971761,
            0.0,
            5.0,
            0.0546520444803,
            2.48275889593,
            1.885682849,
            2.54854141477,
            0.0,
            2.64250194221,
        ],
    ),
}


def pycocoevalcap_scores(
    captions: list[list[str]], references: list[list[list[str]]]
) -> dict[str, tuple[float, list[float]]]:
    """Ask pycocoevalcap's own scorers, which take words joined by spaces."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    captions_by_picture = {i: [" ".join(words)] for i, words in enumerate(captions)}
    references_by_picture = {i: [" ".join(words) for words in truths] for i, truths in enumerate(references)}
    corpus, each = Bleu(4).compute_score(references_by_picture, captions_by_picture, verbose=0)
    scores = {f"BLEU-{n}": pair for n, pair in enumerate(zip(corpus, each, strict=True), start=1)}
    scores["ROUGE-L"] = Rouge().compute_score(references_by_picture, captions_by_picture)
    scores["CIDEr"] = Cider().compute_score(references_by_picture, captions_by_picture)
    return {name: (float(whole), [float(value) for value in values]) for name, (whole, values) in scores.items()}
