"""The server as it runs: what it answers, what it refuses, how it stops."""

from __future__ import annotations

import http.client
import io
import shutil
import signal
import socket
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import gossamer as gm

from .conftest import LABELS, Process, Running, Thread, picture, saved

BOUNDARY = "a-line-between"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


def form(data: bytes, field: str = "image") -> bytes:
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{field}"; filename="x.png"\r\ncontent-type: image/png\r\n\r\n'
    return head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()


def test_an_image_is_answered_as_by_predict(server: Running, folders: dict[str, Path], tmp_path: Path) -> None:
    from gossamer.predict import predict

    for name, labels in LABELS.items():
        (tmp_path / "image.png").write_bytes(picture())
        expected = next(predict(gm.load(folders[name]), [tmp_path / "image.png"]))
        for body, headers in ((picture(), {"content-type": "image/png"}), (picture(), {}), (form(picture()), FORM)):
            status, found = server.ask("POST", f"/adapters/{name}/predict", body, headers)
            assert status == 200, found
            assert found["adapter"] == name
            assert found["label"] == expected["label"]
            assert set(found["probabilities"]) == set(labels)
            assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
    status, found = server.ask("POST", "/adapters/dogs/predict?top=1", picture())
    assert list(found["probabilities"]) == [found["label"]]


def test_requests_at_once_share_batches(server: Running) -> None:
    def ask(number: int) -> tuple[int, dict]:
        return server.ask("POST", f"/adapters/{('cells', 'dogs')[number % 2]}/predict", picture(number % 5))

    alone = {n: ask(n)[1] for n in range(10)}
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, [n % 10 for n in range(100)]))
    for number, (status, found) in enumerate(answers):
        assert status == 200
        assert found["probabilities"] == pytest.approx(alone[number % 10]["probabilities"], abs=1e-5)
    numbers = server.numbers()
    assert numbers['gossamer_requests_total{adapter="cells",status="200"}'] >= 50
    assert numbers["gossamer_batch_images_count"] < numbers["gossamer_batch_images_sum"]
    assert numbers["gossamer_adapters"] == 2
    assert numbers["gossamer_weight_bytes"] > 0


def test_what_there_is(server: Running) -> None:
    assert server.ask("GET", "/health") == (200, {"status": "ok"})
    status, found = server.ask("GET", "/adapters")
    assert status == 200
    assert [(a["name"], tuple(a["labels"]), a["size"]) for a in found] == [(n, ls, 16) for n, ls in LABELS.items()]
    status, schema = server.ask("GET", "/openapi.json")
    said = schema["paths"]["/adapters/{name}/predict"]["post"]
    assert set(said["requestBody"]["content"]) == {"image/*", "multipart/form-data"}
    assert {"200", "401", "404", "408", "413", "415", "503", "504"} <= set(said["responses"])
    status, text = server.ask("GET", "/docs")
    assert status == 200
    assert "/adapters/{name}/predict" in text
    assert "http" not in text.replace("HTTP", "")  # nothing from elsewhere


def stored(kind: str) -> bytes:
    """An image file whose pixels are of this kind, as PNG, TIFF where that has none, or a GIF of three pictures."""
    file = io.BytesIO()
    if kind == "animated":
        first, *others = (Image.new("P", (20, 17), i) for i in range(3))
        first.save(file, "GIF", save_all=True, append_images=others)
    elif kind == "F":
        Image.new("F", (20, 17), 0.5).save(file, "TIFF")
    else:
        Image.new(kind, (20, 17), 1).save(file, "PNG")
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG that says it has so many pixels a side, and has nothing of them."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(bytes(9)),
        b"IEND": b"",
    }
    packed = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


CUT = picture(size=(60, 60), format="JPEG")[:900]
BAD = [
    ("POST", "/adapters/cats/predict", picture(), {}, 404, "no adapter 'cats'; there are cells, dogs"),
    ("POST", "/adapters/cells/predict", b"", {}, 400, "there is no image"),
    ("POST", "/adapters/cells/predict", b"no image", {}, 415, "no image of a known format (JPEG, PNG,"),
    ("POST", "/adapters/cells/predict", CUT, {}, 415, "the image is damaged"),
    ("POST", "/adapters/cells/predict", picture(size=(200, 51)), {}, 413, "200 x 51 pixels; at most 10,000"),
    ("POST", "/adapters/cells/predict", b"x" * 100_001, {}, 413, "the body has 100,001 bytes; at most 100,000"),
    ("POST", "/adapters/cells/predict", form(picture(), "file"), FORM, 400, "the field 'image' of a form"),
    ("POST", "/adapters/cells/predict", b"no form", FORM, 400, ""),
    ("POST", "/adapters/cells/predict", picture(), {"content-type": "multipart/form-data"}, 400, ""),
    ("POST", "/adapters/cells/predict?top=0", picture(), {}, 422, ""),
    ("POST", "/adapters/cells/predict?top=many", picture(), {}, 422, ""),
    ("POST", "/adapters/cells/predict?top=-3", picture(), {}, 422, "greater than or equal to 1"),
    (
        "POST",
        "/adapters/cells/predict",
        b'{"image": "abc"}',
        {"content-type": "application/json"},
        415,
        "no image of a known",
    ),
    ("POST", "/adapters/cells/predict", b"<svg/>", {"content-type": "image/svg+xml"}, 415, "no image of a known"),
    ("POST", "/adapters/cells/predict", stored("F"), {}, 415, "floating-point numbers, whose scale is unknown"),
    ("POST", "/adapters/cells/predict", bomb(100_000), {}, 413, "too many pixels; at most 10,000"),
    ("POST", "/adapters/cells/predict", bomb(90), {}, 415, "the image is damaged"),
    ("GET", "/adapters/cells/predict", None, {}, 405, ""),
    ("GET", "/nothing", None, {}, 404, ""),
    ("POST", "/adapters/..%2Fcells/predict", picture(), {}, 404, ""),
    ("GET", "/health", None, {"host": "elsewhere.example"}, 400, ""),
]


