"""The pictures of the methods: what is frozen, what is trained, and what is left of it in a finished model.

python docs/draw.py    # writes docs/pictures/*.svg

Drawn 420 wide with letters of 15, so that they can be read on a phone; every run writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

FOLDER = Path(__file__).parent / "pictures"
WIDTH, LETTERS = 420, 15
COLOURS = {  # kind -> fill, stroke; told apart by those who do not see red or green
    "frozen": ("#e6eaed", "#66757f"),
    "trained": ("#f5b83d", "#8a5a00"),
    "stored": ("#8cc8ee", "#0b5583"),
    "merged": ("#8cc8ee", "#0b5583"),
    "found": ("#8cc8ee", "#0b5583"),
    "gone": ("none", "#8a97a0"),
}
WORDS = {
    "frozen": "frozen", "trained": "trained", "stored": "computed once", "merged": "several in one", "found": "a class",
    "gone": "not computed",
}  # fmt: skip
PICTURES: dict[str, Callable[[Drawing], None]] = {}


class Drawing:
    """SVG elements one after the other; y grows downwards."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.kinds: dict[str, None] = {}
        self.bottom = 0.0

    def box(self, x: float, y: float, w: float, h: float, kind: str, words: str = "") -> None:
        """A part of the model, with words in its middle."""
        self._kind(kind, y + h)
        fill, stroke = COLOURS[kind]
        dashes = ' stroke-dasharray="5 4"' if kind == "gone" else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="5" fill="{fill}" stroke="{stroke}"{dashes}/>'
        )
        if words:
            self.say(x + w / 2, y + h / 2 + 5, words)

    def tokens(self, x: float, y: float, kinds: Sequence[str], step: float = 18) -> None:
        """A row of tokens."""
        for i, kind in enumerate(kinds):
            self.box(x + i * step, y, step - 4, step - 4, kind)

    def say(self, x: float, y: float, words: str, anchor: str = "middle", size: int = LETTERS) -> None:
        """Words whose anchor stands at x on the line y."""
        self.bottom = max(self.bottom, y + 4)
        self.parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>')

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line through points with a head at the last."""
        path = "L".join(f"{x:g} {y:g}" for x, y in points)
        self.parts.append(
            f'<path d="M{path}" fill="none" stroke="#33424b" stroke-width="1.5" marker-end="url(#head)"/>'
        )

    def block(self, x: float, y: float, w: float = 150, title: str = "") -> None:
        """A frozen block, attention below and FFN above it, 132 high; tokens enter at y + 132."""
        self.arrow((x + w / 2, y + 132), (x + w / 2, y + 112))
        self.box(x, y + 74, w, 36, "frozen", "attention")
        self.arrow((x + w / 2, y + 74), (x + w / 2, y + 58))
        self.box(x, y + 20, w, 36, "frozen", "FFN")
        self.arrow((x + w / 2, y + 20), (x + w / 2, y + 2))
        if title:
            self.say(x + w / 2, y - 8, title)

    def svg(self, title: str) -> str:
        """The whole picture, with the colours explained below."""
        height = self.bottom + 38
        x, legend = 14.0, []
        for kind in self.kinds:
            fill, stroke = COLOURS[kind]
            dashes = ' stroke-dasharray="3 2"' if kind == "gone" else ""
            legend.append(
                f'<rect x="{x:g}" y="{height - 25:g}" width="13" height="13" rx="3" fill="{fill}" stroke="{stroke}"{dashes}/>'
                f'<text x="{x + 18:g}" y="{height - 13:g}" font-size="14">{WORDS[kind]}</text>'
            )
            x += 34 + 7.2 * len(WORDS[kind])
        head = '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
                'font-family="sans-serif" fill="#1d2b33" role="img">',
                f"<title>{escape(title)}</title>",
                f'<defs>{head}<path d="M0 0L8 4L0 8z" fill="#33424b"/></marker></defs>',
                f'<rect width="{WIDTH}" height="{height:g}" rx="8" fill="#fff"/>',
                *self.parts,
                *legend,
                "</svg>\n",
            ]
        )

    def _kind(self, kind: str, bottom: float) -> None:
        self.kinds[kind] = None
        self.bottom = max(self.bottom, bottom)


def picture(drawer: Callable[[Drawing], None]) -> Callable[[Drawing], None]:
    """Makes a picture known under the name of its function; its docstring is its title."""
    PICTURES[drawer.__name__] = drawer
    return drawer


@picture
def vpt(to: Drawing) -> None:
    """VPT: learnt prompts beside the patches in every block; finished, their keys and values are stored."""
    to.block(30, 30, title="training")
    to.tokens(32, 164, ["frozen"] * 5 + ["trained"] * 3)
    to.say(105, 200, "patches, prompts")
    to.block(230, 30, 120, title="finished")
    to.tokens(248, 164, ["frozen"] * 5)
    to.box(356, 108, 48, 28, "stored", "K, V")
    to.say(290, 200, "patches alone")


@picture
def spt(to: Drawing) -> None:
    """SPT: every block's prompts start as states of training images at its own entrance, then are trained as VPT's."""
    for i, (y, kinds) in enumerate(((150, ["frozen"] * 4), (80, ["frozen"] * 4), (10, ["frozen"] * 4))):
        to.box(20, y, 120, 34, "frozen", f"block {i + 1}")
        to.tokens(44, y + 40, kinds)
        to.arrow((142, y + 47), (196, y + 47))
        to.say(169, y + 40, "mean")
        to.tokens(204, y + 40, ["trained"] * 3)
        to.say(268, y + 52, f"prompts of block {i + 1}", "start")
    to.say(20, 228, "one pass over training images, before training", "start")


@picture
def cvpt(to: Drawing) -> None:
    """CVPT: patches ask the prompts in a cross-attention of its own behind attention, whose weights are attention's."""
    to.block(30, 30)
    to.tokens(60, 164, ["frozen"] * 5)
    to.box(232, 112, 150, 36, "frozen", "cross-attention")
    to.tokens(280, 164, ["trained"] * 3)
    to.say(305, 200, "prompts")
    to.arrow((305, 164), (305, 150))
    to.arrow((180, 122), (230, 130))
    to.arrow((307, 112), (307, 95), (107, 95))
    to.say(245, 88, "added")
    to.say(105, 200, "patches")


