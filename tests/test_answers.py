"""The file of answers where something goes wrong: killed upgrades, locks of others, full and read-only file systems."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pytest

from alpacafarm_nb.servers import cache as module
from alpacafarm_nb.servers.cache import AnnotationCache, check_cache
from alpacafarm_nb.core import FarmError

OLD = """
begin;
create table answers (
    key text primary key, judge text, model text, server text, draw integer, attempt integer, made text,
    request text, answer text, price real, seconds real) without rowid;
create table failures (
    number integer primary key, key text, judge text, model text, server text, draw integer, made text,
    kind text, detail text, request text);
create table parts (key text primary key, answer text, position integer, size integer) without rowid;
insert into answers values ('a', 'j', 'm', 's', 0, 1, '2026', 'null', '"kept"', .5, 1);
insert into failures values (null, 'b', 'j', 'm', 's', 0, '2026', 'http 500', 'down', 'null');
pragma user_version = 1;
commit;
"""   # the layout of the first version


def in_child(work, user=None):
    "The exit status of a process that does this: 0, 1 where it raised, or the signal that killed it, negative."
    if (child := os.fork()) == 0:
        status = 1
        try:
            if user is not None: os.setuid(user)
            work()
            status = 0
        finally: os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(step, path):
    "Open the file and write to it, and be killed when the statement of this number begins."
    left, connect = [step], sqlite3.connect

    def count(statement):
        if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    def counting(*args, **kwargs):
        db = connect(*args, **kwargs)
        db.set_trace_callback(count)
        return db

    module.sqlite3 = types.SimpleNamespace(**{**vars(sqlite3), "connect": counting})   # of this process alone
    AnnotationCache(path).put("c", 1)


def old_file(path):
    db = sqlite3.connect(path)
    db.executescript(OLD)
    db.close()
    return path


def upgraded(path):
    "Whether all is there after the upgrade, and can be written to."
    kept = AnnotationCache(path)
    kept.put_failure("d", "timeout", "late", price=.25)
    found = kept.get(["a"])["a"]["answer"], kept.table(failures=True)[["kind", "price"]].fillna(0).values.tolist()
    assert kept._rows("pragma user_version") == [(module._VERSION,)]
    kept.close()
    return found == ("kept", [["http 500", 0], ["timeout", .25]])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.parametrize("made", [old_file, lambda path: path], ids=["upgraded", "new"])
def test_a_process_killed_at_any_statement_leaves_a_file_that_opens(tmp_path, made):
    for step in range(60):
        path = made(tmp_path / f"{step}.sqlite")
        status = in_child(lambda: killed_at(step, path))   # noqa: B023 - called at once
        if made is old_file: assert upgraded(path), step
        else: AnnotationCache(path).put("d", 1)
        if status == 0: break
        assert status == -signal.SIGKILL
    assert status == 0 and step >= 10, step


def test_a_file_that_an_earlier_killed_upgrade_left_is_mended(tmp_path):
    "The column is there, and the version is still the old one."
    path = old_file(tmp_path / "a.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as db: db.execute("alter table failures add column price real")
    assert upgraded(path)


def test_several_processes_upgrade_at_a_time(tmp_path):
    path = old_file(tmp_path / "a.sqlite")
    code = ("import sys; from alpacafarm_nb.servers.cache import AnnotationCache; "
            "AnnotationCache(sys.argv[1]).put(sys.argv[2], 1)")
    processes = [subprocess.Popen([sys.executable, "-c", code, path, str(i)]) for i in range(3)]
    assert [p.wait() for p in processes] == [0, 0, 0]
    assert len(AnnotationCache(path)) == 4


def test_a_lock_that_is_held_elsewhere_is_named(tmp_path, monkeypatch):
    kept = AnnotationCache(tmp_path / "a.sqlite")
    kept.put("a", 1)
    kept.close()
    hold = "db.execute('begin immediate'); print(flush=True); input()"
    code = f"import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); {hold}"
    holder = subprocess.Popen([sys.executable, "-c", code, kept.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        monkeypatch.setattr(module, "_PATIENCE", .1)
        assert kept.get(["a"])["a"]["answer"] == 1     # reading goes on beside a writer
        with pytest.raises(FarmError, match="another process holds it locked"): kept.put("b", 2)
    finally: holder.communicate(b"\n")
    kept.put("b", 2)
    assert len(kept) == 2


def test_a_log_that_cannot_be_shared_gives_way_to_the_classic_journal(tmp_path):
    "A file that was written on a local disk, and moved to one without memory to share."
    if os.name == "nt": pytest.skip("SQLite's layer unix-dotfile is not known on Windows")
    kept = AnnotationCache(tmp_path / "a.sqlite")
    kept.put("a", 1)
    assert kept._rows("pragma journal_mode") == [("wal",)]
    kept.close()
    moved = AnnotationCache(kept.path, vfs="unix-dotfile")
    moved.put("b", 2)
    assert moved._rows("pragma journal_mode") == [("delete",)] and set(moved.get("ab")) == {"a", "b"}


@pytest.fixture
def small_disk(tmp_path):
    "A file system of one megabyte."
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place):
    with open(place / "ballast", "wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (4096, 1):
            while file.write(b"x" * size): pass


@pytest.mark.parametrize("closed", [True, False])
def test_a_full_disk_is_named_and_what_is_there_is_read(small_disk, closed):
    kept = AnnotationCache(small_disk / "a.sqlite")
    for i in range(20): kept.put(f"k{i}", "x" * 100)
    if closed: kept.close()
    fill(small_disk)
    other = AnnotationCache(kept.path)
    for file in (other, kept):
        for write in (file.check_writable, lambda: file.put("big", "x" * 10**6)):   # noqa: B023 - called at once
            with pytest.raises(FarmError, match="the disk is full"): write()
        assert len(file) == 20 and file.get(["k7"])["k7"]["answer"] == "x" * 100
    (small_disk / "ballast").unlink()
    other.close()
    kept.put("new", 1)                                  # the same object goes on where there is room again
    assert len(AnnotationCache(kept.path)) == 21


def test_answers_in_a_log_are_read_from_a_full_disk(small_disk):
    "A killed process leaves its last answers in the write-ahead log."
    code = ("import os, sys; from alpacafarm_nb.servers.cache import AnnotationCache; "
            "AnnotationCache(sys.argv[1]).put('a', 1); os._exit(0)")
    subprocess.run([sys.executable, "-c", code, small_disk / "a.sqlite"], check=True)
    assert (small_disk / "a.sqlite-wal").stat().st_size > 0
    (small_disk / "a.sqlite-shm").unlink()
    fill(small_disk)
    assert AnnotationCache(small_disk / "a.sqlite").get(["a"])["a"]["answer"] == 1


@pytest.mark.parametrize("closed", [True, False])
def test_a_read_only_file_system_is_named_and_read(small_disk, closed):
    kept = AnnotationCache(small_disk / "a.sqlite")
    kept.put("a", 1)
    if closed: kept.close()
    else: shutil.copytree(small_disk, small_disk.parent / "copy"), kept.close()
    if not closed:
        for file in (small_disk.parent / "copy").iterdir(): shutil.copy(file, small_disk / file.name)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    late = AnnotationCache(small_disk / "a.sqlite")
    assert late.get(["a"])["a"]["answer"] == 1 and len(late.table()) == 1
    with pytest.raises(FarmError, match="read-only"): late.check_writable()
    with pytest.raises(FarmError, match="read-only"): AnnotationCache(small_disk / "b.sqlite").check_writable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_file_and_a_folder_without_the_right_to_write():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        kept = AnnotationCache(Path(folder, "sub", "a.sqlite"))
        kept.put("a", 1)
        kept.close()
        kept.path.chmod(0o444)
        kept.path.parent.chmod(0o555)

        def late():
            file = AnnotationCache(kept.path)
            assert len(file) == 1 and file.get("a")["a"]["answer"] == 1
            with pytest.raises(FarmError, match="may not be written to"): file.check_writable()
            with pytest.raises(FarmError, match="may not be written to"):
                AnnotationCache(Path(folder, "b")).check_writable()

        assert in_child(late, user=65534 if os.geteuid() == 0 else None) == 0   # root may write everywhere
        kept.path.parent.chmod(0o755)


@pytest.mark.parametrize("damage", ["cut", "overwritten", "text"])
def test_a_damaged_file_is_not_taken_for_an_empty_one(tmp_path, damage):
    path = tmp_path / "a.sqlite"
    kept = AnnotationCache(path)
    for i in range(200): kept.put(f"k{i}", "x" * 100)
    kept.close()
    data = path.read_bytes()
    path.write_bytes({"cut": data[:5000], "overwritten": b"\0" * 4096 + data[4096:], "text": b"hello " * 2000}[damage])
    with pytest.raises(FarmError): AnnotationCache(path).table()
    assert len(path.read_bytes()) >= 5000


def test_two_that_look_for_room_at_a_time_do_not_meet(tmp_path, monkeypatch):
    kept, other = (AnnotationCache(tmp_path / "a.sqlite") for _ in range(2))
    write = AnnotationCache._write

    def between(self, *commands):
        write(self, *commands)
        if self is kept and len(commands) == 2: other.check_writable()

    monkeypatch.setattr(AnnotationCache, "_write", between)
    kept.check_writable()
    assert kept._rows("select name from sqlite_master where name = 'room'") == []


def raw(path, *commands):
    "Do this to a file, past the class."
    with contextlib.closing(sqlite3.connect(path)) as db:
        for command in commands: db.execute(command)
        db.commit()


FOREIGN = {
    "a table": "create table t (x)", "a view": "create view answers as select 1 as key, '1' as answer",
    "other answers": "create table answers (id integer, text text)",
    "more columns": "create table answers (key, judge, model, server, draw, attempt, made, request, answer, price, "
                    "seconds, score)",
    "nothing": "select 1",
}


@pytest.mark.parametrize("version", [-1, 0, 1, 2, 3, 9])
@pytest.mark.parametrize("kind", FOREIGN)
def test_the_database_of_another_program_stays_as_it_is(tmp_path, kind, version):
    path = tmp_path / "their.sqlite"
    raw(path, FOREIGN[kind], f"pragma user_version = {version}")
    before = path.read_bytes()
    if kind == "nothing" and version == 0: return AnnotationCache(path).put("a", 1)   # an empty file is taken
    said = "newer" if (kind, version) == ("more columns", 9) else "no file of answers|not one of answers"
    for use in (lambda: AnnotationCache(path), lambda: check_cache(path)):
        with pytest.raises(FarmError, match=said): use()
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["their.sqlite"]


@pytest.mark.parametrize("table", ["parts", "failures", "digests"])
@pytest.mark.parametrize("change", ["drop table {}", "alter table {} add column more text"])
def test_a_table_that_lacks_is_said(tmp_path, table, change):
    path = tmp_path / "a.sqlite"
    with contextlib.closing(AnnotationCache(path)) as kept: kept.put("a", 1, parts=["p"])
    raw(path, change.format(table))
    with pytest.raises(FarmError, match=f"the table {table} (is missing|has other columns)"): AnnotationCache(path)
    assert f"the table {table} " in repr(check_cache(path)) and not check_cache(path).good


BYTES = {   # a byte of one row with its high bit set
    "the answer": "update answers set answer = cast(x'22cf22' as text) where key = 'k1'",
    "the server": "update answers set server = cast(x'cf' as text) where key = 'k1'",
    "the digest": "update digests set digest = cast(x'cf' as text) where key = 'k1' and kind = 'answer'",
}


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("kind", BYTES)
def test_a_byte_that_is_no_text_costs_its_row_alone(tmp_path, kind, digests):
    path = tmp_path / "a.sqlite"
    with contextlib.closing(AnnotationCache(path)) as kept:
        for i in range(3): kept.put(f"k{i}", "x", judge="j", parts=[f"p{i}"])
    if digests or kind == "the digest": raw(path, BYTES[kind])
    else: raw(path, "delete from digests", BYTES[kind])
    with contextlib.closing(AnnotationCache(path)) as kept:
        with pytest.warns(UserWarning, match="the row 'k1' is not as it was written"):
            assert set(kept.get(["k0", "k1", "k2"])) == {"k0", "k2"}
        assert set(kept.get_parts(["p0", "p1", "p2"])) == {"p0", "p2"}
        assert kept.damaged == {"k1"} and check_cache(path).damaged == ("k1",)
        assert kept.table()["judge"].tolist() == ["j"] * 3 and len(kept) == 3
        kept.put("k1", "y", parts=["p1"])
        assert set(kept.get_parts(["p0", "p1", "p2"])) == {"p0", "p1", "p2"}
        assert kept.get(["\udccf"]) == {}


def test_bytes_that_are_no_text_elsewhere_are_listed_and_printed(tmp_path):
    path = tmp_path / "a.sqlite"
    with contextlib.closing(AnnotationCache(path)) as kept: kept.put("k", "\ud83d", judge="j", request="r", parts=["p"])
    raw(path, "update answers set judge = cast(x'cf' as text), request = cast(x'22cf22' as text), "
              "key = cast(x'6bcf' as text)", "update parts set answer = cast(x'6bcf' as text)", "delete from digests")
    with contextlib.closing(AnnotationCache(path)) as kept, pytest.warns(UserWarning):
        row, = kept.table().to_dict("records")
        assert (row["judge"], row["key"], row["request"], row["answer"]) == ("?", "k?", None, "\ud83d")
        assert kept.get_parts(["p"]) == {}
    said = repr(check_cache(path))
    assert "1 answers are damaged: k?" in said and "1 places of answers are damaged" in said


IMPOSSIBLE = [("answers", "price", v) for v in ("abc", b"\0", -5, float("inf"))] + [
    ("answers", "seconds", v) for v in ("x", -1)] + [("answers", "attempt", v) for v in ("q", None, -1, 1.5)] + [
    ("answers", "server", v) for v in (None, b"s")] + [("answers", "answer", v) for v in (None, b"1", "{")] + [
    ("parts", "position", v) for v in (5, "x", -1, None, .5)] + [("parts", "size", v) for v in (0, None, "x", -1)] + [
    ("parts", "answer", v) for v in (None, b"k")]


@pytest.mark.parametrize("table, column, value", IMPOSSIBLE)
def test_a_row_without_a_digest_that_cannot_be_true_is_missing(tmp_path, table, column, value):
    path = tmp_path / "a.sqlite"
    with contextlib.closing(AnnotationCache(path)) as kept:
        for i in range(2): kept.put(f"k{i}", {"text": "x"}, price=.5, seconds=1., parts=[f"p{i}"])
        kept._write(("delete from digests", ()))
        assert set(kept.get_parts(["p0", "p1"])) == {"p0", "p1"}   # what an earlier version wrote is believed
        key = "k1" if table == "answers" else "p1"
        kept._write((f"update {table} set {column} = ? where key = ?", (value, key)))
        with pytest.warns(UserWarning, match=f"the row '{key}' is not as it was written"):
            assert set(kept.get_parts(["p0", "p1"])) == {"p0"}
        assert kept.seconds() in ([1.], [1., 1.])
    found = check_cache(path)
    assert (found.damaged == ("k1",)) if table == "answers" else (found.loose == 1)
    assert found.unchecked == 2 and not found.good


UNSEEN = {"judge": "'other'", "model": "'evil'", "draw": "99", "request": "'{broken'", "made": "'1970'"}


@pytest.mark.parametrize("column", UNSEEN)
def test_the_check_sees_what_stands_beside_an_answer(tmp_path, column):
    path = tmp_path / "a.sqlite"
    with contextlib.closing(AnnotationCache(path)) as kept:
        for i in range(3): kept.put(f"k{i}", {"text": "x"}, judge="j", model="m", request=[1], parts=[f"p{i}"])
    raw(path, f"update answers set {column} = {UNSEEN[column]} where key = 'k1'")
    found = check_cache(path)
    assert (found.changed, found.damaged, found.good) == (("k1",), (), False)
    assert set(AnnotationCache(path).get_parts(["p0", "p1", "p2"])) == {"p0", "p1", "p2"}   # as it was written


def test_an_answer_that_an_earlier_version_writes_anew_is_whole(tmp_path):
    "Its digest is new, and that of what stands beside it is the old one."
    path = tmp_path / "a.sqlite"
    with contextlib.closing(AnnotationCache(path)) as kept:
        kept.put("k", {"text": "x"}, judge="j")
        text, digest = json.dumps({"text": "y"}), module._row_digest("k", json.dumps({"text": "y"}), None, None, 2, "")
        kept._write(("update answers set answer = ?, attempt = 2, judge = 'i' where key = 'k'", (text,)),
                    ("update digests set digest = ? where key = 'k' and kind = 'answer'", (digest,)))
        assert check_cache(path).good
        kept._write(("delete from digests where kind != 'about'", ()), ("delete from answers", ()))   # taken out
        assert check_cache(path).good
        kept.put("k", {"text": "x"}, judge="j")
        kept.remove("k")
        assert kept._rows("select * from digests") == []


@pytest.mark.parametrize("gone", ["answers where key = 'k1'", "parts where key = 'p1'"])
def test_rows_that_are_gone_are_counted_by_their_digests(tmp_path, gone):
    path = tmp_path / "a.sqlite"
    with contextlib.closing(AnnotationCache(path)) as kept:
        for i in range(3): kept.put(f"k{i}", {"text": "x"}, parts=[f"p{i}"])
    raw(path, f"delete from {gone}", "delete from parts where key = 'p1'")
    found = check_cache(path)
    assert found.gone == (2 if "answers" in gone else 1) and not found.good and "are gone" in repr(found)


def cut_off(path):
    "Be killed in the middle of a transaction that has reached the file."
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("pragma cache_size = 5")
    db.execute("begin immediate")
    db.execute("update answers set answer = answer || ' '")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_transaction_that_was_cut_off_is_no_damage(tmp_path):
    path = tmp_path / "a.sqlite"
    with contextlib.closing(AnnotationCache(path)) as kept:
        for i in range(400): kept.put(f"k{i}", {"text": "x" * 400}, parts=[f"p{i}"])
    raw(path, "pragma journal_mode = delete")
    assert in_child(lambda: cut_off(path)) == -signal.SIGKILL
    before, journal = path.read_bytes(), tmp_path / "a.sqlite-journal"
    found = check_cache(path)
    assert journal.stat().st_size and path.read_bytes() == before
    assert "a transaction was cut off" in found.waits and not (found.damaged or found.problem or found.good)
    assert "recover" not in repr(found)
    assert len(AnnotationCache(path).get(f"k{i}" for i in range(400))) == 400 and check_cache(path).good


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_file_that_cannot_be_written_is_not_read_between_two_states(tmp_path):
    path = tmp_path / "a.sqlite"
    with contextlib.closing(AnnotationCache(path)) as kept:
        for i in range(400): kept.put(f"k{i}", {"text": "x" * 400})
    raw(path, "pragma journal_mode = delete")
    assert in_child(lambda: cut_off(path)) == -signal.SIGKILL
    db = module._connect_to_read(path)   # by a copy, in which what was cut off is taken back
    with contextlib.closing(db):
        assert db.execute("select count(*) from answers where answer like '% '").fetchone() == (0,)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_transaction_under_way_is_said_to_be(tmp_path, mode, monkeypatch):
    path = tmp_path / "a.sqlite"
    with contextlib.closing(AnnotationCache(path)) as kept: kept.put("k", 1)
    connect = sqlite3.connect
    monkeypatch.setattr(module, "sqlite3", types.SimpleNamespace(**{**vars(sqlite3), "connect": lambda *args, **more: (
        connect(*args, **more | dict(timeout=.1)))}))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        for command in (f"pragma journal_mode = {mode}", "pragma locking_mode = exclusive", "begin exclusive",
                        "create table more (x)"): db.execute(command)
        found = check_cache(path)
        assert "a transaction is under way" in found.waits and not (found.problem or found.good), found
        assert "recover" not in repr(found)


def test_a_name_that_no_file_can_have_is_said():
    with pytest.raises(FarmError, match="no such file"): check_cache("a" * 5000)
