"""The half of the stand-in for the Hub that writes: repositories, branches, tags, files of git and of git LFS.

    hub = STAND_IN.HubStandIn({})
    stored = UPLOADS.accept(STAND_IN, hub)

One user, `user`, may write to what begins with `user/`. `accept` adds its endpoints to those of one hub: test files
load both modules by their paths.
"""

import base64
import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import yaml

_API = r"/api/(?P<kind>dataset|model|space)s/(?P<id>[^/]+/[^/]+)"
_GIT = r"/((?P<kind>dataset|space)s/)?(?P<id>[^/]+/[^/]+)\.git"
_INITIAL = {".gitattributes": b"*.tar filter=lfs diff=lfs merge=lfs -text\n"}


def accept(stand_in: ModuleType, hub: Any) -> dict[str, bytes]:
    """Let a hub be written to; returns what git LFS holds, by SHA-256, which uploads fill."""
    objects: dict[str, bytes] = {}
    uploads = _Uploads(stand_in, hub, objects)
    rows: list[tuple[str, str, Callable[[Any], Any]]] = [
        ("GET", "/api/whoami-v2", uploads.whoami),
        ("POST", "/api/repos/create", uploads.create),
        ("POST", "/api/validate-yaml", uploads.validate),
        ("GET", rf"{_API}/refs", uploads.refs),
        ("GET", rf"{_API}/commits/(?P<revision>[^/]+)", uploads.commits),
        ("POST", rf"{_API}/branch/(?P<branch>[^/]+)", uploads.branch),
        ("POST", rf"{_API}/tag/(?P<revision>[^/]+)", uploads.tag),
        ("POST", rf"{_API}/preupload/(?P<revision>[^/]+)", uploads.preupload),
        ("POST", rf"{_API}/commit/(?P<revision>[^/]+)", uploads.commit),
        ("POST", rf"{_GIT}/info/lfs/objects/batch", uploads.batch),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", uploads.put),
    ]
    hub.routes[:0] = [
        (method, pattern, lambda _, request, endpoint=endpoint: endpoint(request)) for method, pattern, endpoint in rows
    ]
    return objects


