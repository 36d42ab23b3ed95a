"""Rules of the project that a test can check."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("flows", "labeling", "model", "training", "evaluation", "infra", "miniature")
SOURCES = sorted(path.relative_to(ROOT).as_posix() for name in OURS for path in (ROOT / name).rglob("*.py"))
LIGHT = (
    "infra.config",
    "labeling.sdd.schema",
    "labeling.sdd.shards",
    "labeling.sdd.query",
    "labeling.rules",
    "labeling.stages.base",
    "labeling.stages.caption",
    "labeling.stages.detect",
    "labeling.stages.nouns",
    "labeling.stages.segment",
    "labeling.cutout",
    "labeling.execution.network_job",
    "labeling.execution.supervisor",
    "labeling.execution.child",
    "labeling.execution.run",
    "evaluation.benchmarks.catalog",
    "evaluation.benchmarks.openimages",
    "miniature.scoring.score_options",
    "flows.experiment",
    "flows.score",
    "flows.cli",
)
HEAVY = ("torch", "transformers", "ray", "spacy", "img2dataset", "prefect", "diffusers", "segment_anything", "pandas")
VAGUE = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers"}


def tree_of(source):
    return ast.parse((ROOT / source).read_text())


def test_imports_follow_the_map():
    script = Path(sys.executable).with_name("lint-imports")
    linted = subprocess.run([script], cwd=ROOT, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout[-3000:]


IMPORTS = """
import importlib, sys
name, *heavy = sys.argv[1:]
importlib.import_module(name)
print(*(h for h in heavy if h in sys.modules))
"""


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_loads_nothing_heavy(module):
    command = [sys.executable, "-c", IMPORTS, module, *HEAVY]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("name", OURS)
def test_no_other_distribution_ships_one_of_our_names(name):
    assert set(packages_distributions().get(name, [])) <= {"subject-diffusion"}
    assert Path(find_spec(name).origin).parent == ROOT / name


def test_no_module_has_a_vague_name():
    modules = [*SOURCES, *(p.relative_to(ROOT).as_posix() for p in (ROOT / "tests").rglob("*.py"))]
    assert [m for m in modules if VAGUE & set(re.split(r"[/_.]", m))] == []


@pytest.mark.parametrize("source", [s for s in SOURCES if s.endswith("__init__.py")])
def test_a_package_holds_a_docstring_and_nothing_else(source):
    tree = tree_of(source)
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_openclip_is_imported_in_one_place():
    """That module leaves out what open_clip imports and the project does not need."""
    importing = [
        source for source in SOURCES if re.search(r"^\s*(import|from) open_clip\b", (ROOT / source).read_text(), re.M)
    ]
    assert importing == ["model/openclip.py"]


def documents_its_members(node):
    """Return whether a class is an enum or a settings class, whose members have docstrings of their own."""
    bases = {base.id for base in getattr(node, "bases", []) if isinstance(base, ast.Name)}
    return bool(bases & {"StrEnum", "IntEnum", "Enum", "Config"})


@pytest.mark.parametrize("source", SOURCES)
def test_every_public_definition_has_a_docstring(source):
    tree = tree_of(source)
    assert ast.get_docstring(tree), f"{source} has no docstring"
    definitions = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    public = [n for n in definitions if not n.name.startswith("_") and not documents_its_members(n)]
    assert [n.name for n in public if not ast.get_docstring(n)] == []


GENERATED = {"docs/reference/settings.md", "docs/reference/command-line.md"}
"""Pages that `make docs` writes from the code."""
WRITTEN = ["README.md", "miniature/weights/README.md"]
WRITTEN += sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
PAGES = {name: (ROOT / name).read_text() for name in WRITTEN if name not in GENERATED}


def code_in(page):
    """Return the lines of a page's fenced blocks, continuation lines joined, and its inline code."""
    fence = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    blocks = [block.replace("\\\n", " ") for block in fence.findall(page)]
    lines = [line.split(" #")[0] for block in blocks for line in block.splitlines()]
    return [*lines, *re.findall(r"`([^`\n]+)`", fence.sub("", page))]


CODE = [(name, line) for name, page in PAGES.items() for line in code_in(page)]


def test_every_make_target_of_the_documentation_exists():
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {m[1] for _, code in CODE if (m := re.search(r"\bmake(?: [A-Z_]+=\S+)* ([a-z][\w-]*)", code))}
    assert named >= {"demo", "test"}
    assert named - targets == set()


def test_every_command_of_the_documentation_exists_with_its_options():
    from typer.main import get_command

    from flows.cli import app

    named = [(page, m[1].split()) for page, code in CODE if (m := re.search(r"subject-diffusion ([a-z].*)", code))]
    assert {words[0] for _, words in named} >= {"build", "status", "inspect", "describe", "serve-world", "score"}
    for page, words in named:
        command = get_command(app)
        while words and getattr(command, "commands", None):
            if command.invoke_without_command and words[0].startswith("--"):
                break
            assert words[0] in command.commands, f"{page}: {words}"
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        rest = " ".join(words).split('"')[0]
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, f"{page}: {rest}"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)", PAGES[page]) if "://" not in link]
    targets = {link: (ROOT / page).parent / link for link in links}
    generated = {(ROOT / name).resolve() for name in GENERATED}
    assert [link for link, path in targets.items() if not path.exists() and path.resolve() not in generated] == []


def test_sprites_and_weights_stay_small():
    sizes = [path.stat().st_size for name in ("sprites", "weights") for path in (ROOT / "miniature" / name).rglob("*")]
    assert sum(sizes) < 60e6


def test_weights_name_no_path_of_the_machine_that_made_them():
    settings = {path: path.read_text() for path in (ROOT / "miniature" / "weights").rglob("*.json")}
    assert settings
    assert [str(path) for path, text in settings.items() if re.search(r': "(/|[A-Z]:|out/)', text)] == []


@pytest.mark.parametrize("name", OURS)
def test_any_is_rare(name):
    """At most 10 in 1,000 lines, each at the border of a library without types."""
    texts = [(ROOT / source).read_text() for source in SOURCES if source.startswith(f"{name}/")]
    lines = sum(bool(line.strip()) for text in texts for line in text.splitlines())
    assert sum(len(re.findall(r"\bAny\b", text)) for text in texts) <= 10 * lines / 1000


HTTP_CLIENTS = {f"httpx.{name}" for name in ("get", "post", "Client", "AsyncClient")}


def test_requests_of_tests_are_as_patient_as_their_other_waits():
    """A client of httpx waits five seconds by default, less than a loaded machine may take to answer."""
    impatient = []
    for source in sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")):
        calls = (node for node in ast.walk(tree_of(source)) if isinstance(node, ast.Call))
        for call in (call for call in calls if ast.unparse(call.func) in HTTP_CLIENTS):
            if "timeout=PATIENCE_S" not in map(ast.unparse, call.keywords):
                impatient.append(f"{source}:{call.lineno}")
    assert impatient == []