@picture
def pc(to: Drawing) -> None:
    """Prompt condensation: the prompts that matter least are cut, over all blocks together; what stays is tuned."""
    kept = (("trained", "gone", "trained", "gone", "gone", "gone"), ("gone",) * 6, ("trained",) * 3 + ("gone",) * 3)
    for i, of in enumerate(kept):
        y = 110 - 50 * i
        to.box(20, y, 90, 30, "frozen", f"block {i + 1}")
        to.tokens(122, y + 8, ["trained"] * 6)
        to.arrow((236, y + 15), (274, y + 15))
        to.tokens(284, y + 8, of)
    to.say(172, 168, "scored on training images")
    to.say(335, 168, "30 % stay")


@picture
def apt(to: Drawing) -> None:
    """APT: what prompts would add to attention is added by a small path of its own beside it."""
    to.block(30, 30)
    to.tokens(60, 164, ["frozen"] * 5)
    to.box(232, 112, 160, 36, "trained", "d → r → prompts → d")
    to.arrow((105, 156), (312, 156), (312, 150))
    to.arrow((312, 112), (312, 95), (107, 95))
    to.say(245, 88, "added")
    to.say(105, 200, "states")
    to.say(312, 200, "no token more")


@picture
def das(to: Drawing) -> None:
    """DAS: blocks that the task does not need give way to small shortcuts, in training and in the finished model."""
    for i, kind in enumerate(("frozen", "gone", "gone", "frozen", "gone", "frozen")):
        to.box(20 + 65 * i, 60, 56, 60, kind, f"{i + 1}")
        if kind == "gone":
            to.box(34 + 65 * i, 24, 28, 22, "trained")
    to.say(210, 150, "6 blocks, of which 3 are left: 2, 3 and 5 are searched")


@picture
def dvp(to: Drawing) -> None:
    """DVP: one token of the image, asked for by the text, joins a frozen language model at the block that serves the task."""
    to.box(20, 60, 110, 40, "frozen", "vision")
    to.tokens(30, 110, ["frozen"] * 5)
    to.arrow((132, 80), (158, 80))
    to.box(160, 60, 90, 40, "trained", "attention")
    to.arrow((252, 80), (285, 80))
    to.say(268, 70, "1")
    for i in range(4):
        to.box(290, 20 + 38 * (3 - i), 110, 30, "frozen", f"language {i + 1}")
    to.tokens(300, 176, ["frozen"] * 5)
    to.say(205, 130, "one prompt token")
    to.say(345, 208, "text")


@picture
def memvp(to: Drawing) -> None:
    """MemVP: the image becomes further keys and values of every FFN of a language model; the text stays as long as it was."""
    to.block(30, 30)
    to.tokens(60, 164, ["frozen"] * 5)
    to.say(105, 200, "text alone")
    to.box(270, 120, 120, 36, "frozen", "vision")
    to.tokens(286, 164, ["frozen"] * 5)
    to.say(330, 200, "image")
    to.box(270, 70, 120, 32, "trained", "projection")
    to.arrow((330, 120), (330, 104))
    to.arrow((330, 70), (330, 50), (184, 50))
    to.say(258, 42, "keys and values")


@picture
def visual_tokens(to: Drawing) -> None:
    """Visual tokens: the image's tokens, projected, stand in front of the text in the language model."""
    to.box(20, 40, 100, 40, "frozen", "vision")
    to.tokens(26, 90, ["frozen"] * 5)
    to.arrow((122, 60), (148, 60))
    to.box(150, 40, 96, 40, "trained", "projection")
    to.arrow((198, 82), (198, 112))
    to.tokens(154, 118, ["trained"] * 5)
    to.tokens(244, 118, ["frozen"] * 6)
    to.say(300, 152, "text")
    to.box(260, 40, 140, 40, "frozen", "language")
    to.arrow((300, 112), (300, 82))


