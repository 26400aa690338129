"""What happens when a disk is full or a process is killed: nothing half written, and the run goes on."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from alpacafarm_nb.core import FarmError
from alpacafarm_nb.files import atomic_folder, atomic_write
from alpacafarm_nb.runs import RunFolder


@pytest.fixture
def small_disk(tmp_path):
    "A real file system of one megabyte."
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try: done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError: pytest.skip("there is no mount command here")
    if done.returncode: pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def everything(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_a_full_disk_leaves_the_old_file(small_disk):
    file = atomic_write(small_disk / "kept.json", b"old")
    with pytest.raises(FarmError, match=r"kept\.json could not be written: the disk is full"):
        atomic_write(file, b"x" * 2_000_000)
    assert everything(small_disk) == ["kept.json"] and file.read_bytes() == b"old"


def test_a_full_disk_leaves_the_old_folder(small_disk):
    with atomic_folder(small_disk / "adapter") as folder: (folder / "w").write_bytes(b"old")
    with pytest.raises(FarmError, match="adapter could not be written: the disk is full"):
        with atomic_folder(small_disk / "adapter") as folder:
            (folder / "first").write_bytes(b"x" * 500_000)
            (folder / "second").write_bytes(b"x" * 2_000_000)
    assert everything(small_disk) == ["adapter", "adapter/w"]


def test_a_full_disk_while_safetensors_are_saved(small_disk):
    torch, save_file = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch").save_file
    with pytest.raises(FarmError, match="the disk is full"):
        with atomic_folder(small_disk / "adapter") as folder:
            save_file({"w": torch.zeros(1_000_000)}, folder / "model.safetensors")
    assert everything(small_disk) == []


def test_a_stage_on_a_full_disk_is_done_again(small_disk):
    stages = RunFolder(small_disk / "run")
    save, load = lambda x, folder: (folder / "x").write_bytes(b"x" * x), lambda folder: (folder / "x").stat().st_size
    with pytest.raises(FarmError, match="disk is full"): stages.run("sft", 1, lambda: 2_000_000, save, load)
    assert everything(small_disk) == ["run", "run/manifest.json"]
    assert stages.run("sft", 1, lambda: 1000, save, load) == 1000 and stages.computed == ["sft"]


RUN = textwrap.dedent("""
    import json, sys, time
    from pathlib import Path
    from alpacafarm_nb.runs import RunFolder
    folder, wait = Path(sys.argv[1]), float(sys.argv[2])
    save = lambda x, f: (f / "x.json").write_text(json.dumps(x))
    load = lambda f: json.loads((f / "x.json").read_text())
    stages = RunFolder(folder)
    a = stages.run("a", 1, lambda: 20, save, load)

    def slow():
        stages.log(step=1)
        (folder / "busy").touch()
        time.sleep(wait)
        stages.log(step=2)
        return a + 1

    def slow_save(x, f):
        save(x, f)
        (folder / "saving").touch()
        time.sleep(wait)

    b = stages.run("b", stages.hashes["a"], slow, slow_save, load)
    print(json.dumps([b, stages.computed, stages.loaded, [m["step"] for m in stages.metrics()]]))
""")


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is not Windows'")
@pytest.mark.parametrize("moment", ["busy", "saving"])
def test_a_killed_run_goes_on(tmp_path, moment):
    folder, wait = tmp_path / "run", 60 if moment == "busy" else 1
    process = subprocess.Popen([sys.executable, "-c", RUN, folder, str(wait)], stdout=subprocess.DEVNULL)
    while not (folder / moment).exists(): time.sleep(.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "b").exists()
    if moment == "saving": assert list(folder.glob(".b.*.tmp"))  # what the kill left behind

    done = subprocess.run([sys.executable, "-c", RUN, folder, "0"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [21, ["b"], ["a"], [1, 2]]
    assert not list(Path(folder).glob(".*.tmp")), "the leftovers of the killed run are gone"
