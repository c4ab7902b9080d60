"""launch/hub.py over real HTTP, against the stand-in for the Hub."""

import importlib.util
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from huggingface_hub import HfApi

from launch import hub as pushing
from launch.console import Console
from launch.hub import Pushed, push
from launch.hub_config import HubConfig
from launch.hub_errors import HubError
from launch.hub_plan import Upload

FOLDER = Path(__file__).parents[2] / "end_to_end"
# huggingface_hub hands files to httpx2 as httpx wanted them.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
WRITES = ("POST /api/repos", "POST /api/models", "PUT")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"unit_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


STAND_IN, UPLOADS = load("hub_stand_in"), load("hub_uploads")
FILES = {"model.safetensors": b"weights" * 100, "config.json": b"{}", "README.md": b"---\nlicense: other\n---\n# M\n"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = STAND_IN.HubStandIn({})
    UPLOADS.accept(STAND_IN, found)
    with STAND_IN.serve(found):
        yield found


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub's own tries follow each other at once."""

    class Clock:
        sleep = staticmethod(lambda _: None)

    monkeypatch.setattr("huggingface_hub.utils._http.time", Clock)


def upload(folder: Path, files: dict[str, bytes], repository: str = "user/name", **options: Any) -> Upload:
    """With a marker that lists the files."""
    folder.mkdir(exist_ok=True)
    whole = files | {"proof.json": json.dumps(sorted([*files, "proof.json"])).encode()}
    for name, content in whole.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    paths = {name: folder / name for name in whole}
    return Upload(repository, "model", paths, "proof.json", json.loads, **options)


def pushed(hub: Any, what: Upload, token: str = STAND_IN.TOKEN, **options: Any) -> tuple[Pushed, str]:
    said = io.StringIO()
    client = HfApi(endpoint=hub.address, token=token)
    slept: list[float] = []
    done = push(what, HubConfig(**options), Console(stream=said), client=client, sleep=slept.append)
    return done, said.getvalue()


def files_of(hub: Any, name: str = "user/name", branch: str = "main") -> dict[str, bytes]:
    found = dict(hub.repositories["model", name].at(branch))
    found.pop(".gitattributes", None)
    return found


def writes(hub: Any) -> list[str]:
    return [line for line in hub.log if line.startswith(WRITES)]


def test_all_of_it_in_one_commit(hub: Any, tmp_path: Path) -> None:
    what = upload(tmp_path / "m", FILES)
    done, said = pushed(hub, what)
    assert files_of(hub) == {name: path.read_bytes() for name, path in what.files.items()}
    repository = hub.repositories["model", "user/name"]
    assert (done.commit, done.revision) == (repository.commit, None)
    assert done.url == f"{hub.address}/user/name/tree/main"
    assert done.sent_bytes == sum(map(len, files_of(hub).values()))
    assert repository.access == "public"
    assert len(repository.history) == 2, "the initial commit, and ours"
    assert "to model user/name, branch main, as user\n" in said
    assert f"4 files uploaded, {done.sent_bytes:,} bytes; 0 were there already" in said
    assert STAND_IN.TOKEN not in said


def test_only_what_changed_and_nothing_stale(hub: Any, tmp_path: Path) -> None:
    pushed(hub, upload(tmp_path / "m", FILES | {"figures/old.png": b"old"}))
    hub.repositories["model", "user/name"].files["NOTES.md"] = b"by hand"
    hub.log.clear()
    new = FILES | {"config.json": b'{"a": 1}'}
    _, said = pushed(hub, upload(tmp_path / "new", new))
    held = files_of(hub)
    assert "figures/old.png" not in held
    assert held.pop("NOTES.md") == b"by hand", "what others put beside it stays"
    assert {name: held[name] for name in new} == new
    assert [line for line in hub.log if line.startswith("PUT")] == [], "the weights are the same"
    assert "2 files uploaded" in said
    assert "2 were there already" in said
    hub.log.clear()
    done, said = pushed(hub, upload(tmp_path / "new", new))
    assert writes(hub) == []
    assert done.sent_bytes == 0
    assert "nothing to upload: all of it was there already" in said


def test_a_file_of_others_is_not_replaced(hub: Any, tmp_path: Path) -> None:
    pushed(hub, upload(tmp_path / "m", FILES))
    hub.repositories["model", "user/name"].files["extra.json"] = b"by hand"
    with pytest.raises(ValueError, match=r"model user/name: it holds extra.json, which no finished upload of ours"):
        pushed(hub, upload(tmp_path / "m", FILES | {"extra.json": b"ours"}))


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ({"weights.bin": b"x", "a": b"", "b": b"", "c": b""}, r"it holds a, b, c, \.\.\., which no finished upload"),
        ({"proof.json": b"{", "README.md": b""}, r"its proof\.json is not one of ours \(Expecting"),
    ],
)
def test_a_repository_of_others_is_refused(hub: Any, tmp_path: Path, there: dict[str, bytes], message: str) -> None:
    hub.repositories["model", "user/name"] = STAND_IN.Repository(dict(there))
    with pytest.raises(ValueError, match=message) as error:
        pushed(hub, upload(tmp_path / "m", FILES))
    assert str(error.value).endswith("push to another name, or to a branch of its own with --hub.revision BRANCH")
    assert writes(hub) == []
    assert files_of(hub) == there