@pytest.mark.parametrize("kind", ["1", "L", "LA", "P", "RGBA", "I;16", "animated"])
def test_pictures_of_every_kind_are_answered(server: Running, kind: str) -> None:
    status, found = server.ask("POST", "/adapters/cells/predict", stored(kind))
    assert status == 200
    assert sum(found["probabilities"].values()) == pytest.approx(1)


def test_a_large_body_is_let_go_so_that_its_sender_hears_why(server: Running) -> None:
    body = b"x" * 30_000_000  # more than what lies in buffers while nobody reads
    for sent in (body, (body[i : i + 2**20] for i in range(0, len(body), 2**20))):
        status, found = server.ask("POST", "/adapters/cells/predict", sent)
        assert status == 413
        assert "at most 100,000 are taken" in found["detail"] or "more than 100,000 bytes" in found["detail"]


def test_what_is_wrong_with_a_form_is_counted_as_it_was_answered(server: Running) -> None:
    before = server.numbers()
    twice = form(picture()).removesuffix(f"--{BOUNDARY}--\r\n".encode()) + form(picture())
    for headers, expected in ((FORM, 400), ({"content-type": "multipart/form-data"}, 400)):
        assert server.ask("POST", "/adapters/cells/predict", twice, headers)[0] == expected
    after, name = server.numbers(), 'gossamer_requests_total{{adapter="cells",status="{}"}}'
    assert after[name.format(400)] == before.get(name.format(400), 0) + 2
    assert name.format(500) not in after
    capital = {"content-type": FORM["content-type"].replace("multipart/form-data", "Multipart/Form-Data")}
    assert server.ask("POST", "/adapters/cells/predict", form(picture()), capital)[0] == 200


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad[1]}-{bad[4]}")
def test_what_is_bad_is_said(server: Running, bad: tuple) -> None:
    method, path, body, headers, expected, says = bad
    status, found = server.ask(method, path, body, headers)
    assert status == expected, found
    assert says in str(found)
    assert server.ask("POST", "/adapters/cells/predict", picture())[0] == 200


def test_a_body_without_a_length_is_bounded_too(server: Running) -> None:
    chunks = (b"y" * 10_000 for _ in range(11))
    status, found = server.ask("POST", "/adapters/cells/predict", chunks)
    assert status == 413
    assert found["detail"] == "the body has more than 100,000 bytes"


def test_a_body_that_does_not_come_is_not_waited_for(server: Running) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(
            b"POST /adapters/cells/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nabc"
        )
        answer = connection.recv(1000)
    assert b" 408 " in answer.splitlines()[0]
    assert b"did not arrive within 3 s" in answer or b"content-length" in answer
    assert 2 < time.monotonic() - began < 20


@pytest.mark.slow
def test_a_thousand_bad_requests(server: Running) -> None:
    def ask(number: int) -> bool:
        if number % 16 == 15:  # what is no HTTP, or ends in the middle
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
                connection.sendall(
                    (b"\x16\x03\x01 no http\r\n\r\n", b"POST /adapters/cells/predict HTTP/1.1\r\nco")[number // 16 % 2]
                )
            return True
        method, path, body, headers, expected, _ = BAD[number % 15]
        return server.ask(method, path, body, headers)[0] == expected

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(1000)))
    assert server.ask("POST", "/adapters/cells/predict", picture())[0] == 200


def test_nothing_is_lost_when_it_stops(folders: dict[str, Path]) -> None:
    running = Thread({"dogs": folders["dogs"]}, max_wait=0.3, max_batch=64)
    assert stopped_in_the_middle(running, running.stop) is None


