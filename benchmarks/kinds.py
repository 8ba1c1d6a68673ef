"""Folders of images of kinds that `desk` lacks, drawn here: drawings, letters, nodules; for benchmarks/small_data.py.

    apt-get install fonts-noto-color-emoji unicode-data fonts-freefont-ttf fonts-lato fonts-open-sans fonts-ebgaramond ...
    python benchmarks/kinds.py          # build/kinds/drawings, letters, nodules, each with train and test; a minute

- drawings: the emoji of one code point, 8 classes, their groups of the Unicode standard (faces, people, animals, food, travel,
  activities, objects, symbols; flags and parts left out); 1,000 of them for training, the others the test.
- letters: A to Z, 0 to 9 and four signs, 40 classes, in the fonts of this machine, turned, coloured and moved; families of the test
  are others than those of training. `--fonts` says how many fonts are asked for at least.
- nodules: 16-bit grey textures, as of an X-ray; one in ten holds a small round spot, 2 classes, 9 to 1 (the test 1 to 1).

Everything is drawn from seed 0, and nothing here is chosen by what a method makes of it.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FOLDER = Path("build/kinds")
EMOJI = Path("/usr/share/unicode/emoji/emoji-test.txt")
COLOURED = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONTS = Path("/usr/share/fonts")
LETTERS = {
    **{letter: letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"},
    "and": "&",
    "at": "@",
    "ask": "?",
    "call": "!",
}
SIDE = 96
TRAIN, TEST = 1000, 1000


def save(image: Image.Image, split: str, kind: str, label: str, number: int) -> None:
    folder = FOLDER / kind / split / label
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{number:04d}.png")


def drawings(chance: random.Random) -> None:
    found, group = [], ""
    for line in EMOJI.read_text().splitlines():
        if line.startswith("# group:"):
            group = line.removeprefix("# group:").strip().replace(" & ", "-and-").lower()
        elif "; fully-qualified" in line and group not in ("component", "flags"):
            points = [point for point in line.split(";")[0].split() if point != "FE0F"]
            if len(points) == 1:
                found.append((group, chr(int(points[0], 16))))
    chance.shuffle(found)
    font = ImageFont.truetype(COLOURED, 109)  # the one size of its bitmaps
    for number, (label, sign) in enumerate(found):
        image = Image.new("RGB", (136, 128), "white")
        ImageDraw.Draw(image).text((0, 0), sign, font=font, embedded_color=True)
        save(image, "train" if number < TRAIN else "test", "drawings", label, number)


def letters(chance: random.Random, least: int) -> None:
    fonts = [path for path in sorted([*FONTS.rglob("*.ttf"), *FONTS.rglob("*.otf")]) if _writes(path)]
    if len(fonts) < least:
        raise SystemExit(f"{len(fonts)} fonts below {FONTS} have all letters, {least} are asked for: install more")
    families = sorted({path.parent for path in fonts})  # styles of one family stay on one side
    chance.shuffle(families)
    held_out = set(families[: round(0.3 * len(families))])
    sides = {
        "train": [p for p in fonts if p.parent not in held_out],
        "test": [p for p in fonts if p.parent in held_out],
    }
    print({side: len(paths) for side, paths in sides.items()}, "fonts")
    for split, many in (("train", TRAIN), ("test", TEST)):
        for number in range(many):
            label, sign = list(LETTERS.items())[number % len(LETTERS)]
            font = ImageFont.truetype(chance.choice(sides[split]), chance.randint(44, 72))
            paper, ink = (
                tuple(chance.randint(low, low + 90) for _ in range(3)) for low in chance.choice([(160, 0), (0, 160)])
            )
            image = Image.new("RGB", (SIDE, SIDE), paper)
            at = (SIDE / 2 + chance.randint(-10, 10), SIDE / 2 + chance.randint(-10, 10))
            ImageDraw.Draw(image).text(at, sign, font=font, fill=ink, anchor="mm")
            save(image.rotate(chance.uniform(-20, 20), fillcolor=paper), split, "letters", label, number)


def _writes(path: Path) -> bool:
    """Whether the font has all letters: each with ink, and each another picture."""
    pictures = set()
    for sign in LETTERS.values():
        image = Image.new("L", (SIDE, SIDE))
        try:
            ImageDraw.Draw(image).text((10, 10), sign, font=ImageFont.truetype(path, 40), fill=255)
        except OSError:
            return False
        pictures.add(image.tobytes())
    return len(pictures) == len(LETTERS) and bytes(SIDE * SIDE) not in pictures


def nodules(chance: np.random.Generator) -> None:
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE
    for split, many, share in (("train", TRAIN, 0.1), ("test", TEST, 0.5)):
        for number in range(many):
            noise = chance.normal(size=(SIDE, SIDE))
            waves = np.fft.fft2(noise) / (0.02 + np.hypot(*np.meshgrid(*[np.fft.fftfreq(SIDE)] * 2))) ** 1.6
            picture = np.fft.ifft2(waves).real
            picture /= picture.std()
            label = "nodule" if number < share * many else "clear"
            if label == "nodule":
                (y, x), radius = chance.uniform(0.2, 0.8, 2), chance.uniform(0.05, 0.09)
                picture += chance.uniform(2.5, 4) * np.exp(-(((rows - y) ** 2 + (columns - x) ** 2) / (2 * radius**2)))
            grey = np.clip(picture * 6000 + 22000, 0, 65535).astype(np.uint16)
            save(Image.fromarray(grey), split, "nodules", label, number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fonts", type=int, default=60, help="that have all letters, at least")
    asked = parser.parse_args()
    drawings(random.Random(0))
    letters(random.Random(0), asked.fonts)
    nodules(np.random.default_rng(0))


if __name__ == "__main__":
    main()
