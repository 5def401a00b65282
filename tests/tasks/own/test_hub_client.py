"""The own client of the hub, against a server that answers as the hub does."""

import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse

import pytest

API, FILES = "/api/datasets/owner/quiz", "/datasets/owner/quiz/resolve/"
FIRST, SECOND = "a" * 40, "b" * 40
ROWS = b'{"q": "1 + 1", "a": "2"}\n'


class Handler(http.server.BaseHTTPRequestHandler):
    """One data set with one file; a new commit comes when the file was downloaded."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        commit, path = self.server.commit, urllib.parse.urlparse(self.path).path
        if path == API or path.startswith(f"{API}/revision/"):
            files = [{"rfilename": "train.jsonl"}, {"rfilename": "picture.bin"}]
            self.reply({"id": "owner/quiz", "sha": commit, "siblings": files})
        elif path.startswith(f"{API}/tree/"):
            one = {"type": "file", "size": len(ROWS), "oid": "0" * 40}
            names = ("train.jsonl", "picture.bin")
            self.reply([one | {"path": name} for name in names])
        elif path.startswith(FILES) and path.endswith("/train.jsonl"):
            asked = path.removeprefix(FILES).partition("/")[0]
            self.reply(ROWS, {"X-Repo-Commit": asked, "ETag": '"0123"'})
            if self.command == "GET":
                self.server.commit = SECOND
        else:
            self.reply({"error": "not found"}, {"X-Error-Code": "RepoNotFound"}, 404)

    do_HEAD = do_GET

    def reply(self, body, headers=(), code=200):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {**dict(headers), "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


# Its address is read when the client is imported, so it runs in another process.
SCRIPT = """
import json, sys
from cycleqd_jax.errors import BadInputError
from cycleqd_jax.tasks.own.hub import HubData

for name, revision, download in json.loads(sys.argv[1]):
    try:
        data, folder = HubData(name=name, revision=revision).fetched(download)
        files = {path.name: path.read_text() for path in folder.iterdir()}
        print(json.dumps([data.revision, files]))
    except BadInputError as err:
        print(json.dumps([type(err).__name__, str(err)]))
"""


@pytest.mark.slow
def test_commits_are_found_kept_and_read_without_the_hub(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.commit = FIRST
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    cases = [
        ["owner/quiz", None, True],
        ["owner/quiz", None, True],  # the branch has moved on
        ["owner/quiz", FIRST, True],
        ["owner/quiz", FIRST, False],
        ["owner/none", None, True],
        ["owner/quiz", "c" * 40, False],
    ]
    try:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps(cases)],
            env=os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path)},
            capture_output=True,
            check=True,
            text=True,
            timeout=300,
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    first, newest, pinned, offline, none, absent = map(
        json.loads, done.stdout.splitlines()
    )
    files = {"train.jsonl": ROWS.decode()}  # and no picture
    assert first == pinned == offline == [FIRST, files]
    assert newest == [SECOND, files]
    assert none[0] == "BadInputError" and "has no data set owner/none" in none[1]
    assert absent[0] == "MissingDataError" and "hf download" in absent[1]
