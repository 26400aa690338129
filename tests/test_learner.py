"""The learner where a notebook cannot show it: on a full disk, killed for good, and in two processes."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

torch = pytest.importorskip("torch")

from alpacafarm_nb.core import FarmError  # noqa: E402
from alpacafarm_nb.training.learner import Learner  # noqa: E402
from alpacafarm_nb.training.checkpoints import resume_checkpoint, save_checkpoint  # noqa: E402


@pytest.fixture
def small_disk(tmp_path):
    "A real file system of two megabytes."
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    try: done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError: pytest.skip("there is no mount command here")
    if done.returncode: pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_checkpoint_on_a_full_disk_leaves_the_last_good_one(small_disk):
    weight = torch.nn.Parameter(torch.ones(50_000))  # 600 kB with the optimiser's state: two fit, three files do not
    make = lambda: Learner([weight], lr=.1, total_steps=4)
    learner = make()
    learner.step(weight.square().mean())
    good = save_checkpoint(learner, small_disk / "run")
    kept = weight.detach().clone()
    (small_disk / "ballast").write_bytes(b"x" * 1_100_000)
    learner.step(weight.square().mean())
    with pytest.raises(FarmError, match="step-000002 could not be written: the disk is full"):
        save_checkpoint(learner, small_disk / "run")
    assert [p.name for p in (small_disk / "run").iterdir()] == [good.name]
    again = make()
    resume_checkpoint(again, small_disk / "run")
    assert again.done == 1 and torch.equal(weight.detach(), kept)


TRAIN = textwrap.dedent("""
    import sys, time, torch
    from pathlib import Path
    from alpacafarm_nb.training.learner import Learner
    from alpacafarm_nb.training.batches import length_batches
    folder, wait = Path(sys.argv[1]), float(sys.argv[2])
    torch.manual_seed(0)
    x, y, net = torch.randn(43, 6), torch.randn(43), torch.nn.Linear(6, 1)
    learner = Learner(net.parameters(), lr=.05, name="line")
    accumulation = 2

    def loss_fn(rows):
        if wait and learner.done == 5: (folder / "busy").touch(); time.sleep(wait)
        error = net(x[rows])[:, 0] - y[rows]
        return error.square().mean(), {"bias": error.mean()}

    batches = length_batches([1] * 43, 5, epochs=3, seed=1)  # 27 of them: the last step has one batch, for one process
    learner.fit(batches, loss_fn, gradient_accumulation_steps=accumulation, run_dir=folder / "run", checkpoint_every=2)
    if learner.accelerator.is_main_process:
        figures = [torch.tensor(learner.history[column]) for column in ("loss", "bias")]
        torch.save([net.weight.detach(), *figures], folder / "result.pt")
""")


def run(folder, wait=0, launcher=()):
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(TRAIN)
    command = [sys.executable, *launcher, str(folder / "train.py"), str(folder), str(wait)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"})


def result(folder): return torch.load(folder / "result.pt", weights_only=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(folder).wait() == 0
    return result(folder)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is not Windows'")
def test_a_killed_training_ends_with_the_same_weights(tmp_path, undisturbed):
    process = run(tmp_path, wait=120)
    while not (tmp_path / "busy").exists() and process.poll() is None: time.sleep(.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [p.name for p in (tmp_path / "run").glob("step-*")] == ["step-000004"]
    assert run(tmp_path).wait() == 0
    for mine, other in zip(result(tmp_path), undisturbed): assert torch.equal(mine, other)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed training")
def test_two_processes_take_the_steps_of_one(tmp_path, undisturbed):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "--local_addr=127.0.0.1"]
    assert run(tmp_path, launcher=launcher).wait() == 0
    for mine, other in zip(result(tmp_path), undisturbed): torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
