"""What the documents say of the tree is what the tree is."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import tilec.language as T
from tests.modules import load_module
from tilec.config import Config
from tilec.language.absent import ABSENT, FAMILIES
from tilec.passes.pipeline import PIPELINE

ROOT = Path(__file__).parent.parent
# Folders of the project's own; what tests/ holds mirrors tilec/ and is not listed again.
TOP = ("tilec", "benchmarks", "docs", "examples", "scripts", "tests")
LISTED_WHOLE = ("tilec",)
IGNORED = {"__pycache__"}


def folders() -> set[str]:
    """Every folder that has a file in it and that the map has to name, as 'tilec/ir/'."""
    found = {name for name in TOP if (ROOT / name).is_dir()}
    for name in LISTED_WHOLE:
        for path in (ROOT / name).rglob("*"):
            if path.is_file() and not IGNORED & set(path.parts):
                found.add(path.parent.relative_to(ROOT).as_posix())
    return {f"{name}/" for name in found}


def passes() -> set[str]:
    found = (ROOT / "tilec" / "passes").rglob("*.py")
    return {p.relative_to(ROOT).as_posix() for p in found if p.name != "__init__.py"}


def named_paths() -> Counter[str]:
    """How often docs/map.md names each path, in rows of the form | `path` | what it is for |."""
    text = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    return Counter(re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE))


def test_map_names_every_folder_and_pass_once() -> None:
    named = named_paths()
    wanted = folders() | passes()
    missing = sorted(wanted - set(named))
    rows = "\n".join(f"| `{path}` | |" for path in missing)
    assert not missing, f"docs/map.md lacks these rows, each with what it is for:\n{rows}"
    twice = sorted(path for path, count in named.items() if count > 1)
    assert not twice, f"docs/map.md names these more than once: {twice}"


def test_map_names_nothing_that_is_not_there() -> None:
    ghosts = sorted(path for path in named_paths() if not (ROOT / path).exists())
    assert not ghosts, f"docs/map.md names what does not exist: {ghosts}"


def test_the_map_has_the_passes_in_the_order_in_which_they_first_run() -> None:
    ran = list(dict.fromkeys(pass_.__name__ for pass_ in PIPELINE))
    rows = [Path(path).stem for path in named_paths() if path.startswith("tilec/passes/")]
    assert [name for name in rows if name in ran] == ran


def test_names_of_the_language_are_listed_and_so_are_those_that_it_lacks() -> None:
    text = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    there, not_there = text.split("## There is not")
    listed = Counter(re.findall(r"`(\w+)`", there.split("## There is")[1]))
    assert listed == Counter(T.__all__), "docs/language.md lists other names than tilec.language"
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", not_there, flags=re.MULTILINE))
    assert rows == {**ABSENT, **{f"{start}…": hint for start, hint in FAMILIES.items()}}
    assert not set(ABSENT) & set(T.__all__)


def test_variables_documented_are_those_read() -> None:
    text = (ROOT / "docs" / "debugging.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(TILEC_[A-Z_]+)` \|", text, flags=re.MULTILINE)
    assert sorted(documented) == sorted(f"TILEC_{f.name.upper()}" for f in fields(Config))


def test_only_config_reads_variables() -> None:
    """A variable spelled elsewhere in tilec would be one that debugging.md does not have."""
    strays = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "tilec").rglob("*.py")
        for name in re.findall(r"[\"'](TILEC_[A-Z_]*)[\"']", path.read_text(encoding="utf-8"))
        if path != ROOT / "tilec" / "config.py"
    }
    assert not strays


def test_the_readme_shows_the_example_that_is_run() -> None:
    """The GEMM of the README is examples/gemm.py's kernel, word for word."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = next(block for block in re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL))
    example = (ROOT / "examples" / "gemm.py").read_text(encoding="utf-8")
    kernel = shown[shown.index("@tilec.kernel") :].split("\n\n")[0].strip()
    start = example.index("@tilec.kernel")
    assert tokens(kernel) == tokens(example[start : start + example[start:].index("\n\n\n")])


def test_the_code_of_the_readme_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "readme.py").write_text("\n".join(blocks), encoding="utf-8")
    module = load_module(tmp_path / "readme.py")
    assert module.c.shape == (200, 300) and (module.c == 96).all() and (module.y == 192).all()


def test_diffs_in_the_documents_are_lines_of_the_tree() -> None:
    """Every added line of a diff stands in the file that the diff names."""
    found = 0
    for doc in sorted((ROOT / "docs").glob("*.md")):
        for block in re.findall(r"```diff\n(.*?)```", doc.read_text(encoding="utf-8"), re.DOTALL):
            lines: set[str] = set()
            for line in block.splitlines():
                if line.startswith("+++ b/"):
                    path = ROOT / line.removeprefix("+++ b/")
                    lines = {x.strip() for x in path.read_text(encoding="utf-8").splitlines()}
                else:
                    assert line[1:].strip() in lines, f"{doc.name}: {path.name} has no {line!r}"
                    found += 1
    assert found > 20


def tokens(source: str) -> list[str]:
    """The source but for line breaks, spacing and trailing commas: the README sets it tighter."""
    return re.findall(r"\w+|[^\w\s]", re.sub(r",\s*\)", ")", source))
