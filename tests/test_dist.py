"""What is handed out: what is in wheel and source archive, and the wheel at work where there is no source tree."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml

import gossamer as gm

from . import squares

ROOT = Path(__file__).parents[1]
UV = Path(sysconfig.get_path("scripts"), "uv")
built_here = pytest.mark.skipif(not UV.is_file(), reason="uv is not installed (pip install 'gossamer[dev]')")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, built from the source archive, and that archive."""
    folder = tmp_path_factory.mktemp("dist")
    command = [str(UV), "build", "--quiet", "--offline", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*command, "--out-dir", str(folder), str(ROOT)], check=True, cwd=folder)
    (wheel,), (archive,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, archive


@built_here
def test_the_wheel_holds_the_package_and_nothing_else(made: tuple[Path, Path]) -> None:
    source = ROOT / "src" / "gossamer"
    files = {p.relative_to(source.parent).as_posix() for p in source.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    info = f"gossamer-{gm.__version__}.dist-info"
    said = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE", "RECORD")}
    with zipfile.ZipFile(made[0]) as wheel:
        assert set(wheel.namelist()) == files | said
        metadata = message_from_string(wheel.read(f"{info}/METADATA").decode())
        entries = wheel.read(f"{info}/entry_points.txt").decode()
    assert (metadata["Name"], metadata["Version"]) == ("gossamer", gm.__version__)
    assert (metadata["License-Expression"], metadata["Requires-Python"]) == ("Apache-2.0", ">=3.10")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "gossamer = gossamer.cli:main" in entries
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata.get_payload() == readme
    for extra in metadata.get_all("Provides-Extra", []):
        assert f"`{extra}`" in readme, f"the README does not say what the extra {extra} is for"


@built_here
def test_the_archive_holds_what_is_needed_to_build_and_test(made: tuple[Path, Path]) -> None:
    with tarfile.open(made[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "pyproject.toml", "Makefile", "mkdocs.yml"} <= names
    assert {"src/gossamer/cli.py", "tests/test_dist.py", "docs/vpt.md", "requirements/lock.txt"} <= names
    assert not [name for name in names if re.search(r"__pycache__|\.pyc$|^(\.venv|build|dist|runs)\b", name)]


@built_here
@pytest.mark.slow
def test_the_wheel_works_without_the_source_tree(made: tuple[Path, Path], tmp_path: Path) -> None:
    """In an environment of its own, which sees the packages of this one, but not the source tree that a path file of it names."""
    home = tmp_path / "environment"
    subprocess.run([str(UV), "venv", "--quiet", "--offline", "--python", sys.executable, str(home)], check=True)
    python = home / "bin" / "python"
    install = [str(UV), "pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(python), str(made[0])]
    subprocess.run(install, check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    squares.save_images(tmp_path / "made", train=12, test=2)
    (tmp_path / "made/train").rename(tmp_path / "photographs")

    def run(*command: str) -> str:
        environment = {"PATH": f"{home / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
        said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert said.returncode == 0, said.stderr
        return said.stdout

    assert run("python", "-c", "import gossamer; print(gossamer.__file__)").startswith(str(packages))
    assert run("gossamer", "--version") == f"gossamer {gm.__version__}\n"
    assert "next: gossamer train photographs.yaml" in run("gossamer", "init", "photographs")
    greys = [f"images.size={squares.SIZE}", "images.mean=[0.5, 0.5, 0.5]", "images.std=[0.5, 0.5, 0.5]"]
    run("gossamer", "train", "photographs", f"model={squares.backbone()}", "training.epochs=1", *greys)
    assert "same" in run("gossamer", "predict", "runs/photographs", "made/test/same/000.png")
    assert "trained" in run("gossamer", "cost", "--model", "vit-b16", "--method", "vpt")


def test_the_citation_can_be_read() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert (cited["license"], cited["type"]) == ("Apache-2.0", "software")