class _Uploads:
    def __init__(self, stand_in: ModuleType, hub: Any, objects: dict[str, bytes]) -> None:
        self.stand_in, self.hub, self.objects = stand_in, hub, objects

    def whoami(self, request: Any) -> Any:
        if "Authorization" not in request.headers:
            return self.stand_in.Answer(401)
        return self._json({"name": "user", "type": "user", "orgs": []})

    def create(self, request: Any) -> Any:
        asked = json.loads(request.body)
        name, kind = f"{asked['organization']}/{asked['name']}", asked.get("type", "model")
        self._check_rights(request, name)
        if (kind, name) in self.hub.repositories:
            return self._json({"error": "exists", "url": f"{self.hub.address}/{kind}s/{name}"}, 409)
        access = "private" if asked.get("private") or asked.get("visibility") == "private" else "public"
        made = self.stand_in.Repository(dict(_INITIAL), access)
        made.history[made.commit] = dict(_INITIAL)
        self.hub.repositories[kind, name] = made
        return self._json({"url": f"{self.hub.address}/{'' if kind == 'model' else kind + 's/'}{name}"})

    def validate(self, request: Any) -> Any:
        content = json.loads(request.body)["content"]
        try:
            front = yaml.safe_load(content.split("---\n")[1]) if content.startswith("---\n") else None
        except yaml.YAMLError as error:
            return self._json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        missing = [] if isinstance(front, dict) else [{"message": "empty or missing yaml metadata in repo card"}]
        return self._json({"errors": [], "warnings": missing})

    def refs(self, request: Any) -> Any:
        found = self.stand_in.find(self.hub, request)
        heads = {"main": found.commit, **{name: self._commit_of(files) for name, files in found.branches.items()}}
        return self._json(
            {
                "branches": [_reference("heads", name, commit) for name, commit in heads.items()],
                "tags": [_reference("tags", name, commit) for name, commit in found.tags.items()],
                "converts": [],
            }
        )

    def commits(self, request: Any) -> Any:
        found = self.stand_in.find(self.hub, request)
        plain = {"authors": [], "date": "2024-01-01T00:00:00.000Z", "title": "", "message": ""}
        return self._json([{"id": commit, **plain} for commit in [*found.history][::-1] or [found.commit]])

    def branch(self, request: Any) -> Any:
        found = self._writable(request)
        name = request.parts["branch"]
        files = found.at(json.loads(request.body).get("startingPoint"))
        if files is None:
            raise self.stand_in.RefusalError(404, "RevisionNotFound")
        if name in found.branches or name == "main":
            return self.stand_in.Answer(409)
        found.branches[name] = dict(files)
        return self._json({})

    def tag(self, request: Any) -> Any:
        found, name = self._writable(request), json.loads(request.body)["tag"]
        files = found.at(request.parts["revision"])
        if files is None:
            raise self.stand_in.RefusalError(404, "RevisionNotFound")
        if name in found.tags:
            return self.stand_in.Answer(409)
        found.tags[name] = self._commit_of(files)
        return self._json({})

    def preupload(self, request: Any) -> Any:
        files = self._files(request)
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(self.stand_in.LARGE) else "regular",
                "shouldIgnore": False,
                "oid": self._name(file["path"], files[file["path"]]) if file["path"] in files else None,
            }
            for file in json.loads(request.body)["files"]
        ]
        return self._json({"files": modes})

    def batch(self, request: Any) -> Any:
        self._writable(request)
        wanted = json.loads(request.body)["objects"]
        held = {
            self.stand_in.sha256_of(one) for repository in self.hub.repositories.values() for one in _all(repository)
        }
        for one in wanted:
            if one["oid"] not in self.objects and one["oid"] not in held:
                one["actions"] = {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}?signature=secret"}}
        return self._json({"transfer": "basic", "objects": wanted})

    def put(self, request: Any) -> Any:
        oid = request.parts["oid"]
        if self.stand_in.sha256_of(request.body) != oid:
            return self.stand_in.Answer(400)
        self.objects[oid] = request.body
        return self.stand_in.Answer()

    def commit(self, request: Any) -> Any:
        files, found = self._files(request), self._writable(request)
        lines = [json.loads(line) for line in request.body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, self._commit_of(files)):
            return self.stand_in.Answer(412)
        found.history.setdefault(self._commit_of(files), dict(files))
        changed = dict(files)
        for line in lines[1:]:
            kind, value = line["key"], line["value"]
            if kind == "deletedFile":
                del changed[value["path"]]
            else:
                content = self.objects[value["oid"]] if kind == "lfsFile" else base64.b64decode(value["content"])
                changed[value["path"]] = content
        commit = self._commit_of(changed)
        found.history[commit] = dict(changed)
        files.clear()
        files.update(changed)
        page = f"{self.hub.address}/{'' if request.parts['kind'] == 'model' else request.parts['kind'] + 's/'}"
        return self._json({"commitUrl": f"{page}{request.parts['id']}/commit/{commit}", "commitOid": commit})

    def _files(self, request: Any) -> dict[str, bytes]:
        """Those of the branch that is written to, themselves."""
        found, name = self._writable(request), request.parts["revision"]
        if name != "main" and name not in found.branches:
            raise self.stand_in.RefusalError(404, "RevisionNotFound")
        return found.files if name == "main" else found.branches[name]

    def _writable(self, request: Any) -> Any:
        kind, name = request.parts["kind"] or "model", request.parts["id"]
        self._check_rights(request, name)
        if (kind, name) not in self.hub.repositories:
            raise self.stand_in.RefusalError(404, "RepoNotFound")
        return self.hub.repositories[kind, name]

    def _check_rights(self, request: Any, name: str) -> None:
        if request.headers.get("Authorization") != f"Bearer {self.stand_in.TOKEN}" or not name.startswith("user/"):
            raise self.stand_in.RefusalError(403, "Forbidden")

    def _name(self, path: str, content: bytes) -> str:
        large = path.endswith(self.stand_in.LARGE)
        return self.stand_in.sha256_of(content) if large else self.stand_in.blob_id(content)

    def _commit_of(self, files: dict[str, bytes]) -> str:
        return self.stand_in.commit_of(files)

    def _json(self, value: Any, status: int = 200) -> Any:
        made = self.stand_in.json_answer(value)
        made.status = status
        return made


def _reference(folder: str, name: str, commit: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": commit}


def _all(repository: Any) -> list[bytes]:
    branches = (repository.files, *repository.branches.values(), *repository.history.values())
    return [content for files in branches for content in files.values()]