@picture
def tome(to: Drawing) -> None:
    """ToMe: in every block the most alike tokens become one between attention and FFN; nothing is trained."""
    for i, count in enumerate((14, 10, 6)):
        y = 120 - 52 * i
        to.box(20, y, 96, 32, "frozen", f"block {i + 1}")
        to.tokens(130, y + 8, ["frozen"] * count + ["gone"] * (14 - count))
    to.say(210, 180, "fewer tokens from block to block")


@picture
def evit(to: Drawing) -> None:
    """EViT: patches to which the class token attends least become one token in a few blocks; nothing is trained."""
    for i, count in enumerate((14, 11, 9)):
        y = 120 - 52 * i
        to.box(20, y, 96, 32, "frozen", ("block 3", "block 6", "block 9")[i])
        rest = [] if count == 14 else ["merged"]
        to.tokens(130, y + 8, ["frozen"] * (count - len(rest)) + rest + ["gone"] * (14 - count))
    to.say(210, 180, "the least attended become one")


@picture
def ssf(to: Drawing) -> None:
    """SSF: a scale and a shift behind every Linear and norm; finished, they are part of its weights."""
    for x, title, kind in ((30, "training", "trained"), (240, "finished", "")):
        for i, name in enumerate(("norm", "Linear", "Linear")):
            y = 140 - 50 * i
            to.box(x, y, 84, 34, "frozen", name)
            if kind:
                to.box(x + 88, y, 92, 34, kind, "scale, shift")
        to.say(x + 60, 26, title)


@picture
def baselines(to: Drawing) -> None:
    """Baselines: what is trained by the probe, BitFit, LoRA, adapters and full fine-tuning."""
    rows = (
        ("probe", ("frozen",) * 4, "trained"),
        ("BitFit", ("trained",) * 4, "trained"),
        ("LoRA", ("trained", "frozen", "trained", "frozen"), "trained"),
        ("adapters", ("frozen", "trained", "frozen", "trained"), "trained"),
        ("full", ("trained",) * 4, "trained"),
    )
    for i, (name, parts, head) in enumerate(rows):
        y = 24 + 34 * i
        to.say(84, y + 18, name, "end")
        for j, kind in enumerate(parts):
            thin = name in ("BitFit", "LoRA", "adapters") and kind == "trained"
            to.box(96 + 64 * j, y, 58, 26, "frozen" if thin else kind)
            if thin:
                to.box(96 + 64 * j + 44, y, 14, 26, "trained")
        to.box(354, y, 56, 26, head, "head")


@picture
def clip(to: Drawing) -> None:
    """Classes by words: the class whose words lie nearest to the image; each tower takes methods, the words' vectors are kept."""
    to.box(20, 40, 120, 40, "frozen", "image tower")
    to.tokens(36, 92, ["frozen"] * 4 + ["trained"])
    to.box(20, 140, 120, 40, "frozen", "text tower")
    to.tokens(36, 192, ["trained"] * 2 + ["frozen"] * 3)
    to.arrow((142, 60), (222, 60))
    to.arrow((142, 160), (222, 160))
    to.tokens(228, 50, ["frozen"], 26)
    to.tokens(228, 148, ["stored"] * 4, 26)
    to.arrow((262, 62), (318, 100))
    to.arrow((338, 150), (338, 124))
    to.say(350, 116, "nearest words")


@picture
def segmentation(to: Drawing) -> None:
    """A class for every pixel: states of the backbone, put back onto the grid, and a small head over them."""
    to.box(20, 24, 96, 72, "frozen", "backbone")
    to.arrow((118, 60), (146, 60))
    for row in range(4):
        to.tokens(152, 26 + 18 * row, ["frozen"] * 4)
    to.arrow((228, 60), (254, 60))
    to.box(258, 24, 68, 72, "trained", "head")
    to.arrow((328, 60), (350, 60))
    for row in range(4):
        kinds = ["found" if row in (1, 2) and column in (1, 2) else "frozen" for column in range(4)]
        to.tokens(354, 32 + 14 * row, kinds, 14)


@picture
def meter(to: Drawing) -> None:
    """Fusion models: text and image attend to each other; every attention takes methods of its own."""
    for x, name in ((30, "text"), (240, "image")):
        to.box(x, 120, 150, 34, "frozen", "self-attention")
        to.box(x, 72, 150, 34, "frozen", "cross-attention")
        to.box(x, 24, 150, 34, "frozen", "FFN")
        for y in (72, 120):
            to.box(x + 132, y, 18, 34, "trained")
        to.arrow((x + 70, 120), (x + 70, 108))
        to.arrow((x + 70, 72), (x + 70, 60))
        to.tokens(x + 30, 164, ["frozen"] * 5)
        to.say(x + 75, 200, name)
    to.arrow((182, 112), (238, 96))
    to.arrow((238, 112), (182, 96))


def main(folder: Path = FOLDER) -> None:
    """Writes every picture into a folder."""
    folder.mkdir(exist_ok=True)
    for name, drawer in PICTURES.items():
        to = Drawing()
        drawer(to)
        (folder / f"{name}.svg").write_text(to.svg((drawer.__doc__ or "").strip()), encoding="utf-8")


if __name__ == "__main__":
    main()