def test_clients_that_keep_their_connection_hear_of_the_end(folders: dict[str, Path]) -> None:
    running = Thread({"dogs": folders["dogs"]})
    answered: list[tuple[int, str | None]] = []
    lost: list[Exception] = []

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        try:
            while True:
                connection.request("POST", "/adapters/dogs/predict", picture(number))
                response = connection.getresponse()
                response.read()
                answered.append((response.status, response.getheader("connection")))
                if answered[-1][1] == "close":
                    return
        except (OSError, http.client.HTTPException) as error:
            lost.append(error)
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(8)]
        while len(answered) < 20:
            time.sleep(0.01)
        running.stop()
        for one in asked:
            one.result()
    assert lost == []
    assert {status for status, _ in answered} == {200}
    assert [said for _, said in answered].count("close") == 8


@pytest.mark.slow
def test_the_command_stops_when_all_are_answered(folders: dict[str, Path]) -> None:
    running = Process(str(folders["dogs"]), "--max-wait", "300", "--max-batch", "64")
    assert stopped_in_the_middle(running, running.stop) == 0


def stopped_in_the_middle(running: Running, stop: Callable[[], Any]) -> Any:
    """Stops a server while it has requests, and sees that each that is in gets its answer; what `stop` gives."""

    def ask(number: int) -> int:
        return running.ask("POST", "/adapters/dogs/predict", picture(number))[0]

    with ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(ask, number) for number in range(40)]
        while not any(one.done() for one in asked):
            if any(value for name, value in running.numbers().items() if name.startswith("gossamer_waiting")):
                break
        found = stop()
        answered = [one.result() for one in asked if one.exception() is None]
        too_late = [one.exception() for one in asked if one.exception() is not None]
    assert answered
    assert set(answered) == {200}
    assert all(isinstance(error, ConnectionError | http.client.RemoteDisconnected) for error in too_late)
    return found


def test_it_reads_its_folders_again(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("gossamer.serving.app.log.error", lambda text, *values: said.append(text % values))
    shutil.copytree(folders["cells"], tmp_path / "cells")
    running = Thread({"cells": tmp_path / "cells"})
    assert len(running.ask("POST", "/adapters/cells/predict", picture())[1]["probabilities"]) == 2
    shutil.rmtree(tmp_path / "cells")
    saved(folders["base"], tmp_path / "cells", gm.VPT(prompts=5), ("whole", "cracked", "dirty"), 7)
    running.server.reload()
    mixed = running.server.catalogue["cells"].mixed
    for _ in range(1000):  # the old one goes when nobody asks for it any more
        if list(mixed.adapters) == [running.server.catalogue["cells"].key]:
            break
        time.sleep(0.01)
    assert list(mixed.adapters) == [running.server.catalogue["cells"].key]
    after = running.ask("POST", "/adapters/cells/predict", picture())
    assert set(after[1]["probabilities"]) == {"whole", "cracked", "dirty"}
    (tmp_path / "cells" / "adapter_config.json").write_text("{")
    running.server.reload()
    assert running.ask("POST", "/adapters/cells/predict", picture()) == after
    assert "not reloaded, and as before" in said[-1]
    running.stop()


@pytest.mark.slow
def test_the_command_reads_its_folders_again(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["cells"], tmp_path / "cells")
    running = Process(str(tmp_path / "cells"))
    shutil.rmtree(tmp_path / "cells")
    saved(folders["base"], tmp_path / "cells", gm.VPT(prompts=5), ("whole", "cracked", "dirty"), 7)
    running.process.send_signal(signal.SIGHUP)
    for _ in range(400):
        status, found = running.ask("POST", "/adapters/cells/predict", picture())
        assert status == 200
        if len(found["probabilities"]) == 3:
            break
        time.sleep(0.05)
    assert set(found["probabilities"]) == {"whole", "cracked", "dirty"}
    assert running.stop() == 0, "".join(running.said)


def test_a_token_is_needed(folders: dict[str, Path]) -> None:
    running = Thread({"cells": folders["cells"]}, token="0123456789abcdef0123")
    path = "/adapters/cells/predict"
    assert running.ask("GET", "/health")[0] == 200
    assert running.ask("POST", path, picture()) == (401, {"detail": "a token is needed: Authorization: Bearer TOKEN"})
    assert running.ask("GET", "/metrics", headers={"authorization": "Bearer 0123456789abcdef012"})[0] == 401
    assert running.ask("POST", path, picture(), {"authorization": "Bearer 0123456789abcdef0123"})[0] == 200
    running.stop()


def test_more_than_may_wait_are_sent_away(folders: dict[str, Path]) -> None:
    running = Thread({"cells": folders["cells"]}, max_wait=0.3, max_batch=1, room=1)

    def ask(number: int) -> tuple[int, Any]:
        return running.ask("POST", "/adapters/cells/predict", picture())

    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(ask, range(72)))
    assert {status for status, _ in found} == {200, 503}
    assert {answer["detail"] for status, answer in found if status == 503} == {"1 requests wait already"}
    running.stop()
