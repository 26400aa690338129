"""Folders that are replaced, locked and saved while processes are killed beside them."""

import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from alpacafarm_nb import files
from alpacafarm_nb.files import FolderLock, atomic_folder, restore_swapped, sweep_leftovers
from alpacafarm_nb.core import FarmError, StageError
from alpacafarm_nb.runs import RunFolder


def python(code, *arguments, **how):
    "A process that runs some lines."
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **how})


REPLACE = """
    import sys
    from pathlib import Path
    from alpacafarm_nb import files
    files._exchange = files._exchange if sys.argv[2] == "exchange" else lambda one, other: False
    print("begin", flush=True)
    for k in range(int(sys.argv[3])):
        with files.atomic_folder(sys.argv[1]) as f: (f / "a.txt").write_text(str(k))
    print("end", flush=True)
"""


def test_a_reader_finds_a_folder_at_any_moment_of_its_replacement(tmp_path):
    folder = tmp_path / "adapter"
    with atomic_folder(folder) as f: (f / "a.txt").write_text("first")
    if not files._exchange(folder, _empty(tmp_path / "other")): pytest.skip("this file system cannot exchange folders")
    writer = python(REPLACE, folder, "exchange", 300)
    assert writer.stdout.readline() == "begin\n"
    absent = 0
    while writer.poll() is None: absent += sum(not os.path.isdir(folder) for _ in range(200))
    assert writer.returncode == 0, writer.stderr.read()
    assert absent == 0
    assert (folder / "a.txt").read_text() == "299"


def _empty(folder):
    folder.mkdir()
    return folder


KILLED = """
    import os, sys
    from alpacafarm_nb import files
    at, count, real = int(sys.argv[2]), 0, os.replace
    def counted(a, b):
        global count
        count += 1
        if count == at: os.kill(os.getpid(), 9)
        real(a, b)
    files._exchange = lambda one, other: False
    os.replace = counted
    with files.atomic_folder(sys.argv[1]) as f: (f / "a.txt").write_text("new")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("at, expected", [(1, "old"), (2, "old"), (3, "new")])
def test_where_folders_cannot_be_exchanged_a_kill_between_the_renames_is_mended(tmp_path, at, expected):
    folder = tmp_path / "run" / "sft"
    with atomic_folder(folder) as f: (f / "a.txt").write_text("old")
    killed = python(KILLED, folder, at)
    assert killed.wait(60) == -signal.SIGKILL, killed.stderr.read()
    assert folder.exists() == (at != 2)
    sweep_leftovers(tmp_path / "run")
    assert (folder / "a.txt").read_text() == expected
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["sft"]


def test_a_replacement_that_was_killed_is_found_by_whoever_loads_the_folder(tmp_path):
    folder = tmp_path / "adapter"
    with atomic_folder(folder) as f: (f / "a.txt").write_text("old")
    assert python(KILLED, folder, 2).wait(60) == -signal.SIGKILL
    restore_swapped(folder)
    assert (folder / "a.txt").read_text() == "old"


HOLD = """
    import sys, time
    from alpacafarm_nb.files import FolderLock
    with FolderLock(sys.argv[1]):
        print("held", flush=True)
        time.sleep(60)
"""


def test_a_second_run_in_a_folder_is_refused_until_the_first_is_dead(tmp_path):
    holder = python(HOLD, tmp_path)
    try:
        assert holder.stdout.readline() == "held\n"
        stages, ran = RunFolder(tmp_path, {}), []
        compute = lambda: ran.append(1)
        run = lambda: stages.run("sft", 1, compute, lambda result, f: (f / "x").touch(), lambda f: None)
        with pytest.raises(StageError, match=f"in use by another run .process {holder.pid} on .*another folder"): run()
        assert not ran and sorted(p.name for p in tmp_path.iterdir()) == [".lock"]
    finally:
        holder.kill()
        holder.wait()
    run()
    assert ran == [1] and not (tmp_path / ".lock").exists()


RACE = """
    import json, platform, sys, time
    from pathlib import Path
    from alpacafarm_nb.files import FolderLock
    from alpacafarm_nb.core import StageError
    folder, start = Path(sys.argv[1]), float(sys.argv[2])
    time.sleep(max(0, start - time.time()))
    got = 0
    while time.time() < start + 3:
        try:
            with FolderLock(folder):
                inside = folder / "inside"
                inside.touch(exist_ok=False)          # raises if another process is inside
                got += 1
                inside.unlink()
                if got % 2 == 0:  # the next ones find the lock of a dead process
                    (folder / ".lock").write_text(json.dumps({"host": platform.node(), "pid": 2**30}))
        except StageError: pass
        else: continue
    print(got)
