"""Write the labelled sentences that ship with the package: every combination of four labels equally often.

    python scripts/make_bundled_texts.py [--target vlsae/bundled/texts/sentences.csv]

Tense, number, mood and place are drawn independently of each other, so that a probe for one learns nothing from
another. The words are those of the novels that the bundled language model was trained on.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import random
from pathlib import Path

TARGET = Path(__file__).parent.parent / "vlsae" / "bundled" / "texts" / "sentences.csv"

#: Sentences of each combination of labels.
EACH = 24

SUBJECTS = (
    ("the old gentleman", "the old gentlemen"),
    ("her sister", "her sisters"),
    ("the little girl", "the little girls"),
    ("the officer", "the officers"),
    ("my cousin", "my cousins"),
    ("the young lady", "the young ladies"),
    ("the housekeeper", "the housekeepers"),
    ("his friend", "his friends"),
)

#: Past; present of one; present of several.
VERBS = {
    "glad": (
        ("laughed", "laughs", "laugh"),
        ("smiled", "smiles", "smile"),
        ("danced", "dances", "dance"),
        ("sang", "sings", "sing"),
        ("rejoiced", "rejoices", "rejoice"),
    ),
    "sad": (
        ("wept", "weeps", "weep"),
        ("sighed", "sighs", "sigh"),
        ("trembled", "trembles", "tremble"),
        ("complained", "complains", "complain"),
        ("despaired", "despairs", "despair"),
    ),
}

PLACES = {
    "indoors": (
        "in the drawing-room",
        "by the fire",
        "at the dinner table",
        "on the stairs",
        "in the library",
        "behind the kitchen door",
    ),
    "outdoors": (
        "in the garden",
        "under the trees",
        "on the road to the village",
        "by the river",
        "in the fields",
        "at the edge of the wood",
    ),
}

OPENINGS = ("", "", "After breakfast ", "Once again ", "In the evening ", "Soon after tea ")
ENDINGS = ("", "", " with the others", " for a long time", " without any reason", " from morning until night")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=TARGET)
    target = parser.parse_args().target
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "text", "tense", "number", "mood", "place", "words"])
        writer.writerows(rows())


def rows() -> list[tuple[str, ...]]:
    """Return the sentences with their labels, in an order that mixes the combinations."""
    drawn = random.Random(0)
    found: list[tuple[str, ...]] = []
    for tense, number, mood, place in itertools.product(("past", "present"), ("singular", "plural"), VERBS, PLACES):
        sentences: dict[str, None] = {}
        while len(sentences) < EACH:
            sentences[sentence(drawn, tense, number, mood, place)] = None
        found += [(text, tense, number, mood, place, str(len(text.split()))) for text in sentences]
    drawn.shuffle(found)
    return [(f"s{row:03d}", *values) for row, values in enumerate(found)]


def sentence(drawn: random.Random, tense: str, number: str, mood: str, place: str) -> str:
    """Return one sentence of a combination of labels."""
    subject = drawn.choice(SUBJECTS)[number == "plural"]
    past, one, several = drawn.choice(VERBS[mood])
    verb = past if tense == "past" else one if number == "singular" else several
    text = f"{drawn.choice(OPENINGS)}{subject} {verb} {drawn.choice(PLACES[place])}{drawn.choice(ENDINGS)}."
    return text[0].upper() + text[1:]


if __name__ == "__main__":
    main()
