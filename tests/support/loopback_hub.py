"""A Hub on loopback: repositories, branches and tags in memory, private ones, tokens, and faults on demand.

It answers the requests of the real huggingface_hub client for create, commit, look-up and download.
"""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import yaml
from huggingface_hub import ModelCardData

TOKEN = "hf_of_me"
READ_ONLY_TOKEN = "hf_reads"


class Repository:
    """Commits, each a dict of files; branches and tags name them."""

    def __init__(self, private):
        self.private = private
        self.commits = {"0" * 40: {}}
        self.references = {"main": "0" * 40}

    def commit(self, revision, files):
        content = json.dumps([len(self.commits), sorted(files)])
        oid = hashlib.sha1(content.encode()).hexdigest()
        self.commits[oid] = files
        self.references[revision] = oid
        return oid

    def resolve(self, revision):
        """Return the id of the commit of a branch, tag or id; None if there is none."""
        oid = self.references.get(revision, revision)
        return oid if oid in self.commits else None

    def files(self, revision="main"):
        return self.commits[self.references[revision]]


def problems_of_card(asked):
    """Return what the Hub would find wrong with the metadata of a card."""
    try:
        data = yaml.safe_load(asked["content"].split("---")[1])
        if asked["repoType"] == "space":
            right = data["sdk"] in ("static", "gradio", "docker") and len(data["short_description"]) <= 60
            return [] if right else [{"message": "sdk or short_description"}]
        ModelCardData(**data).to_yaml()
        for model in data.get("model-index", ()):
            for result in model["results"]:
                assert result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
                assert all(isinstance(metric["value"], (int, float)) for metric in result["metrics"])
    except (AssertionError, IndexError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        return [{"message": repr(error)}]
    return []


class Fault:
    """What goes wrong with requests whose method and path contain some text.

    Args:
        text: such as "POST /api/models/me/x/commit".
        kind: a status, "drop" (no answer), "lost" (done, but no answer), or "cut" (half a file).
        times: how often; -1 is always.
    """

    def __init__(self, text, kind, times=1):
        self.text, self.kind, self.times = text, kind, times

    def strikes(self, request):
        if self.text not in request or self.times == 0:
            return False
        self.times -= 1
        return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together

    def handle_one_request(self):
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer()

    do_GET = do_HEAD = do_DELETE = do_POST

    def answer(self):
        hub, path = self.server.hub, unquote(urlparse(self.path).path)
        request = f"{self.command} {path}"
        hub.requests.append(request)
        fault = next((fault for fault in hub.faults if fault.strikes(request)), None)
        self.cuts = fault is not None and fault.kind == "cut"
        if fault is not None and fault.kind == "drop":
            self.close_connection = True
            return
        self.loses = fault is not None and fault.kind == "lost"
        if fault is not None and not self.cuts and not self.loses:
            self.reply({"error": "out of order"}, fault.kind)
            return
        self.user = {f"Bearer {TOKEN}": "me", f"Bearer {READ_ONLY_TOKEN}": "reader"}.get(
            self.headers.get("Authorization")
        )
        if path == "/api/validate-yaml":
            self.reply({"errors": problems_of_card(json.loads(self.body)), "warnings": []})
        elif "Authorization" in self.headers and self.user is None:
            self.reply({"error": "Invalid credentials in Authorization header"}, 401)
        elif path == "/api/whoami-v2":
            self.reply({"name": self.user, "type": "user", "orgs": [], "auth": {}})
        elif path == "/api/repos/create":
            self.create(json.loads(self.body))
        elif path.startswith("/api/"):
            kind, *rest = path.removeprefix("/api/").split("/")
            prefix = "" if kind == "models" else f"{kind}/"
            self.repository(f"{prefix}{'/'.join(rest[:2])}", self.api, *rest[2:])
        else:
            name, _, rest = path.strip("/").partition("/resolve/")
            self.repository(name, self.download, *rest.split("/", 1))

    def create(self, asked):
        if self.user != "me":
            self.reply({"error": "You don't have the rights to create a model"}, 403 if self.user else 401)
            return
        hub = self.server.hub
        kind = f"{asked['type']}s/" if asked.get("type", "model") != "model" else ""
        name = f"{kind}{asked.get('organization') or 'me'}/{asked['name'].split('/')[-1]}"
        known = name in hub.repositories
        if not known:
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            hub.repositories[name] = Repository(private)
        self.reply({"url": f"{hub.url}/{name}", "name": name}, 409 if known else 200)

    def repository(self, name, what, *rest):
        """Do something with a repository that exists and that the user may see."""
        found = self.server.hub.repositories.get(name)
        if found is None or (found.private and self.user is None):
            self.reply({"error": "Repository not found"}, 404 if self.user else 401, "RepoNotFound")
        elif self.command in ("POST", "DELETE") and self.user != "me":
            self.reply({"error": "You need write access"}, 403)
        else:
            what(name.split("/", 1)[1] if name.startswith("spaces/") else name, found, *rest)

    def api(self, name, repository, verb="revision", revision="main", *_):
        if verb == "preupload":
            files = [
                {"path": asked["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for asked in json.loads(self.body)["files"]
            ]
            self.reply({"files": files})
        elif verb == "branch":
            if revision in repository.references:
                self.reply({"error": "exists"}, 409)
            else:
                start = json.loads(self.body or b"{}").get("startingPoint", "main")
                repository.references[revision] = repository.resolve(start)
                self.reply({})
        elif verb == "tag" and self.command == "DELETE":
            known = repository.references.pop(revision, None)
            self.reply({}, 200 if known else 404, None if known else "RevisionNotFound")
        elif verb == "tag":
            tag = json.loads(self.body)["tag"]
            known = tag in repository.references
            if not known:
                repository.references[tag] = repository.resolve(revision)
            self.reply({}, 409 if known else 200)
        elif (oid := repository.resolve(revision)) is None:
            self.reply({"error": "Invalid rev id"}, 404, "RevisionNotFound")
        elif verb == "commit":
            self.commit(name, repository, revision)
        elif verb == "tree":
            files = [
                {"type": "file", "path": path, "oid": _blob(content), "size": len(content)}
                for path, content in repository.commits[oid].items()
            ]
            self.reply(files)
        else:
            siblings = [{"rfilename": path} for path in repository.commits[oid]]
            about = {"id": name, "sha": oid, "siblings": siblings, "tags": [], "private": repository.private}
            self.reply(about)

    def commit(self, name, repository, revision):
        files = dict(repository.files(revision))
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(revision, files)
        self.reply(
            {
                "success": True,
                "commitOid": oid,
                "commitUrl": f"{self.server.hub.url}/{name}/commit/{oid}",
                "hookOutput": "",
                "pullRequestUrl": None,
            }
        )

    def download(self, name, repository, revision, path):
        oid = repository.resolve(revision)
        content = repository.commits.get(oid, {}).get(path)
        headers = {"X-Repo-Commit": oid}
        if oid is None or content is None:
            code = "RevisionNotFound" if oid is None else "EntryNotFound"
            self.reply({"error": "not found"}, 404, code, headers if oid else {})
            return
        # Pages of any site may read, as on the Hub.
        headers |= {"Access-Control-Allow-Origin": "*"}
        headers |= {"ETag": f'"{_oid(content)}"', "Accept-Ranges": "bytes"}
        status, wanted = 200, self.headers.get("Range")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = int(last) + 1 if last else len(content)
            status, headers["Content-Range"] = 206, f"bytes {first}-{end - 1}/{len(content)}"
            content = content[int(first) : end]
        self.send(content, status, headers)

    def reply(self, value, status=200, code=None, headers=None):
        extra = {"X-Error-Code": code} if code else {}
        kind = {"Content-Type": "application/json"}
        self.send(json.dumps(value).encode(), status, kind | extra | (headers or {}))

    def send(self, content, status, headers):
        if self.loses:
            self.close_connection = True
            return
        self.send_response(status)
        for key, value in {**headers, "Content-Length": len(content)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if self.cuts else content)
        if self.cuts:
            self.close_connection = True

    def log_message(self, *_):
        """Say nothing."""


def _blob(content):
    """Return the id that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _oid(content):
    return hashlib.sha1(content).hexdigest()


class LoopbackHub:
    """The server; `with LoopbackHub() as hub:` starts and stops it.

    Attributes:
        url: for HF_ENDPOINT.
        repositories: by id; a Space's begins with "spaces/".
        faults: what goes wrong.
        requests: all that were made.
    """

    def __init__(self):
        self.repositories, self.faults, self.requests = {}, [], []

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.hub = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