def test_what_the_website_made_is_no_conflict(hub: Any, tmp_path: Path) -> None:
    made = {".gitattributes": b"*.bin", "README.md": b"---\nlicense: mit\n---\n"}
    hub.repositories["model", "user/name"] = STAND_IN.Repository(made)
    pushed(hub, upload(tmp_path / "m", FILES))
    assert files_of(hub)["README.md"] == FILES["README.md"]


def test_a_branch_begins_empty_and_a_tag_names_the_commit(hub: Any, tmp_path: Path) -> None:
    pushed(hub, upload(tmp_path / "m", FILES | {"of_main": b""}))
    what = upload(tmp_path / "new", FILES)
    done, _ = pushed(hub, what, revision="release/2", tag="v2")
    assert set(files_of(hub, branch="release/2")) == {*FILES, "proof.json"}
    assert "of_main" in files_of(hub)
    assert done.revision == "v2"
    assert files_of(hub, branch="v2") == files_of(hub, branch="release/2")
    hub.log.clear()
    pushed(hub, what, revision="release/2", tag="v2")
    assert writes(hub) == [], "the same under the same tag is done already"
    with pytest.raises(ValueError, match=r"the tag v2 exists, for commit \w{12}; give another --hub.tag"):
        pushed(hub, upload(tmp_path / "m", FILES | {"config.json": b"[]"}), revision="release/2", tag="v2")
    assert writes(hub) == []


def test_private(hub: Any, tmp_path: Path) -> None:
    what = upload(tmp_path / "m", FILES)
    pushed(hub, what, private=True)
    assert hub.repositories["model", "user/name"].access == "private"
    pushed(hub, what, private=True)
    hub.repositories["model", "user/name"].access = "public"
    with pytest.raises(ValueError, match=r"it is public, and --hub.private only makes new .*/user/name/settings"):
        pushed(hub, what, private=True)


