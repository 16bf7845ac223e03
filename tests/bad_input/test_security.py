"""Nothing that is read is run: no pickle, no code of a checkpoint, no eval, no shell; no value in a shell unquoted."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from bad_input.running import ROOT, SCRIPTS, call

from ltpipe.checkpoints.filenames import CONFIG
from ltpipe.runtime.errors import UserError
from ltpipe.workflow.arguments import as_options
from ltpipe.workflow.config import check_config

SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *SCRIPTS.values()])
RULES = sorted([*(ROOT / "workflow/rules").glob("*.smk"), ROOT / "Snakefile"])
RUNS_CODE = {
    "eval", "exec", "compile", "__import__", "breakpoint", "input",
    "os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "subprocess.getoutput", "subprocess.getstatusoutput",
    "pickle.load", "pickle.loads", "torch.load", "torch.save", "torch.hub.load", "joblib.load", "marshal.load",
    "marshal.loads", "shelve.open", "dill.load", "cloudpickle.load", "cloudpickle.loads", "pd.read_pickle",
    "runpy.run_path", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "np.save", "np.lib.format.read_array",
}  # fmt: skip
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "runpy"}
IMPORTERS = {
    "src/ltpipe/__init__.py", "src/ltpipe/runtime/forkserver.py", "src/ltpipe/runtime/plugins.py",
    "src/ltpipe/runtime/sources.py", "src/ltpipe/scoring/criterion.py", "src/ltpipe/solving/solver.py",
    "src/ltpipe/training/plugin.py", "src/ltpipe/training/task.py",
}  # fmt: skip


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def keyword(call_: ast.Call, name: str) -> str | None:
    return next((ast.unparse(each.value) for each in call_.keywords if each.arg == name), None)


def offences(path: Path) -> list[str]:
    """Calls and imports of a module that could run what it reads."""
    found = []
    for name, node in calls(path):
        last = name.rpartition(".")[2]
        if name in RUNS_CODE:
            found.append(name)
        if name.startswith("subprocess.") and (
            keyword(node, "shell") is not None
            or not all(isinstance(each, ast.List | ast.Name) for each in node.args[:1])
        ):
            found.append(f"{name} in a shell")
        if name == "yaml.load" and "_Strict" not in [ast.unparse(each) for each in node.args]:
            found.append("yaml.load")
        if name in ("np.load", "numpy.load") or keyword(node, "allow_pickle") not in (None, "False"):
            found.append(name)
        if last in ("from_pretrained", "from_config") and keyword(node, "trust_remote_code") != "False":
            found.append(f"{name} without trust_remote_code=False")
        if last == "from_pretrained" and "Model" in name and keyword(node, "use_safetensors") is None:
            found.append(f"{name} without use_safetensors")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"import {name}" for name in names if name.partition(".")[0] in UNSAFE_MODULES]
    return found


def test_no_code_runs_what_it_reads():
    assert len(SOURCES) > 100
    found = {path.relative_to(ROOT).as_posix(): offences(path) for path in SOURCES if offences(path)}
    assert found == {
        # These become, or run in a fork, the script that is the command of a rule, without a shell.
        "src/ltpipe/runtime/slots.py": ["os.execvp"],
        "src/ltpipe/runtime/forked.py": ["os.execv"],
        "src/ltpipe/runtime/forkserver.py": ["runpy.run_path", "os.execv", "runpy.run_path", "import runpy"],
    }


def test_modules_are_imported_by_name_in_few_places_only():
    """Tasks, criteria, allocations and sources of our own folders, the lazy API, the `trainer_fn` of a user, and what
    stages of the run have imported from places where Python finds modules.
    """
    found = {
        path.relative_to(ROOT).as_posix() for path in SOURCES for name, _ in calls(path) if "import_module" in name
    }
    assert found == IMPORTERS


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "eval('1')", "torch.load('x')", "np.load('x')",
        "np.fromfile('x', allow_pickle=True)", "os.system('x')", "subprocess.run('x', shell=True)",
        "subprocess.run(f'rm {x}')", "yaml.load(x, yaml.Loader)", "AutoConfig.from_pretrained('x')",
        "AutoModel.from_pretrained('x', trust_remote_code=False)",
        "AutoConfig.from_pretrained('x', trust_remote_code=given)",
    ],
)  # fmt: skip
def test_the_search_finds(line, tmp_path):
    (tmp_path / "x.py").write_text(line)
    assert offences(tmp_path / "x.py") != []


def test_code_of_a_checkpoint_is_not_asked_for_by_any_stage(study, tmp_path):
    """A folder whose files name code beside them, given to what reads configurations and not only to the load stage."""
    folder, marker = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    (folder / "zork.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\n")
    (folder / CONFIG).write_text('{"model_type": "zork", "auto_map": {"AutoConfig": "zork.Zork"}}')
    config = tmp_path / "c.yaml"
    config.write_text(
        f"models: {{m: {{source: '{folder}'}}}}\ndata: {{d: {{source: '{study / 'text.txt'}'}}}}\n"
        "grid: {criteria: [magnitude], sparsities: [0.5]}\n"
    )
    ended = call("ltpipe", "plan", "--config", config)
    assert (ended.code, ended.out) == (1, ""), ended
    assert "cannot find the shapes" in ended.err
    assert "[y/N]" not in ended.err
    assert not marker.exists()


def shells(path: Path) -> list[tuple[str, str]]:
    """Each placeholder in the shell commands of a file of rules, with the option before it."""
    text = path.read_text(encoding="utf-8")
    blocks = re.findall(
        r"^    shell:\n((?:        .*\n)+)|^        shell\(\n((?:            .*\n)+)", text, re.MULTILINE
    )
    return [found for block in blocks for found in re.findall(r"(\S*?)\{([a-z][^{}]*)\}", "".join(block))]


FREE = {"settings[config]", "settings[study]"}
"""Params that hold text of a user's as it is."""
QUOTED = {"settings[options]", "recovery"}
"""Params that `as_options` makes: it quotes every word."""
PLAIN = {"log", "script", "input", "output", "wildcards", "resources", "rules"}


