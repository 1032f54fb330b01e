"""One file of several modules: how the PyTorch code goes into an exported folder.

diffusers copies the files it loads from folders into one place and knows them by their name, so a
file that imports another could be given that of another export. Every class therefore comes with
all its code in one file, and the name of the file has a hash of its content.
"""

import ast
import functools
import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).parent

# File of an export → the modules it is made of, the one that gives the docstring last.
PARTS = {
    "pipeline": (
        "own_code",
        "pipeline_code",
        "adapters_torch",
        "cameras_torch",
        "captions_torch",
        "flow_torch",
        "frames_torch",
        "pictures_torch",
        "tasks_torch",
        "vae_torch",
        "views_torch",
        "pipeline",
    ),
    "nextdit": ("own_code", "fused_attention", "nextdit"),
    "light_codec": ("own_code", "light_codec"),
    "hashed_text": ("own_code", "hashed_text"),
}

# diffusers runs a second file of the same name, as an export that was edited has, in the module of
# the first one, where it would change the globals of the classes that are loaded already. After
# this, the module that diffusers finds is a copy. The bytecode goes because Python takes it for
# that of another file with the same name and size that is written in the same second.
_END = """
CODE = Path(__file__).read_text(encoding="utf-8")
if __name__.startswith("diffusers_modules."):  # a second file of this name gets a module of its own
    sys.modules[__name__] = types.ModuleType(__name__)
    vars(sys.modules[__name__]).update(globals())
    Path(importlib.util.cache_from_source(__file__)).unlink(missing_ok=True)
"""
_END_NEEDS = ("import importlib.util", "import sys", "import types", "from pathlib import Path")


@functools.cache
def bundle(name: str) -> tuple[str, str]:
    """(stem, text) of a file of PARTS; the stem ends with eight digits of the text's hash.

    Raises ValueError where two modules define one name, or import two things under one.
    """
    imports: dict[str, tuple[str, str]] = {}  # name → module it is from ("" for itself), what
    sections, defined, docstring = [], {}, ""
    for line in _END_NEEDS:
        (node,) = ast.parse(line).body
        _add_import(node, imports, "the end")
    for module in PARTS[name]:
        source = (HERE / f"{module}.py").read_text(encoding="utf-8")
        tree = ast.parse(source)
        start = 1
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                start = (node.end_lineno or node.lineno) + 1
                if isinstance(node, ast.Import) or not node.level:
                    _add_import(node, imports, module)
            for key in _names(node):
                if defined.setdefault(key, module) != module:
                    raise ValueError(f"{key} is defined in {defined[key]} and in {module}")
        docstring = ast.get_docstring(tree, clean=True) or ""
        body = "\n".join(source.splitlines()[start - 1 :]).strip("\n")
        if module != PARTS[name][-1]:
            body = f"{_comment(docstring)}\n\n{body}"
        sections.append(body)
    head = f'"""{docstring}\n"""' if "\n" in docstring else f'"""{docstring}"""'
    text = "\n\n\n".join([f"{head}\n\n{_import_lines(imports)}", *sections])
    text = f"{text}\n\n{_END}"
    return f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:8]}", text


def write(name: str, folder: Path) -> str:
    """Writes a file of PARTS into a folder, which is made, in place of earlier ones; its stem."""
    stem, text = bundle(name)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob(f"{name}_????????.py"), folder / f"{name}.py"):
        old.unlink(missing_ok=True)
    (folder / f"{stem}.py").write_text(text, encoding="utf-8")
    return stem


def _add_import(node: ast.stmt, imports: dict, module: str) -> None:
    assert isinstance(node, ast.Import | ast.ImportFrom), ast.dump(node)
    for alias in node.names:
        source = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
        found = (source, alias.name + (f" as {alias.asname}" if alias.asname else ""))
        known = imports.setdefault(alias.asname or alias.name, found)
        if known != found:
            raise ValueError(f"{module} imports {found}, another module {known}")


def _import_lines(imports: dict[str, tuple[str, str]]) -> str:
    """The statements: those of the standard library, then the others."""
    groups: tuple[list[str], list[str]] = ([], [])
    for source in sorted({source for source, _ in imports.values()}):
        names = sorted(what for module, what in imports.values() if module == source)
        lines = [f"import {name}" for name in names]
        if source:
            lines = [f"from {source} import {', '.join(names)}"]
        for line in lines:
            groups[line.split()[1].split(".")[0] not in sys.stdlib_module_names].append(line)
    return "\n\n".join("\n".join(group) for group in groups)


def _names(node: ast.stmt) -> list[str]:
    """What a statement at the top of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _comment(docstring: str) -> str:
    rule = "# " + "-" * 97
    return "\n".join([rule, *(f"# {line}".rstrip() for line in docstring.splitlines()), rule])
