"""The page of `gossamer ui`, by gradio: what is asked on it and what is shown; all that is done is done by `Work`."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from fastapi import FastAPI
from gradio import themes
from starlette.middleware.trustedhost import TrustedHostMiddleware

from gossamer.commands.predict import table
from gossamer.commands.ui_work import FAILED, FINISHED, METHODS, RUNNING, STOPPED, Work
from gossamer.errors import told
from gossamer.serving.guard import LOCAL

MOST = 3  # labels that are shown of an image
APART = 0.1  # accuracies of all images and of classes, where it is said that they differ
SHOWN = 320  # pixels of an image that was tried
# The page loads nothing from elsewhere and sends nothing there, whatever the scripts in it would like to.
POLICY = b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'; form-action 'self'"
STYLE = """
.gradio-container {width: 100% !important; max-width: 60rem !important; margin: 0 auto !important}
.lines textarea {font-family: ui-monospace, monospace; font-size: 13px; line-height: 1.45}
.said p {border-left: 4px solid var(--color-accent); padding-left: .7rem}
.drop label {display: block; border: 2px dashed var(--border-color-primary); border-radius: 8px; padding: 1.4rem 1rem}
.drop input {display: block; margin-top: .7rem; max-width: 100%; font-size: 16px}
"""
FOLDER = (
    "<label>Drop a folder on the button, or choose one: in it a folder for each class, with its images"
    "<input type=file webkitdirectory multiple></label><p></p>"
)
SENDING = """
element.addEventListener('change', async () => {
  const input = element.querySelector('input'), said = element.querySelector('p'), files = [];
  for (const file of input.files) {
    said.textContent = `sending ${files.length + 1} of ${input.files.length}`;
    files.push([(await upload(file)).path, file.webkitRelativePath]);
  }
  said.textContent = `${files.length} files were sent`;
  trigger('sent', {files});
});
"""
Message = dict[str, Any]


class Sealed:
    """An ASGI application whose pages may load nothing from elsewhere: every answer of another brings `POLICY`."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
        """One request."""

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"content-security-policy", POLICY)]}
            await send(message)

        await self.app(scope, receive, sealed)


