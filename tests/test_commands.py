"""The `onediff` entry point, and what a wheel brings."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import onediff_jax
from onediff_jax import commands
from onediff_jax.experiment.config_flag import find_config

ROOT = Path(__file__).parents[1]


def test_every_command_is_listed():
    """main, sample, evaluate and the others, by the file that can be started."""
    startable = {
        file.stem
        for file in (ROOT / "onediff_jax").glob("*.py")
        if '__name__ == "__main__"' in file.read_text()
    }
    assert startable == {module for module, _ in commands.COMMANDS.values()}


def test_a_command_gets_its_arguments():
    """Through the entry point it says what it says as a module."""
    code = "import sys; from onediff_jax.commands import main; sys.argv = ['onediff', *{}]; main()"
    wrong = subprocess.run(
        [sys.executable, "-c", code.format(["sample", "--task=nothing"])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode != 0
    assert "--source is required" in wrong.stderr


@pytest.mark.parametrize("given, says", [([], "usage"), (["fly"], "unknown command 'fly'")])
def test_bad_commands(given, says, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["onediff", *given])
    with pytest.raises(SystemExit, match=says):
        commands.main()


def test_one_version():
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert cited and newest and cited[1] == newest[1] == onediff_jax.__version__


def test_extras_agree_with_the_tested_versions():
    """An extra asks for nothing other than what the suite is run with."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tested = {}
    for line in (ROOT / "requirements-dev.txt").read_text().splitlines():
        if found := re.match(r"([\w-]+)([^#]*)", line.split("#")[0].strip()):
            tested[found[1]] = found[2].strip()
    for name, packages in extras["optional-dependencies"].items():
        for package in packages:
            found = re.match(r"([\w-]+)(.*)", package)
            if name not in ("tpu", "cuda", "dev") and found[1] in tested:
                assert found[2] == tested[found[1]], (name, package)


def test_shipped_configs_are_found_from_anywhere(tmp_path, monkeypatch):
    """In a wheel they lie in the package; a file that is there comes first."""
    package = tmp_path / "onediff_jax"
    (package / "configs").mkdir(parents=True)
    (package / "configs/mine.py").touch()
    monkeypatch.setattr(onediff_jax, "__file__", str(package / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    shipped = str(package / "configs/mine.py")
    assert find_config("configs/mine.py:tiny") == f"{shipped}:tiny"
    assert find_config("mine.py") == shipped
    (tmp_path / "mine.py").touch()
    assert find_config("mine.py") == "mine.py"
    with pytest.raises(ValueError, match="--config=other.py: there is no such file"):
        find_config("other.py")
