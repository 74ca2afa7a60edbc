"""The shape of the project: imports run one way, no TensorFlow or PyTorch in the core, files stay readable."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("data", "models", "objectives", "trainer", "configs")
COMMANDS = ("train.py", "benchmark.py", "predict.py", "models/hf.py", "trainer/ablations.py")
# Room -> rooms it may import. `data.batch` is what everything shares.
MAY_IMPORT = {
  "configs": set(),
  "data": set(),
  "models": {"data.batch"},
  "objectives": {"data.batch", "models"},
  "trainer": {"data", "models", "objectives"},
}


def files(room):
  """Modules of a room; a command that lives in one stands above all rooms."""
  return [path for path in sorted((ROOT / room).rglob("*.py")) if path.relative_to(ROOT).as_posix() not in COMMANDS]


def imports(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
      yield node.module
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room):
  for path in files(room):
    for name in imports(path):
      other = name.split(".")[0]
      if other in ROOMS and other != room:
        allowed = any(name == may or name.startswith(f"{may}.") for may in MAY_IMPORT[room])
        assert allowed, f"{path.relative_to(ROOT)} imports {name}"
      assert name.split(".")[0] not in ("train", "benchmark", "predict", "tests"), f"{path} imports {name}"


def test_a_run_knows_nothing_of_inference_and_nothing_knows_of_verbs():
  for path in files("trainer"):
    package = path.relative_to(ROOT / "trainer").parts[0]
    above = {"verbs": (), "inference": ("trainer.verbs",)}.get(package, ("trainer.inference", "trainer.verbs"))
    for name in imports(path):
      assert not any(name == other or name.startswith(f"{other}.") for other in above), f"{path} imports {name}"


def test_data_computes_nothing_in_jax():
  """data/ is NumPy on the host; jax appears only where batches are registered as pytrees."""
  using = {
    path.relative_to(ROOT).as_posix() for path in files("data") if any(n.split(".")[0] == "jax" for n in imports(path))
  }
  assert using == {"data/batch.py"}


def test_flax_stays_in_models():
  for room in ("data", "objectives", "trainer"):
    for path in files(room):
      assert not any(name.split(".")[0] == "flax" for name in imports(path)), path


def test_the_core_never_imports_tensorflow_or_torch():
  """Every module of every room and the three commands, imported in one process."""
  modules = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for room in ROOMS for path in files(room)
  ]
  modules = [name.removesuffix(".__init__") for name in modules if not name.endswith("__main__")]
  code = (
    "import importlib, sys\n"
    f"for name in {modules + ['train', 'benchmark', 'predict']!r}: importlib.import_module(name)\n"
    "bad = sorted(m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'torch', 'transformers'))\n"
    "assert not bad, bad[:5]\n"
  )
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr[-2000:]


def test_files_stay_readable():
  """At most 380 lines a file, 70 a function (the training loop aside), and none named utils."""
  for room in (*ROOMS, *COMMANDS):
    for path in files(room) if room in ROOMS else [ROOT / room]:
      text = path.read_text()
      assert path.stem != "utils" and len(text.splitlines()) <= 380, path
      for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
          assert node.end_lineno - node.lineno + 1 <= 70, f"{path}:{node.lineno} {node.name}"


def test_every_package_is_installed():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())
  folders = [path.parent for room in ROOMS for path in (ROOT / room).rglob("__init__.py")]
  packages = {folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders}
  assert packages == set(project["tool"]["setuptools"]["packages"])


def test_every_path_the_readme_names_exists():
  words = (ROOT / "README.md").read_text().replace("`", " ").replace("(", " ").replace(")", " ").split()
  named = {word.split(":")[0].removeprefix("--config=").rstrip(".,;") for word in words}
  for name in named:
    if name.split("/")[0] in (*ROOMS, "tests", "docs", ".ci") and "/" in name and "*" not in name:
      assert (ROOT / name).exists(), name