def application(work: Work) -> FastAPI:
    """The server of the page: under the names of this machine alone, without telemetry, links or fonts from elsewhere."""
    app = FastAPI(openapi_url=None)
    app.add_middleware(Sealed)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL))
    theme = themes.Default(
        primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ).set(button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800")
    return gr.mount_gradio_app(
        app, page(work), path="/", theme=theme, css=STYLE, footer_links=[], run_history=False, ssr_mode=False, pwa=False,
        mcp_server=False, enable_monitoring=False, allowed_paths=[str(work.home)],
    )  # fmt: skip


def worded(answer: Callable[..., list[Any]], others: int) -> Callable[..., list[Any]]:
    """An answer to an event, whose first output is a sentence: what the user can mend is said there, and no other changes."""

    @functools.wraps(answer)
    def answered(*given: Any) -> list[Any]:
        try:
            return answer(*given)
        except Exception as error:
            if (sentence := told(error)) is None:
                raise
            return [f"**Not done:** {sentence}", *[gr.skip()] * others]

    return answered


def page(work: Work) -> gr.Blocks:
    """All of it."""
    with gr.Blocks(title="Gossamer", analytics_enabled=False) as blocks:
        gr.Markdown(
            "# Gossamer\nTeach a vision transformer your classes: it stays frozen, a sliver of parameters is trained."
        )
        shown = _images(work)
        _training(work, blocks, shown)
        _trying(work)
        _taking(work)
    return blocks


def _images(work: Work) -> list[Any]:
    """Where photographs are given and what is in them; the settings of training that follow from them: epochs, size."""
    gr.Markdown("## 1. Photographs")
    with gr.Tabs():
        with gr.Tab("Folder"):
            sent = gr.HTML(html_template=FOLDER, js_on_load=SENDING, elem_classes="drop", elem_id="folder")
        with gr.Tab("Zip file"):
            packed = gr.File(label="A folder as a zip file", file_types=[".zip"], elem_id="zip")
        with gr.Tab("Class by class"):
            with gr.Row():
                name = gr.Textbox("photographs", label="Name of the whole")
                label = gr.Textbox(label="Class", placeholder="cats", elem_id="class")
            files = gr.File(label="Its images", file_count="multiple", elem_id="of-class")
            add = gr.Button("Add the class", elem_id="add")
    with gr.Row(equal_height=True):
        place = gr.Textbox(
            label="Folder of images on this machine", placeholder="/home/me/photographs", scale=4, elem_id="place"
        )
        look = gr.Button("Look", variant="primary", scale=1, elem_id="look")
    said = gr.Markdown(elem_classes="said", elem_id="looked")
    found = gr.Textbox(
        label="What is in them", lines=3, max_lines=16, elem_classes="lines", visible=False, elem_id="found"
    )
    sheet = gr.Image(
        label="Some of each class", type="filepath", visible=False, buttons=["fullscreen"], elem_id="sheet"
    )
    epochs = gr.Number(12, label="Epochs", precision=0, minimum=0, render=False, elem_id="epochs")
    size = gr.Number(224, label="Pixels a side", precision=0, minimum=1, render=False, elem_id="size")
    outputs = [said, place, found, sheet, epochs, size]

    def looked(folder: str) -> list[Any]:
        lines, picture, run = work.look(folder)
        values = [gr.Textbox("\n".join(lines), visible=True), gr.Image(picture and str(picture), visible=bool(picture))]
        return ["", folder, *values, run.training.epochs, run.images.size]

    def received(event: gr.EventData) -> list[Any]:
        return looked(str(work.receive(event.files)))

    def unpacked(file: str | None) -> list[Any]:
        return [gr.skip()] * len(outputs) if file is None else looked(str(work.unpack(file)))

    def added(whole: str, label: str, files: list[str] | None) -> list[Any]:
        folder = work.add(whole, label, files or [])
        classes = [path.name for path in sorted(folder.iterdir())]
        if len(classes) < 2:
            return [f"{classes[0]} is added; a classifier needs one more class.", *[gr.skip()] * (len(outputs) - 1)]
        return looked(str(folder))

    sent.sent(worded(received, 5), None, outputs)  # type: ignore[reportAttributeAccessIssue]
    packed.upload(worded(unpacked, 5), packed, outputs)
    add.click(worded(added, 5), [name, label, files], outputs)
    gr.on([look.click, place.submit], worded(looked, 5), place, outputs)
    return [epochs, size]


def _training(work: Work, blocks: gr.Blocks, settings: list[Any]) -> None:
    """Settings, start and stop, and the curves, which are looked for every second."""
    gr.Markdown("## 2. Training")
    with gr.Row():
        model = gr.Dropdown(
            ["dinov2-small", "facebook/dinov2-base"], value="dinov2-small", label="Model", allow_custom_value=True,
            info="or a folder, or a model of the Hugging Face hub", elem_id="model",
        )  # fmt: skip
        method = gr.Dropdown(
            list(METHODS.items()), value=METHODS["LoRA, rank 8"], label="Method", allow_custom_value=True,
            info="or another, written as in a run file", elem_id="method",
        )  # fmt: skip
    with gr.Row():
        for setting in settings:
            setting.render()
    with gr.Row():
        begin = gr.Button("Train", variant="primary", elem_id="train")
        stop = gr.Button("Stop", elem_id="stop")
    said = gr.Markdown(elem_classes="said", elem_id="state")
    typed = gr.Code(label="The same in a terminal", language="shell", visible=False)
    common: Any = {
        "x": "epoch",
        "y": "value",
        "color": "of",
        "color_title": " ",
        "x_axis_format": "~g",
        "y_axis_format": ".3~g",
        "visible": False,
    }
    with gr.Row():
        loss = gr.LinePlot(y_title="loss", height=260, min_width=300, elem_id="loss", **common)
        score = gr.LinePlot(y_title="right, %", height=260, min_width=300, elem_id="score", **common)
    lines = gr.Textbox(
        label="What it says", lines=3, max_lines=24, elem_classes="lines", visible=False, autoscroll=True, elem_id="log"
    )
    seen = gr.State("")

    def begun(*given: Any) -> list[Any]:
        return ["Starting ...", gr.Code(shlex.join(work.begin(*given)), visible=True)]

    def watched(before: str) -> list[Any]:
        state, history, log = work.state(), work.history(), work.said()
        now = json.dumps([state, len(history), log])
        if now == before or not state:
            return [gr.skip()] * 5
        drawn = history if len(history) > 1 else []  # the start alone is a point
        curves = [_plot(_losses(drawn)), _plot(_scores(drawn))]
        return [now, sentence(work, state, history), *curves, gr.Textbox("\n".join(log), visible=True)]

    begin.click(worded(begun, 1), [model, method, *settings], [said, typed])
    stop.click(work.stop, None, None)
    gr.Timer(1).tick(watched, seen, [seen, said, loss, score, lines], show_progress="hidden")


def sentence(work: Work, state: str, history: list[dict[str, Any]]) -> str:
    """How far the run is, and what came of it."""
    if state == RUNNING:
        return f"Training: epoch {history[-1]['epoch']:g} is done." if history else "Training: reading images."
    if state == STOPPED:
        return "Stopped. What was trained is not kept as an adapter; Train begins anew."
    if state == FAILED:
        return f"**Not done:** {work.said()[-1] if work.said() else 'it ended without a word'}"
    assert state == FINISHED, state
    metrics = work.metrics()
    if "val" not in metrics:
        return "Finished."
    now, balanced = metrics["val"]["accuracy"], metrics["val"]["balanced_accuracy"]
    parts = [f"Finished: {now:.1%} of {metrics['val']['n']:,} validation images are right"]
    if metrics["start"] is not None:
        parts.append(f"at the start, with the linear probe alone, {metrics['start']['val_accuracy']:.1%}")
    if balanced < now - APART:
        parts.append(
            f"**but some classes are hardly seen:** the mean over classes is {balanced:.1%}, the recalls stand below"
        )
    return "; ".join(parts) + "."


def _losses(history: list[dict[str, Any]]) -> list[tuple[float, float, str]]:
    kinds = {"loss": "training", "val_loss": "validation"}
    return [(r["epoch"], r[name], of) for name, of in kinds.items() for r in history if name in r]


def _scores(history: list[dict[str, Any]]) -> list[tuple[float, float, str]]:
    scored = [r for r in history if "val_accuracy" in r]
    start = [r for r in scored if r["epoch"] == 0]
    return [
        *((r["epoch"], 100 * r["val_accuracy"], "validation") for r in scored),
        *((r["epoch"], 100 * start[0]["val_accuracy"], "the start") for r in scored if start),
    ]


def _plot(points: list[tuple[float, float, str]]) -> gr.LinePlot:
    return gr.LinePlot(pd.DataFrame(points, columns=["epoch", "value", "of"]), visible=bool(points))


def _trying(work: Work) -> None:
    """Images on the trained adapter."""
    gr.Markdown("## 3. Try it")
    files = gr.File(label="Images", file_count="multiple", elem_id="tried")
    said = gr.Markdown(elem_classes="said", elem_id="answered")
    answers = gr.Gallery(
        label="Answers", visible=False, height="auto", object_fit="contain", buttons=[], elem_id="answers"
    )
    lines = gr.Textbox(label="In numbers", max_lines=16, elem_classes="lines", visible=False, elem_id="numbers")

    def tried(given: list[str] | None) -> list[Any]:
        if given is None:
            return ["", gr.Gallery([], visible=False), gr.Textbox(visible=False)]
        records, faults = work.predict(given)
        pictures = [(_small(record["file"]), record["label"]) for record in records]
        numbers = table([{**record, "file": Path(record["file"]).name} for record in records], MOST)
        gallery = gr.Gallery(pictures, visible=bool(pictures))
        return ["\n\n".join(faults), gallery, gr.Textbox(numbers, visible=bool(pictures))]

    files.change(worded(tried, 2), files, [said, answers, lines])


def _small(file: str) -> Any:
    from gossamer.data import open_image

    image = open_image(file)
    image.thumbnail((SHOWN, SHOWN))
    return image


def _taking(work: Work) -> None:
    """What can be taken away."""
    gr.Markdown("## 4. Take it away")
    with gr.Row():
        adapter = gr.Button("Adapter (zip)", elem_id="zip-adapter")
        onnx = gr.Button("Whole classifier (ONNX)", elem_id="onnx")
    said = gr.Markdown(elem_classes="said", elem_id="taken")
    file = gr.File(label="To download", visible=False, interactive=False, elem_id="download")

    def packed() -> list[Any]:
        path = work.packed()
        text = f"For `gossamer predict`, `gossamer serve` and `gossamer.load`; it lies in `{work.run}/adapter` too."
        return [text, gr.File(str(path), visible=True)]

    def exported() -> list[Any]:
        path, found = work.exported()
        text = (
            f"Backbone and adapter in one file; its answers differ from the adapter's by at most {found['difference']:.1g}. "
            f"`gossamer predict {path} IMAGE` reads it, and so does onnxruntime."
        )
        return [text, gr.File(str(path), visible=True)]

    adapter.click(worded(packed, 1), None, [said, file])
    onnx.click(worded(exported, 1), None, [said, file])
