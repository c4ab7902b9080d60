"""The house's layout: no file shadows a module, none grows beyond one concept."""

import ast
import importlib.metadata
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("data_pipeline", "pretrain", "finetune", "launch")
SOURCES = sorted(path for package in (*PACKAGES, "benchmarks") for path in (ROOT / package).rglob("*.py"))
_SCRIPTS = [
    path.relative_to(ROOT)
    for path in SOURCES
    if '\nif __name__ == "__main__":' in path.read_text() and path.parent.name != "benchmarks"
]
DUMPING_GROUNDS = {"utils", "helpers", "common", "misc"}


def test_no_file_shadows_a_module_when_its_folder_comes_first():
    """Under `accelerate launch pretrain/mae.py` the folder `pretrain/` is `sys.path[0]`."""
    installed = importlib.metadata.packages_distributions()
    importable = {name for name, owners in installed.items() if set(owners) != {"sherd"}}
    stems = {path.stem for path in SOURCES} - {"__init__"}
    assert not stems & (importable | sys.stdlib_module_names | set(PACKAGES) | DUMPING_GROUNDS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_file_is_one_concept_of_at_most_300_lines_with_documented_names(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    tree = ast.parse(text)
    undocumented = [
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
    ]
    assert ast.get_docstring(tree)
    assert undocumented == []


def test_entry_scripts_are_where_they_belong():
    names = {str(script) for script in _SCRIPTS}
    finetune = {f"finetune/{name}.py" for name in ("classify", "probe", "benchmark", "publish", "report", "validate")}
    pretrain = {f"pretrain/{name}.py" for name in ("mae", "distill", "doctor")}
    launch = {f"launch/{name}.py" for name in ("slurm", "job_ending", "jobset", "pod")}
    assert names == {"data_pipeline/shard.py", "data_pipeline/survey.py"} | pretrain | finetune | launch


@pytest.mark.parametrize("script", _SCRIPTS, ids=str)
def test_entry_scripts_define_no_classes(script: Path):
    """They run as `__main__`: a class there could not be unpickled in another process."""
    assert not [node for node in ast.parse((ROOT / script).read_text()).body if isinstance(node, ast.ClassDef)]