def params_of_shells() -> set[str]:
    return {name.removeprefix("params.") for path in RULES for _, name in shells(path) if name.startswith("params.")}


def test_free_text_in_a_shell_is_quoted():
    free = {name for name in params_of_shells() if name.partition(":")[0] in FREE}
    assert free == {f"{name}:q" for name in FREE}


def test_every_option_is_quoted():
    words = shlex.split(as_options({"a": "x; y", "b": ["$(z)", "'"], "c": {"d e": "*"}, "f": True}))
    assert words == ["--a=x; y", "--b", "$(z)", "'", "--c", "d e", "*", "--f"]


def test_every_other_value_in_a_shell_is_known():
    """A param that is new in a shell command has to be looked at: is it free text?"""
    known = {
        "allocation", "before", "checkpoint", "folder", "given", "launch", "mask", "output", "scores", "seed",
        "sequences", "settings[code]", "top_tokens",
    }  # fmt: skip
    known |= {name for path in RULES for name in re.findall(r'(\w+)=listed\("', path.read_text())}  # quoted there
    assert {name.partition(":")[0] for name in params_of_shells()} - FREE - QUOTED <= known


@pytest.mark.parametrize("value", ["-x", "--output=/tmp/x"])
def test_a_pattern_is_never_an_option(value, study):
    config = {
        "models": {"m": {"source": str(study / "source"), "prunable": {"include": [value]}}},
        "data": {"d": {"source": str(study / "text.txt")}},
        "grid": {"criteria": ["magnitude"], "sparsities": [0.5]},
    }
    with pytest.raises(UserError, match=r"prunable.include\[0\]: .* do not begin with '-'"):
        check_config(config)
