"""Servers that hang, drip, flood, redirect, ask to wait, refuse alike, or say the key aloud in many ways."""

import base64
import gzip
import json
import logging
import pickle
import re
import socketserver
import threading
import time
import traceback
import types
from email.utils import formatdate
from urllib.parse import quote

import pytest
from servers import completion
from test_annotators_faults import annotate, make_pairs, pool

from alpacafarm_nb.servers import endpoint as module
from alpacafarm_nb.annotators.endpoint_pool import load_pool
from alpacafarm_nb.core import FarmError
from alpacafarm_nb.servers.endpoint import Endpoint, EndpointError, RequestError, in_parallel, wait_for

BODY = dict(model="m", messages=[dict(role="user", content="Which?")], max_tokens=5, temperature=0.)
GOOD = json.dumps(completion("Output (a)", BODY)).encode()
KEY = "sk-planted/4711+" + "x7Q" * 8


def head(status=200, **headers):
    lines = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items())
    return f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\n{lines}\r\n".encode()


def whole(data, status=200, **headers): return head(status, Content_Length=len(data), **headers) + data


class Raw:
    "A server that writes what a function yields, byte for byte, to each request; `seen` has the heads of requests."

    def __init__(self, reply): self.reply, self.seen = reply, []

    def __enter__(self):
        raw = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                top = b""
                while not top.endswith(b"\r\n\r\n"):
                    if not (line := self.rfile.readline()): return
                    top += line
                self.rfile.read(int(re.search(rb"content-length: *(\d+)", top, re.IGNORECASE)[1]))
                raw.seen.append(top)
                try:
                    for part in raw.reply(len(raw.seen)): self.wfile.write(part), self.wfile.flush()
                except OSError: pass   # nobody listens any more

        class Threads(socketserver.ThreadingTCPServer):
            daemon_threads, block_on_close, request_queue_size = True, False, 128

        self.server = Threads(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(.01,), daemon=True).start()
        return self

    def __exit__(self, *_): self.server.shutdown(), self.server.server_close()


def ask(url, n=1, body=BODY, **settings):
    "What came of n requests, and the endpoint."
    asked, found = Endpoint(url, KEY, **(dict(longest_wait=.01, retries=1, concurrency=4) | settings)), []

    async def one(_):
        try: found.append(await asked.ask(body))
        except RequestError as error: found.append(error)

    async def work():
        async with asked: await in_parallel(range(n), one, asked.concurrency)

    try: wait_for(work())
    except FarmError as error: found.append(error)
    return found, asked


def hang(_):
    time.sleep(4)
    yield whole(GOOD)


def drip(_):
    yield head(Content_Length=60)
    for _ in range(60):
        yield b" "
        time.sleep(.05)


def flood(_):
    yield head(Transfer_Encoding="chunked")
    while True: yield b"10000\r\n" + b" " * 2**16 + b"\r\n"


BOMB = gzip.compress(b" " * 2**26)   # 64 MB in 64 kB


def bomb(_): yield whole(BOMB, Content_Encoding="gzip")


