"""What all tests share: where things are, and an environment in which nothing reaches for the network or a browser."""

import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Set before torch, transformers or plotly are imported anywhere in this process.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(
    HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", PLOTLY_RENDERER="plotly_mimetype",
    MPLBACKEND="agg", ALPACAFARM_QUIET="1", ALPACAFARM_FAST="1",
)


def pytest_collection_modifyitems(items):
    "Begin with what takes longest, so that no worker is left alone with it in the end."
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def root():
    "The repository's folder."
    return ROOT


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    "The wheel, built from a copy of what would be committed."
    place = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if not (ROOT / name).is_file(): continue
        (place / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / "src" / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place), str(place / "src")]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(place.glob("*.whl"))


@pytest.fixture(scope="session")
def installed(request, tmp_path_factory):
    """A fresh environment with the wheel in it, outside the repository: called, it runs one of its programs there.

    `make wheel-check` names one with dependencies of its own, from the registry, in ALPACAFARM_ENVIRONMENT."""
    place, programs = tmp_path_factory.mktemp("installed"), "Scripts" if os.name == "nt" else "bin"
    (place / "cwd").mkdir()
    without_path = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if given := os.environ.get("ALPACAFARM_ENVIRONMENT"):
        return Installed(Path(given) / programs, place / "cwd", without_path, lent=False)
    wheel = request.getfixturevalue("wheel")
    venv.create(place / "env", with_pip=False)
    bin_ = place / "env" / programs
    there = subprocess.run([bin_ / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                           capture_output=True, text=True, check=True).stdout.strip()
    pip = [sys.executable, "-m", "pip", "--python", str(bin_ / "python"), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, env={**os.environ, "PIP_CONFIG_FILE": os.devnull})
    # the dependencies are lent by this environment, whose own .pth files (the editable package) are not read there
    (Path(there) / "lent.pth").write_text(str(Path(pytest.__file__).parents[1]))
    return Installed(bin_, place / "cwd", without_path, lent=True)


@dataclass
class Installed:
    "An environment: its programs, the folder that they run in, and their environment variables."
    bin: Path
    cwd: Path
    env: dict
    lent: bool   # the dependencies are those of the tests' own environment

    def __call__(self, program, *args):
        return subprocess.run([self.bin / program, *args], cwd=self.cwd, env=self.env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "One JupyterLab and one browser for all tests of a module."
    from lab import CHROMIUM, FLAGS, jupyterlab, sync_api
    if CHROMIUM is None: pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    pytest.importorskip("jupyterlab", reason="needs JupyterLab (the extra `lab`)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        with jupyterlab(tmp_path_factory.mktemp("lab"), browser) as lab: yield lab
        browser.close()
