"""Sending to the Hub, against a stand-in for its HTTP interface that runs here."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import support
from typer.testing import CliRunner

import prmbench
from prmbench.cli.app import app
from prmbench.errors import UserError
from prmbench.reports.push import pack, push
from prmbench.resources import resource_folder

ENTRIES = resource_folder("leaderboards") / "entries"


class Hub(BaseHTTPRequestHandler):
    """The calls that a commit makes: a repository, which files are large, their upload, the commit."""

    protocol_version = "HTTP/1.1"
    repos: dict[str, dict[str, bytes]]
    large: dict[str, bytes]
    refuse: bool

    def log_message(self, *arguments):
        pass

    def answer(self, body, code=200):
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def content(self):
        return self.rfile.read(int(self.headers["Content-Length"] or 0))

    def do_PUT(self):
        content = self.content()
        assert self.path == f"/large/{hashlib.sha256(content).hexdigest()}"
        self.large[self.path.rpartition("/")[2]] = content
        self.answer({})

    def do_GET(self):
        self.answer({"error": "nothing is read"}, 404)

    def do_POST(self):
        content = self.content()
        here = f"http://{self.headers['Host']}"
        if self.refuse or self.headers.get("Authorization") != "Bearer hf_test":
            self.answer({"error": "forbidden"}, 403)
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            asked = json.loads(content)
            kind, name = asked.get("type", "model"), f"{asked['organization']}/{asked['name']}"
            assert asked.get("private") is True or asked.get("visibility") == "private"
            self.repos.setdefault(f"{kind}s/{name}", {})
            self.answer({"url": f"{here}/{name}", "id": name})
        elif "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": self.mode(f["path"])} for f in json.loads(content)["files"]]
            self.answer({"files": [{**f, "shouldIgnore": False, "oid": None} for f in files]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{here}/large/{one['oid']}", "header": {}}}}
                for one in json.loads(content)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            repo = self.repos[self.path.removeprefix("/api/").partition("/commit/")[0]]
            for line in map(json.loads, content.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    repo[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    repo[value["path"]] = self.large[value["oid"]]
            place = self.path.removeprefix("/api/").partition("/commit/")[0].removeprefix("models/")
            self.answer({"commitUrl": f"{here}/{place}/commit/1", "commitOid": "1", "success": True, "hookOutput": ""})
        else:
            self.answer({"error": self.path}, 404)

    @staticmethod
    def mode(path):
        return "lfs" if path.endswith(".safetensors") else "regular"


@pytest.fixture
def hub(monkeypatch):
    """The stand-in, and a user with a token."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    handler = type("Handler", (Hub,), {"repos": {}, "large": {}, "refuse": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    handler.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_entries_are_sent_whole(hub):
    """What arrives is an entry that verifies; nothing but figures, ids and scores."""
    shipment = pack([ENTRIES / "smollm2-135m-ipvrm", ENTRIES / "miniature-dpo"], "me/figures")
    assert push(shipment, endpoint=hub.address) == f"{hub.address}/datasets/me/figures/commit/1"
    sent = hub.repos["datasets/me/figures"]
    names = sorted(name.rpartition("/")[2] for name in sent)
    assert names == ["README.md", "entry.json", "entry.json", "items.jsonl", "items.jsonl", "training.json"]
    name = next(name for name in sent if name.startswith("entries/smollm2") and name.endswith("items.jsonl"))
    assert sent[name] == (ENTRIES / "smollm2-135m-ipvrm" / "items.jsonl").read_bytes()
    assert b"| smollm2-135m-ipvrm | 23.9 [17.9, 29.7] |" in sent["README.md"]


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # the Hub's library uploads so
def test_a_model_with_its_card_and_figures(hub, tiny_tuned, tiny, tmp_path):
    model = shutil.copytree(tiny_tuned, tmp_path / "model")
    (model / "prmbench.json").write_text('{"kind": "implicit", "objective": "ipvrm"}')
    (model / "last").mkdir()
    (model / "last" / "optimizer.pt").write_text("state")
    (model / "pytorch_model.bin").write_text("pickle")
    data = support.write_traces(tmp_path / "gsm8k.jsonl", 20)
    prmbench.evaluate(model, reference=tiny, data=data, output=tmp_path / "run", n_resamples=20, name="mine")
    shipment = pack([model, tmp_path / "run"], "me/model")
    push(shipment, endpoint=hub.address)
    sent = hub.repos["models/me/model"]
    assert sent["model.safetensors"] == (model / "model.safetensors").read_bytes()
    assert "pytorch_model.bin" not in sent
    assert not any("optimizer" in name for name in sent)
    card = sent["README.md"].decode()
    assert card.startswith("---\ntags:\n- prmbench\n---\n")
    assert "## Evaluation" in card
    assert "| mine | " in card
    assert b"Qwen/ProcessBench" in sent[".eval_results/prmbench-processbench.yaml"]
    # The same again changes nothing: the section is there already.
    (model / "README.md").write_text(card)
    assert pack([model, tmp_path / "run"], "me/model").files["README.md"].decode() == card
    with pytest.raises(UserError, match=r"is of other weights than .*model; push it without the checkpoint"):
        pack([model, ENTRIES / "miniature-dpo"], "me/model")


def test_a_dry_run_says_what_would_be_sent_and_sends_nothing(hub):
    arguments = ["push", str(ENTRIES / "miniature-dpo"), "--repo", "me/figures", "--dry-run"]
    shown = CliRunner().invoke(app, arguments).stdout.splitlines()
    digest = hashlib.sha256((ENTRIES / "miniature-dpo" / "items.jsonl").read_bytes()).hexdigest()
    assert any("items.jsonl: " in line and line.endswith(f"sha256 {digest[:12]}") for line in shown)
    assert shown[-1].endswith("files for the dataset repository me/figures; nothing was sent")
    assert hub.repos == {}


def test_mistakes_are_one_sentence(hub, tmp_path, monkeypatch):
    for repo in ("figures", "a/b/c", "/b"):
        with pytest.raises(UserError, match=f"`repo={repo}`: expected owner/name"):
            pack([ENTRIES / "miniature-dpo"], repo)
    with pytest.raises(UserError, match="expected folders of runs"):
        pack([], "me/x")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds no .safetensors"):
        pack([model], "me/x")
    (model / "model.safetensors").symlink_to("/etc/hostname")
    with pytest.raises(UserError, match="is a link"):
        pack([model], "me/x")
    shipment = pack([ENTRIES / "miniature-dpo"], "me/x")
    hub.refuse = True
    with pytest.raises(UserError, match=r"push: me/x: the Hub refused or was not reached \(.*403"):
        push(shipment, endpoint=hub.address)
    with pytest.raises(UserError, match="the Hub refused or was not reached"):
        push(shipment, endpoint="http://127.0.0.1:1")
    copy = shutil.copytree(ENTRIES / "miniature-dpo", tmp_path / "copy")
    fields = json.loads((copy / "entry.json").read_text())
    fields["metrics"]["protocols"]["process"]["mean"]["crossfit"]["value"] = 0.99
    (copy / "entry.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="its items give"):
        pack([copy], "me/x")