ENDLESS = {
    "hangs": (hang, "timeout"),
    "drips": (drip, "timeout"),
    "floods": (flood, "too long"),
    "bomb": (bomb, "too long"),
    "packed otherwise": (lambda _: [whole(b"{}", Content_Encoding="br")], "not JSON"),
    "packed and cut": (lambda _: [whole(gzip.compress(GOOD)[:40], Content_Encoding="gzip")], "not JSON"),
    "cut": (lambda _: [head(Content_Length=99) + b"{"], "connection"),
    "empty": (lambda _: [whole(b"")], "nothing"),
    "no content": (lambda _: [b"HTTP/1.1 204 X\r\nConnection: close\r\n\r\n"], "nothing"),
    "streams": (lambda _: [whole(b"data: {}\n\n", Content_Type="text/event-stream")], "stream"),
    "garbage": (lambda _: [b"garbage\r\n\r\n"], "connection"),
    "long head": (lambda _: [b"HTTP/1.1 200 X\r\nX: " + b"x" * 10**6], "connection"),
    "deep": (lambda _: [whole(b"[" * 10**5)], "not JSON"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_what_never_ends_or_makes_no_sense_is_bounded(name, monkeypatch):
    reply, kind = ENDLESS[name]
    monkeypatch.setattr(module, "MOST", 2**20)
    prices = {"m": (1., 1.)}
    timeout = 1. if kind == "timeout" else 60.   # a busy machine may take its time for the others
    with Raw(reply) as server: found, asked = ask(server.url, timeout=timeout, retries=0, prices=prices)
    assert isinstance(found[0], (RequestError, EndpointError)) and len(server.seen) == 1
    if isinstance(found[0], RequestError): assert found[0].kind == kind, found
    else: assert {"not JSON": "no such server", "nothing": "sends empty answers",
                  "stream": "switch streaming off"}[kind] in str(found[0])
    assert asked.cost > 0, "an answer that was lost on the way back may have been paid"


def test_a_packed_answer_is_read():
    for pack in (gzip.compress, __import__("zlib").compress, lambda d: __import__("zlib").compress(d)[2:-4]):
        name = "gzip" if pack is gzip.compress else "deflate"
        with Raw(lambda _: [whole(pack(GOOD), Content_Encoding=name)]) as server:   # noqa: B023 - called at once
            assert ask(server.url)[0][0].text == "Output (a)"


@pytest.mark.parametrize("name", ["pieces", "single bytes", "padded", "followed"])
def test_an_answer_packed_in_pieces_is_read_whole(name):
    pack, cuts = gzip.compress, range(0, len(GOOD), 1 if name == "single bytes" else 50)
    pieces = [pack(GOOD[a:b]) for a, b in zip(cuts, [*cuts[1:], len(GOOD)])]
    sent = b"".join(pieces) + {"padded": b"\0" * 9000, "followed": b"\r\n"}.get(name, b"")
    with Raw(lambda _: [whole(sent, Content_Encoding="gzip")]) as server:
        assert ask(server.url)[0][0].text == "Output (a)"


def test_many_pieces_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MOST", 2**20)
    for piece, n, kind in ((b"", 20_000, "not JSON"), (b" " * 2**18, 5, "too long"), (b" " * 2**18, 4, "not JSON")):
        with pytest.raises(RequestError) as found:
            data = module._unpacked(gzip.compress(piece) * n, "gzip")
            module.read_answer(data or b"?")
        assert found.value.kind in (kind, "nothing") and (kind != "too long" or found.value.kind == kind)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirection_is_named_and_not_followed(status):
    with Raw(lambda _: [whole(GOOD)]) as other:
        target = other.url.replace("//", "//me:secret@") + "?key=secret"
        with Raw(lambda _: [whole(b"", status, Location=target)]) as server:
            found, _ = ask(server.url, n=5, concurrency=1)
    assert not other.seen and len(server.seen) == 1
    assert other.url in str(found[-1]) and "secret" not in str(found[-1]) and "base_url" in str(found[-1])


@pytest.mark.parametrize("value, seconds", [
    ("7", 7), ("0", 0), (" 1.5 ", 1.5), ("-5", None), ("1e9", None), ("soon", None), ("", None), ("9" * 400, None),
    ("9" * 20, 1e20), (lambda: formatdate(time.time() + 50, usegmt=True), 50),
    (lambda: formatdate(time.time() - 50), 0),
    ("Fri, 31 Dec 99999 23:59:59 GMT", None), ("nan", None), ("inf", None), ("7, 8", None)])
def test_retry_after_in_all_its_ways(value, seconds):
    found = module._retry_after({"retry-after": value() if callable(value) else value})
    assert found == seconds if seconds is None else found == pytest.approx(seconds, abs=2)


@pytest.mark.parametrize("headers, seconds", [
    ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, 360),
    ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "7",
      "x-ratelimit-reset-tokens": "250ms", "x-ratelimit-remaining-tokens": "0"}, .25),
    ({"ratelimit-reset": "30"}, 30), ({"x-ratelimit-reset": lambda: str(time.time() + 40)}, 40),
    ({"x-ratelimit-reset": lambda: str(int(time.time() + 40) * 1000)}, 40),
    ({"x-ratelimit-reset": "tomorrow"}, None),
    ({"x-ratelimit-reset": "5m junk"}, None), ({"x-ratelimit-reset": "-4"}, None), ({"retry-after-ms": "250"}, .25),
    ({"retry-after": "3", "ratelimit-reset": "30"}, 3), ({}, None)])
def test_limits_that_say_when_they_begin_anew(headers, seconds):
    found = module._retry_after({k: v() if callable(v) else v for k, v in headers.items()})
    assert found == seconds if seconds is None else found == pytest.approx(seconds, abs=2)


@pytest.mark.parametrize("asked", ["3600", "86400", "9" * 30, formatdate(time.time() + 9e4, usegmt=True)],
                         ids=["an hour", "a day", "for ever", "a date"])
def test_a_wait_above_the_bound_ends_the_run_and_what_there_is_is_kept(tmp_path, asked):
    busy = whole(b"{}", 429, Retry_After=asked)
    with Raw(lambda n: [whole(GOOD) if n <= 3 else busy]) as server:
        found, _ = ask(server.url, n=20, concurrency=1, longest_wait=60)
    assert [type(f).__name__ for f in found] == ["Answer"] * 3 + ["EndpointError"] and len(server.seen) == 4
    assert re.search(r"asks to wait [\d.e+]+ (minutes|hours|days), which", str(found[-1])), found[-1]


def test_a_wait_below_the_bound_is_said_once(capfd, monkeypatch):
    waited = []

    async def nap(self, seconds): waited.append(seconds); self._until = 0.

    monkeypatch.setattr(Endpoint, "_nap", nap)
    with Raw(lambda n: [whole(b"{}", 429, Retry_After="90") if n <= 4 else whole(GOOD)]) as server:
        found, _ = ask(server.url, n=4, retries=3, longest_wait=100)
    assert [f.text for f in found] == ["Output (a)"] * 4 and max(waited) > 80
    assert 1 <= capfd.readouterr().err.count("asks to wait 1.5 minutes") <= 2


REFUSALS = {
    "FastAPI": {"detail": [{"type": "extra_forbidden", "loc": ["body", "temperature"], "msg": "Extra inputs"}]},
    "OpenAI": {"error": {"message": "Not for this model.", "param": "temperature", "type": "invalid_request_error"}},
    "path": {"error": {"message": "Bad value.", "param": "body.temperature"}},
    "quoted": {"error": {"message": "'temperature' does not support 0 with this model."}},
    "known words": {"error": {"message": "Unsupported parameter: 'temperature'", "code": "unsupported_parameter"}},
    "text": {"detail": "the field `temperature` is not permitted"},
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("before", [0, 2])
def test_uniform_refusals_name_the_setting(name, before):
    refused = whole(json.dumps(REFUSALS[name]).encode(), 422 if before else 400)
    with Raw(lambda n: [whole(GOOD) if n <= before else refused]) as server: found, _ = ask(server.url, n=60)
    assert len(server.seen) <= before + 12, len(server.seen)
    assert "'temperature'" in str(found[-1]) and "`drop`" in str(found[-1]) and isinstance(found[-1], EndpointError)


def test_uniform_refusals_without_a_name_end_a_run_that_had_no_answer():
    refused = [whole(json.dumps({"error": {"message": f"Refused, request {i}."}}).encode(), 400) for i in range(61)]
    with Raw(lambda n: [refused[n]]) as server: found, _ = ask(server.url, n=60)
    assert len(server.seen) < 20 and "refused alike" in str(found[-1])
    with Raw(lambda n: [whole(GOOD) if n == 1 else refused[n]]) as server:
        found, _ = ask(server.url, n=40, concurrency=1)
    assert len(server.seen) == 40 and all(f.kind == "http 400" for f in found[1:])   # each may be its own matter
    long = whole(json.dumps({"error": {"message": "This model's maximum context length is 8 tokens."}}).encode(), 400)
    with Raw(lambda n: [long]) as server: found, _ = ask(server.url, n=40)
    assert len(server.seen) == 40   # the long ones may come first


def test_a_proxy_of_the_environment_is_named(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://me:{KEY[:10]}@127.0.0.1:9")
    found, asked = ask("http://farm.invalid/v1", prices={"m": (1., 1.)}, retries=2)
    assert "the proxy http://127.0.0.1:9 (HTTP_PROXY)" in str(found[-1]) and asked.cost == 0
    assert "NO_PROXY=farm.invalid" in str(found[-1]) and KEY[:10] not in str(found[-1])
    monkeypatch.setenv("HTTP_PROXY", "gopher://127.0.0.1:9")
    found, _ = ask("http://farm.invalid/v1")
    assert isinstance(found[-1], EndpointError) and "gopher" in str(found[-1])


SAID = {"plain": str, "upper": str.upper, "json": json.dumps, "repr": lambda k: repr(k.encode()),
        "escaped": lambda k: "".join(f"\\u{ord(c):04x}" for c in k),
        "hex": lambda k: "".join(f"\\x{ord(c):02x}" for c in k),
        "quoted": lambda k: quote(k, safe=""), "twice": lambda k: quote(quote(k, safe=""), safe=""),
        "base64": lambda k: base64.b64encode(k.encode()).decode(),
        "header": lambda k: base64.b64encode(f"Bearer {k}".encode()).decode(), "digits": lambda k: k.encode().hex(),
        "beginning": lambda k: k[:20] + "…", "end": lambda k: "…" + k[-12:], "often": lambda k: f"{k}{k} {k}"}


def frames(error):
    "All that a traceback with local variables may show, of the error and of those that it came from."
    seen, texts = set(), []
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        texts.append(f"{error!r} {error.__dict__!r}")
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if "/tests/" in frame.f_code.co_filename: continue   # the user's own
            for name, value in frame.f_locals.items():
                texts.append(f"{frame.f_code.co_qualname} {name} {value!r}" if hasattr(frame.f_code, "co_qualname")
                             else f"{name} {value!r}")
                try: texts.append(repr(vars(value)))
                except TypeError: pass
        error = error.__cause__ or error.__context__
    return texts


def traces(texts):
    "Those that hold the key or a good part of it, in any form."
    forms = [KEY[i:i + 10] for i in range(0, len(KEY) - 9)]
    forms += [say(KEY) for name, say in SAID.items() if name not in ("beginning", "end")]
    return [t[max(0, t.index(form) - 80):][:250] for t in texts for form in forms if form in t]


@pytest.mark.parametrize("place", ["answer", "error", "header", "401", "html", "redirect"])
def test_a_key_that_the_server_says_is_nowhere(tmp_path, capfd, caplog, place):
    said = " and ".join(say(KEY) for name, say in SAID.items() if place != "answer" or name not in ("beginning", "end"))
    body = {"error": {"message": f"Failed for Bearer {said}."}}
    if place == "answer":
        reply = whole(json.dumps(completion(f"1: a {said}", {"model": said})).encode())
    elif place == "header": reply = whole(json.dumps(body).encode(), 500, X_Echo=quote(said, safe="/+%\\ {}'\""))
    elif place == "redirect": reply = whole(b"", 307, Location=f"http://127.0.0.1:9/{quote(said, safe='/+')}")
    elif place == "html": reply = whole(f"<html>{said}</html>".encode())
    else: reply = whole(json.dumps(body).encode(), 401 if place == "401" else 500)
    with Raw(lambda n: [reply]) as server, caplog.at_level(logging.DEBUG):
        crowd = pool(types.SimpleNamespace(url=server.url), tmp_path / "a.sqlite", retries=0, concurrency=1)
        crowd.endpoint = Endpoint(server.url, KEY, retries=0, concurrency=1, longest_wait=.1)
        try: seen = [annotate(crowd, make_pairs(3)).to_json()]
        except FarmError as error: seen = [traceback.format_exc(), *frames(error)]
    seen += [repr(crowd), repr(vars(crowd.endpoint)), repr(crowd.report), caplog.text, *capfd.readouterr()]
    assert len(server.seen) >= 1 and KEY.encode() in server.seen[0], "the server was not sent the key"
    assert caplog.text and not traces(seen), traces(seen)[0][:300]
    files = [p.read_bytes().decode("latin-1") for p in tmp_path.iterdir()]
    assert not traces(files), "the key stands in the file"


def test_no_frame_of_ours_holds_the_key(tmp_path):
    "A server that cannot be reached, a limit that is passed, a key with a flaw: what verbose tracebacks would show."
    found = []
    url = "http://127.0.0.1:9/v1"
    for wrong in (dict(base_url=url, api_key=KEY), dict(base_url=url, api_key=KEY, max_cost=1.),
                  dict(base_url=url, api_key=KEY + "\n\n" + KEY), dict(base_url=f"http://me:{KEY}@127.0.0.1:9/v1"),
                  dict(base_url=url, api_key=[KEY])):
        for make in (Endpoint, lambda **k: load_pool(
                "single", models={"strong": "m"}, cache=tmp_path / "a.sqlite", retries=0,
                **k).annotate_pairs(make_pairs(2))):
            try: make(**wrong)
            except FarmError as error: found.append(error)
    assert len(found) == 8
    for error in found: assert not (seen := traces([str(error), *frames(error)])), seen[0]


def test_a_secret_cannot_be_saved_with_what_holds_it():
    with pytest.raises(FarmError, match="not saved"): pickle.dumps(Endpoint("http://127.0.0.1:9/v1", KEY)._key)
    assert KEY not in repr(vars(Endpoint("http://127.0.0.1:9/v1", KEY)))