"""


def test_never_are_two_processes_inside(tmp_path):
    runs = [python(RACE, tmp_path, time.time() + 3) for _ in range(6)]
    outs = [r.communicate(timeout=60) for r in runs]
    assert [r.returncode for r in runs] == [0] * 6, outs
    assert sum(int(out) for out, _ in outs) > 20


TRY = """
    import sys
    from alpacafarm_nb.files import FolderLock
    from alpacafarm_nb.core import StageError
    try:
        with FolderLock(sys.argv[1]): print("inside")
    except StageError as error: print(error)
"""


def test_one_process_judges_a_dead_lock(tmp_path, monkeypatch):
    "Two that find it dead at once: the slower must not take the new lock of the quicker for it."
    said, alive = [], files._alive

    def slow(pid):
        if not said: said.append(python(TRY, tmp_path).communicate(timeout=60)[0])
        return alive(pid)

    monkeypatch.setattr(files, "_alive", slow)
    (tmp_path / ".lock").write_text(json.dumps({"host": platform.node(), "pid": 2**30}))
    with FolderLock(tmp_path): assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert "in use by another run" in said[0]
    assert python(TRY, tmp_path).communicate(timeout=60)[0] == "inside\n"


def test_a_lock_that_was_taken_before_a_word_was_in_it_is_acquired_again(tmp_path, monkeypatch):
    "A process that the system kept waiting between making the file and writing it."
    lock, flock, calls = tmp_path / ".lock", files._flock, []

    def late(file, wait=False):
        calls.append(wait)
        if len(calls) == 1: lock.unlink()   # another run found it empty for too long
        return flock(file, wait)

    monkeypatch.setattr(files, "_flock", late)
    with FolderLock(tmp_path): assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert calls == [True, True]


def test_a_learner_keeps_its_run_folder_to_itself(tmp_path):
    torch = pytest.importorskip("torch")
    from alpacafarm_nb.training.learner import Learner
    weight = torch.nn.Parameter(torch.ones(2))
    (tmp_path / ".step-000001.999999999.abc.tmp").mkdir()   # what a killed process left
    learner = Learner([weight], total_steps=1)
    holder = python(HOLD, tmp_path)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StageError, match="in use by another run"):
            learner.fit([[0]], lambda batch: (weight.square().sum(), {}), run_dir=tmp_path)
        assert torch.equal(weight.detach(), torch.ones(2))
    finally:
        holder.kill()
        holder.wait()
    learner.fit([[0]], lambda batch: (weight.square().sum(), {}), run_dir=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


SAVE = """
    import sys
    from alpacafarm_nb import train_sft
    from alpacafarm_nb.models.loading import new_backbone
    from alpacafarm_nb.models.policy import Model
    base = Model(new_backbone(["hens lay eggs"], vocab=300, hidden=32, context=64), name="base")
    demos = [{"instruction": "What do hens lay?", "output": "Eggs."}] * 4
    train_sft(base, demos, epochs=1, batch_size=2).save(sys.argv[1])
"""


def test_an_adapter_s_files_are_the_same_bytes_from_run_to_run(tmp_path):
    one, other = tmp_path / "run-1", tmp_path / "run-2"
    runs = [python(SAVE, folder, PYTHONHASHSEED=str(k)) for k, folder in enumerate((one, other))]
    for run in runs: assert run.wait(120) == 0, run.stderr.read()
    assert len(json.loads((one / "adapter_config.json").read_text())["target_modules"]) > 3   # a set, in peft
    for file in one.iterdir(): assert file.read_bytes() == (other / file.name).read_bytes(), file.name


def test_the_lock_is_written_by_one_who_may(tmp_path):
    with pytest.raises(FarmError, match="could not be written"), FolderLock("/proc/1"): pass


def test_a_thread_keeps_another_out_of_its_run(tmp_path):
    "A training board and a cell of the same notebook, say."
    found, inside, done = [], threading.Event(), threading.Event()

    def run():
        with FolderLock(tmp_path, threads=True), FolderLock(tmp_path, threads=True):
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=run)
    thread.start()
    assert inside.wait(60)
    with pytest.raises(StageError, match="in a thread of this process"), FolderLock(tmp_path, threads=True): pass
    with FolderLock(tmp_path): found.append("stages of one loop may be read meanwhile")
    done.set()
    thread.join()
    with FolderLock(tmp_path, threads=True): assert found
