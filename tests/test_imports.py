"""Imports point one way: read from the sources, lazy ones included."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "onediff_jax"
OURS = "onediff_jax"

# Folder → what of the package it may import, and what of others (None: anything).
ARROWS = {
    "tasks": (("tasks",), {"cv2", "numpy", "PIL"}),
    "flow": (("flow",), {"jax", "jaxtyping", "numpy"}),
    "models": (("models", "data.layout"), None),  # the layout of rows: numpy only
    "data": (("data", "tasks"), None),
    "parallel": (("parallel", "experiment", "run.workdir"), {"jax", "ml_collections", "numpy"}),
    "interop": (("interop", "models", "data.codec", "experiment.checks"), None),
}
EVERYWHERE = ("files", "exits")  # the standard library only
# Folder → what it must not import, of others.
NEVER = {
    "data": {"jax", "flax", "optax", "orbax", "clu"},
    "models": {"optax", "orbax", "grain", "clu", "torch"},
}
# Library → the only files that may import it.
OWNERS = {
    "orbax": {"run/checkpoint.py"},
    "clu": {"run/loop.py"},
    "optax": {"run/optimizer.py", "run/train_step.py"},
}


def sources(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found, folder
    return found


def imports(file: Path) -> set[str]:
    """Dotted names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level or "torch_files" in file.parts, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names if not node.level}
    return found


def within(name: str, modules: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{OURS}.{module}.") for module in modules)


@pytest.mark.parametrize("folder", ARROWS)
def test_arrows(folder):
    ours, others = ARROWS[folder]
    wrong = []
    for file in sources(PACKAGE / folder):
        for name in imports(file):
            top = name.split(".")[0]
            if top == OURS:
                bad = not within(name, (*ours, *EVERYWHERE))
            else:
                standard = top in sys.stdlib_module_names
                bad = top in NEVER.get(folder, ()) or not (
                    standard or others is None or top in others
                )
            if bad:
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_configs_import_nothing_of_the_package():
    for file in sources(ROOT / "configs"):
        tops = {name.split(".")[0] for name in imports(file)}
        assert tops <= {"ml_collections", "jax"} | set(sys.stdlib_module_names), file


@pytest.mark.parametrize("library", OWNERS)
def test_libraries_with_one_owner(library):
    users = {
        str(file.relative_to(PACKAGE))
        for file in sources(PACKAGE)
        if any(name.split(".")[0] == library for name in imports(file))
    }
    assert users and users <= OWNERS[library]


def test_nothing_imports_the_commands():
    """main, sample, evaluate and the others are ends, not parts."""
    commands = {
        f"{OURS}.{file.stem}"
        for file in PACKAGE.glob("*.py")
        if '__name__ == "__main__"' in file.read_text()
    }
    assert f"{OURS}.main" in commands
    for file in sources(PACKAGE):
        if file == PACKAGE / "api.py":  # offers in Python what the commands do
            continue
        users = {n for n in imports(file) if any(f"{n}.".startswith(f"{c}.") for c in commands)}
        assert not users, f"{file.relative_to(ROOT)} imports {users}"


@pytest.mark.parametrize(
    "modules, absent",
    [
        ("onediff_jax.api", "numpy jax flax torch tensorflow grain scipy"),
        ("onediff_jax, onediff_jax.models", "jax flax numpy torch tensorflow"),
        ("onediff_jax.interop", "jax flax torch tensorflow"),
        ("onediff_jax.data.rows, onediff_jax.data.world_bundles", "jax flax torch tensorflow"),
        ("onediff_jax.tasks.cameras, onediff_jax.tasks.prompts", "jax flax torch grain"),
        ("onediff_jax.main", "jax flax tensorflow"),
    ],
)
def test_cheap_to_import(modules, absent):
    """What these load in a fresh interpreter, whatever it comes through."""
    code = f"import sys, {modules}; print(*[m for m in {absent.split()} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []
