"""Fetching AlpacaFarm's data: the real client and a small hub on this machine, and what is said without a hub."""

import json
import os
import subprocess
import sys
import threading
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import pandas as pd
import pytest

DEMOS = [{"instruction": f"Where does the {animal} sleep?", "input": "", "output": f"In the {animal} house."}
         for animal in ("ox", "hen")]
COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    "The part of the hub's protocol that fetching a data set needs: resolve a file, list a branch."

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items(): self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET": self.wfile.write(body)

    def do_GET(self):
        path = unquote(urlparse(self.path).path)
        self.server.asked.append((self.command, path))
        for branch, files in self.server.branches.items():
            if path == f"/api/datasets/owner/farm/tree/{branch}":
                listing = [{"type": "file", "path": name, "size": len(data), "oid": sha1(data).hexdigest()}
                           for name, data in files.items()]
                return self.answer(200, json.dumps(listing).encode(), Content_Type="application/json")
            name = path.removeprefix(f"/datasets/owner/farm/resolve/{branch}/")
            if name in files:
                tag = sha1(files[name]).hexdigest()
                return self.answer(200, files[name], ETag=f'"{tag}"', X_Repo_Commit=COMMIT)
        known = path.startswith(("/datasets/owner/farm/", "/api/datasets/owner/farm/"))
        branch = any(f"/{b}" in path for b in self.server.branches)
        error = "RepoNotFound" if not known else "EntryNotFound" if branch else "RevisionNotFound"
        self.answer(404, X_Error_Code=error, X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def log_message(self, *args): pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.branches, server.asked = {"main": {}}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def load(endpoint, cache, *args, loader="load_alpaca_farm", **env):
    "What a loader says in a fresh process: the hub's address is fixed when its client is imported."
    code = ("import sys, json; from alpacafarm_nb.core import FarmError\n"
            f"from alpacafarm_nb.sources import {loader}\n"
            f"try: print({loader}(*json.loads(sys.argv[1])).to_json(orient='records'))\n"
            "except FarmError as e: print(type(e).__name__, e)")
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1",
           "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **env}
    done = subprocess.run([sys.executable, "-c", code, json.dumps(args)], capture_output=True, text=True, env=env,
                          timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def at(server): return f"http://127.0.0.1:{server.server_address[1]}"


def test_json_is_fetched_once_and_then_read_offline(hub, tmp_path):
    hub.branches["main"]["alpaca_instructions/sft.json"] = json.dumps(DEMOS).encode()
    assert json.loads(load(at(hub), tmp_path, "owner/farm", "alpaca_instructions", "sft")) == DEMOS
    assert [command for command, _ in hub.asked] == ["HEAD", "GET"]
    offline = load(at(hub), tmp_path, "owner/farm", "alpaca_instructions", "sft", HF_HUB_OFFLINE="1")
    assert json.loads(offline) == DEMOS and len(hub.asked) == 2


def test_converted_parquet_where_there_is_no_json(hub, tmp_path):
    pd.DataFrame(DEMOS).to_parquet(tmp_path / "x.parquet")
    data = (tmp_path / "x.parquet").read_bytes()
    hub.branches["refs/convert/parquet"] = {"alpaca_instructions/val/0000.parquet": data}
    assert json.loads(load(at(hub), tmp_path, "owner/farm", "alpaca_instructions", "val")) == DEMOS


def test_what_the_hub_has_not(hub, tmp_path):
    said = load(at(hub), tmp_path, "owner/farm", "alpaca_instructions", "val")
    assert said.startswith("SourceError the data set owner/farm has no split val of alpaca_instructions: no alpaca")
    said = load(at(hub), tmp_path, "owner/frm", "alpaca_instructions", "val")
    assert said.startswith("SourceError the hub has no data set 'owner/frm', and ")
    said = load(at(hub), tmp_path, "owner/farm", "alpaca_instructions", "val", "v9")
    assert said == "SourceError owner/farm has no revision 'v9'."


def test_a_bad_row_in_a_fetched_file_is_named(hub, tmp_path):
    pairs = [{"instruction": "Sort.", "output_1": "a", "output_2": "b", "preference": p} for p in (1, 0.3)]
    hub.branches["main"]["alpaca_human_preference.json"] = json.dumps(pairs).encode()
    said = load(at(hub), tmp_path, "owner/farm", "alpaca_human_preference")
    assert said.startswith("RecordError ")
    assert "alpaca_human_preference.json, column 'preference': row 1 is 0.3, which is neither 0 nor" in said


def test_without_a_network_it_says_what_to_do(tmp_path):
    where = ("tatsu-lab/alpaca_farm", "alpaca_farm_evaluation", None)
    said = load("http://127.0.0.1:9", tmp_path, *where, HF_HUB_OFFLINE="1")
    assert said.startswith("SourceError tatsu-lab/alpaca_farm (alpaca_farm_evaluation, eval) could not be fetched")
    for part in ("offline mode is enabled", "fetch alpaca_farm_evaluation.json", "give the folder as the source"):
        assert part in said


def test_judgements_of_people_from_the_hub(hub, tmp_path):
    pair = {"id": 7, "text": "Is the mill old?", "result_x": "Very.", "result_y": "Mill."}
    hub.branches["main"] |= {
        "pairs-crowd.jsonl": json.dumps(pair).encode(),
        "crowd-comparisons.csv": b"id,worker,winner,left,right\n7,3,tie,A,B\n7,4,right,A,B\n",
        "alpaca_farm_human_crossannotations.json": json.dumps(
            [{"instruction": "Sort.", "output_1": "a", "output_2": "b", "preference": p} for p in (1, 2)]).encode()}
    found = json.loads(load(at(hub), tmp_path, "owner/farm", loader="load_llmfao"))
    assert [(r["item"], r["annotator"], r["preference"]) for r in found] == [(7, "3", 1.5), (7, "4", 2)]
    found = json.loads(load(at(hub), tmp_path, "owner/farm", loader="load_cross_annotations"))
    assert [(r["item"], r["annotator"], r["preference"]) for r in found] == [(0, "label 0", 1), (0, "label 1", 2)]
    said = load(at(hub), tmp_path, "owner/farm", "gpt4", loader="load_llmfao")
    assert said == "SourceError the data set owner/farm on the hub has no gpt4-crowd-comparisons.csv."
    said = load(at(hub), tmp_path, "owner/frm", loader="load_llmfao")
    assert said.startswith("SourceError the hub has no data set 'owner/frm', and ")
    said = load("http://127.0.0.1:9", tmp_path / "new", loader="load_llmfao", HF_HUB_OFFLINE="1")
    assert "pairs-crowd.jsonl of dustalov/llmfao could not be fetched" in said and "give the folder" in said
