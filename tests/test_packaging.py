"""What is installed: every module and data file, the command, licences; and scripts that work from a bare checkout."""

import configparser
import os
import re
import stat
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory) -> set[str]:
    """What a wheel built from the tracked files holds; built from a copy, as a left-over build/ would slip in."""
    folder, copy = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("copy")
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(lambda n: (ROOT / n).is_file(), tracked.stdout.split("\n")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        copy,
    ]
    subprocess.run([*map(str, command)], check=True, capture_output=True, cwd=folder)
    return set(zipfile.ZipFile(next(folder.glob("*.whl"))).namelist())


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(wheel_names):
    tracked = subprocess.run(
        ["git", "ls-files", "hemax_batch"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    expected = set(tracked.stdout.split())
    assert expected - wheel_names == set()
    assert {name.split("/")[0] for name in wheel_names} == {
        "hemax_batch",
        "hemax_batch-0.1.0.dist-info",
    }
    assert any(name.endswith("LICENSE") for name in wheel_names)


def test_requirements_are_within_the_tested_set():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    names = {
        name.lower().replace("_", "-"): version
        for name, version in (line.split("==") for line in lines)
    }
    options = setup_cfg()["options"]["install_requires"].split("\n")
    extras = [
        line
        for key in ("test", "train", "openvino")
        for line in setup_cfg()["options.extras_require"][key].split("\n")
    ]
    for line in filter(None, options + extras):
        name, lower = re.fullmatch(r"([A-Za-z0-9.-]+)>=([\d.]+)(?:; .+)?", line).groups()
        assert name.lower() in names, f"{name} is not in constraints.txt"
        assert version_tuple(names[name.lower()]) >= version_tuple(lower)


def version_tuple(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def test_the_installed_package_has_the_command_and_the_version():
    import hemax_batch

    assert metadata.version("hemax-batch") == hemax_batch.__version__
    scripts = metadata.entry_points(group="console_scripts", name="hemax-batch")
    assert [entry.value for entry in scripts] == ["hemax_batch.cli:main"]


@pytest.mark.parametrize(
    "name",
    [
        "bin/demo",
        "bin/test",
        "bin/check",
        "bin/hemax-batch",
        "bin/.venv-setup",
        "bin/.browser-setup",
        ".ci/run",
    ],
)
def test_scripts_are_executable_and_sound(name):
    path = ROOT / name
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_a_python_that_is_too_old_is_refused_in_words(tmp_path):
    for name in ("python3.13", "python3.12", "python3.11", "python3", "python"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "bin").mkdir()
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt", "bin/.venv-setup"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    result = subprocess.run(
        ["bash", str(tmp_path / "bin" / ".venv-setup")],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HEMAX_PYTHON": ""},
    )
    assert result.returncode != 0 and "3.11, 3.12 or 3.13" in result.stderr


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text


@pytest.mark.slow
def test_the_readmes_figures_are_those_of_the_weights_that_ship(tmp_path):
    pytest.importorskip(
        "matplotlib", reason="matplotlib is not installed: pip install 'hemax-batch[train]'"
    )
    script, drawn = ROOT / "examples" / "plot_card.py", tmp_path / "figures.svg"
    subprocess.run([sys.executable, script, drawn], check=True, capture_output=True)
    kept = (ROOT / "examples" / "figures.svg").read_text("utf-8")
    assert re.findall(r">([^<>]*)</text>", drawn.read_text("utf-8")) == re.findall(
        r">([^<>]*)</text>", kept
    )
    points = [
        [float(x) for x in re.findall(r'<use [^>]*x="([\d.]+)"', text)]
        for text in (drawn.read_text("utf-8"), kept)
    ]
    assert len(points[0]) > 20 and points[0] == pytest.approx(points[1], abs=1)  # 0.004 of a figure


STUB = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$TOLD"
while [ $# -gt 1 ]; do
    case $1 in --from-weights | --teacher) [ -f "$2" ] || exit 9 ;; --out) out=$2 ;; esac
    shift
done
touch "$out" "${out%.safetensors}.md"
"""


def test_the_script_that_makes_the_shipped_weights_is_what_their_card_says(tmp_path):
    from hemax_batch.learning.evaluation.model_card import _commands
    from hemax_batch.model.checkpoint import read_card

    (tmp_path / "bin").mkdir()
    for name, text in (
        ("torchrun", STUB),
        ("hemax-batch", STUB),
        ("python", "#!/bin/sh\necho cuda\n"),
    ):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    env = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "TOLD": str(tmp_path / "told"),
    }
    asked = [ROOT / "examples" / "train_shipped.sh", tmp_path, tmp_path / "made"]
    for _ in "12":  # the second time everything is there
        done = subprocess.run(
            [*map(str, asked)], env=env, capture_output=True, text=True, check=True
        )
    assert (
        done.stdout.split("\n")[0] == str(tmp_path / "made" / "hemax-s.safetensors")
        and Path(done.stdout.strip()).exists()
    )
    told, said = (tmp_path / "told").read_text().splitlines(), _commands(read_card().trained)
    assert [options(line) for line in told] == [options(line, silent_stain="1") for line in said]


def options(command: str, silent_stain: str = "") -> list[str]:
    """What decides the weights, in any order: not where files are, nor what they are called before they are averaged."""
    words = command.split()
    if "average" in words:
        return sorted(w for w in words[: words.index("--out")] if w.endswith(".safetensors"))
    kept = [words[0]]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--") and word not in ("--out", "--work", "--arch"):
            value = "" if following.startswith("--") or word == "--from-weights" else following
            kept.append(f"{word} {value}".strip())
    return sorted(
        [*kept, *([f"--stain {silent_stain}"] if silent_stain and "--stain" not in words else [])]
    )