@pytest.mark.parametrize(
    ("token", "name", "message"),
    [
        ("hf_mistyped", "user/name", r"to be logged in: http://.* does not know the token .* \(401\)"),
        (STAND_IN.READER, "user/name", r"create it: this account or its token has no right to do that \(403"),
        (STAND_IN.TOKEN, "other/name", r"model other/name: create it: .* or push under your own name"),
    ],
)
def test_wrong_token_and_no_rights(hub: Any, tmp_path: Path, token: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        pushed(hub, upload(tmp_path / "m", FILES, name), token)
    assert "\n" not in str(error.value)
    assert token not in str(error.value)
    assert hub.repositories == {}


def test_no_token(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None)
    with pytest.raises(
        ValueError, match="no token of the Hub is at hand; log in with `hf auth login`, or set HF_TOKEN"
    ):
        push(
            upload(tmp_path / "m", FILES),
            HubConfig(),
            Console(stream=io.StringIO()),
            client=HfApi(endpoint=hub.address),
        )
    assert hub.log == []


def test_a_server_that_is_not_the_hub(tmp_path: Path) -> None:
    what = upload(tmp_path / "m", FILES)
    with pytest.raises(
        HubError, match=r"127.0.0.1:9 does not answer \(ConnectError.*check the network and HF_ENDPOINT"
    ):
        pushed(STAND_IN.HubStandIn({}, address="http://127.0.0.1:9"), what)
    bare = STAND_IN.HubStandIn({})
    with STAND_IN.serve(bare), pytest.raises(HubError, match=r"to be logged in: http://.* refuses it \(404"):
        pushed(bare, what)


@pytest.mark.usefixtures("no_pause")
def test_a_connection_broken_in_the_middle_of_a_file(hub: Any, tmp_path: Path) -> None:
    what = upload(tmp_path / "m", FILES | {"large.bin": bytes(3_000_000)})
    hub.cuts += [100_000, 50]
    pushed(hub, what)
    assert files_of(hub)["large.bin"] == bytes(3_000_000)
    assert len([line for line in hub.log if line.endswith("cut")]) == 2


@pytest.mark.usefixtures("no_pause")
def test_one_that_stays_broken_is_given_up_and_goes_on_later(hub: Any, tmp_path: Path) -> None:
    what = upload(tmp_path / "m", {f"{number}.bin": bytes([number]) * 1000 for number in range(7)} | FILES)
    stored = 5 + 1
    hub.routes.insert(0, ("PUT", "/lfs/.*", refuse_after(stored)))
    with pytest.raises(HubError) as error:
        pushed(hub, what)
    assert "upload: http" in str(error.value)
    assert "give the same command again: it goes on with what is not there yet" in str(error.value)
    assert "signature" not in str(error.value), "addresses of uploads are signed"
    assert "proof.json" not in files_of(hub)
    assert len([line for line in hub.log if line.startswith("PUT") and line.endswith("200")]) == stored
    hub.routes.pop(0)
    hub.log.clear()
    pushed(hub, what)
    assert files_of(hub) == {name: path.read_bytes() for name, path in what.files.items()}
    assert len([line for line in hub.log if line.startswith("PUT")]) == 8 - stored


def refuse_after(count: int) -> Callable[[Any, Any], Any]:
    def put(hub: Any, request: Any) -> Any:
        nonlocal count
        count -= 1
        if count < 0:
            return STAND_IN.Answer(503)
        answering = next(row for row in hub.routes[1:] if row[0] == "PUT")
        request.parts["oid"] = STAND_IN.sha256_of(request.body)
        return answering[2](hub, request)

    return put


def test_a_commit_whose_answer_is_lost(hub: Any, tmp_path: Path) -> None:
    lost: list[str] = []

    def commit(hub: Any, request: Any) -> Any:
        answer = next(row for row in hub.routes[1:] if "/commit/" in row[1] and row[0] == "POST")[2](hub, request)
        if not lost:
            lost.append("")
            raise ConnectionAbortedError
        return answer

    hub.routes.insert(0, ("POST", r"/api/(?P<kind>model)s/(?P<id>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", commit))
    _, said = pushed(hub, upload(tmp_path / "m", FILES))
    assert lost
    assert len(hub.repositories["model", "user/name"].history) == 2
    assert "does not answer (RemoteProtocolError" in said
    assert "trying again in 5 s\n" in said


def test_nobody_reads_half_of_it(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushing, "_FILES_A_COMMIT", 4)
    many = {f"{number:02}.bin": b"%d" % number for number in range(13)}
    pushed(hub, upload(tmp_path / "m", FILES | many))
    history = list(hub.repositories["model", "user/name"].history.values())
    assert len(history) == 5, "the initial commit, three of five files or the rest, and the last"
    assert [set(files) & {"proof.json", "README.md"} for files in history[:-1]] == [set()] * 4
    pushed(hub, upload(tmp_path / "new", FILES | {name: content + b"!" for name, content in many.items()}))
    assert len(hub.repositories["model", "user/name"].history) == 6, "what replaces something becomes visible at once"


def test_a_file_that_is_not_what_was_described(hub: Any, tmp_path: Path) -> None:
    what = upload(tmp_path / "m", FILES, sha256={"config.json": "0" * 64})
    with pytest.raises(ValueError, match=r"config.json: has SHA-256 44136fa355b3, expected 000000000000 as proof.json"):
        pushed(hub, what)
    assert writes(hub) == []
