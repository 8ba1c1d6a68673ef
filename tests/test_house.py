"""The house: every file of `gossamer` stands in a room, imports point down or stay in their room, and no files import in a circle.

All imports count: those inside functions, and those for types alone.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import gossamer as gm

SOURCE = Path(gm.__file__).parent
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    (
        *("version", "tested_versions", "documents", "arguments", "quiet", "metrics", "carriers", "hub", "fingerprint"),
        *("pixels", "made", "batches", "noising"),
    ),
    ("storage", "report", "card"),
    ("state",),
    ("anatomy.call", "anatomy.stack", "anatomy.displaced", "anatomy.projection", "anatomy.sizes"),
    ("anatomy.block",),
    ("anatomy.memory",),
    ("anatomy.window_attention",),  # up to here, what a family may speak of
    ("families",),
    ("anatomy",),
    ("reading",),
    ("methods",),
    ("hosts", "recipes"),
    ("models",),
    ("adapted", "data"),
    ("cost", "zoo"),
    ("architectures", "drawing"),
    ("origin",),
    ("peft_folder", "peft_layer"),
    ("saving",),
    ("finished",),
    ("adapting", "peft"),
    ("runs", "mixed"),
    ("tasks", "pictures", "protocols"),
    ("training", "evaluate", "looking", "exported"),
    ("condensation", "searching", "pretraining", "predict", "export", "serving", "sklearn"),
    ("comparison",),
    ("racing",),
    ("commands",),
    ("",),  # the public surface
    ("cli",),
    ("completion",),
    ("__main__",),
)
"""From below. A room is a folder or a file; a file that has a room of its own is not in that of its folder. No room knows one of
its own floor."""


def name_of(path: Path, root: Path) -> str:
    """`training/train.py` -> "training.train", `training/__init__.py` -> "training"."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(root: Path) -> dict[str, set[str]]:
    """Every file under a package's folder, and the files of the same package that it imports anywhere in it."""
    files = {name_of(path, root): path for path in sorted(root.rglob("*.py"))}
    return {name: _imported(path, root.name, set(files)) - {name} for name, path in files.items()}


def _imported(path: Path, package: str, files: set[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    inside = {name.removeprefix(package).removeprefix(".") for name in found if f"{name}.".startswith(f"{package}.")}
    return {name if name in files else name.rpartition(".")[0] for name in inside}


def room_of(name: str, floors: tuple[tuple[str, ...], ...]) -> tuple[int, str]:
    """The floor and the room of a file: the longest name of a room that it begins with; KeyError where it is in none."""
    rooms = {room: floor for floor, rooms in enumerate(floors) for room in rooms}
    while name not in rooms:
        if "." not in name:
            raise KeyError(f"{name} is in no room of the house: give it one in FLOORS")
        name = name.rpartition(".")[0]
    return rooms[name], name


def wrong(graph: dict[str, set[str]], floors: tuple[tuple[str, ...], ...]) -> list[str]:
    """Imports that point up, or sideways into another room."""
    found = []
    for name, targets in graph.items():
        floor, room = room_of(name, floors)
        for target in sorted(targets):
            below, other = room_of(target, floors)
            if other != room and below >= floor:
                found.append(f"{name or 'gossamer'} imports {target or 'gossamer'}, which does not stand below it")
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Files that import each other in a circle, the first that is found; empty where there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        found = next((c for target in sorted(graph[name]) if (c := visit(target, [*path, name]))), [])
        done.add(name)
        return found

    return next((c for name in graph if (c := visit(name, []))), [])


def test_every_file_is_in_a_room_and_every_room_has_files() -> None:
    graph = imports(SOURCE)
    used = {room_of(name, FLOORS)[1] for name in graph}
    assert used == {room for floor in FLOORS for room in floor}


def test_imports_point_down() -> None:
    assert wrong(imports(SOURCE), FLOORS) == []


def test_no_files_import_in_a_circle() -> None:
    assert circle(imports(SOURCE)) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import gossamer.cli\n", "imports cli, which does not stand below it"),
        ("def f():\n    from gossamer.upper import x\n", "imports upper.x"),
        ("if TYPE_CHECKING:\n    from gossamer import upper\n", "imports upper,"),
        ("from gossamer import adapt\n", "imports gossamer,"),
        ("from gossamer.lower.twin import x\n", ""),
        ("from gossamer.beside import x\n", "imports beside,"),
    ],
)
def test_what_the_drawing_sees(text: str, says: str, tmp_path: Path) -> None:
    """A house of four rooms, with one import too many."""
    floors = (("lower", "beside"), ("upper",), ("",), ("cli",))
    files = {"__init__": "", "cli": "", "beside": "x = 1\n", "lower/__init__": "", "lower/twin": "", "lower/a": text}
    files |= {"upper/__init__": "from gossamer.lower import a\n", "upper/x": ""}
    for name, content in files.items():
        path = tmp_path / "gossamer" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    found = wrong(imports(tmp_path / "gossamer"), floors)
    assert len(found) == bool(says)
    assert not found or says in found[0]


def test_a_file_in_no_room_and_a_circle_are_found() -> None:
    with pytest.raises(KeyError, match="drawer is in no room of the house"):
        wrong({"drawer": set()}, FLOORS)
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]


def test_a_family_names_no_method_and_a_method_no_family() -> None:
    methods = {path.stem for path in (SOURCE / "methods").glob("*.py")} - {"__init__", "base", "full", "adapter"}
    for path in (SOURCE / "families").rglob("*.py"):
        words = set(path.read_text().lower().replace(".", " ").replace("_", " ").split())
        assert not words & methods, path.name
