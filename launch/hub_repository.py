"""A repository of the Hub as it is now, and what can be asked of it; errors come in our words."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token, hf_hub_url
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from launch.hub_errors import explained

Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class RemoteFile:
    """A file there: its bytes, and by which hash it is known: SHA-256 where git LFS keeps it, else git's own."""

    size: int
    blob_id: str
    sha256: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """A repository and one branch of it. `head`: the branch's newest commit, None where there is no such branch."""

    exists: bool = False
    is_private: bool = False
    head: str | None = None
    files: dict[str, RemoteFile] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HubRepository:
    """The repository `name` of one kind; every method raises ValueError or HubError, as `hub_errors.explained`.

    The token is the one that huggingface_hub finds: of HF_TOKEN, or of a login.
    """

    name: str
    kind: Kind
    client: HfApi

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def page(self) -> str:
        """Its address for people."""
        return f"{self.client.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    @property
    def has_token(self) -> bool:
        """Whether a token is at hand, good or not."""
        return bool(self.client.token or get_token())

    def account(self) -> str:
        """Whose token it is."""
        with self._asking("to be logged in"):
            return str(self.client.whoami()["name"])

    def look(self, branch: str) -> Snapshot:
        """What is there now. A repository that this account may not see looks as if it did not exist."""
        with self._asking("look it up"):
            try:
                found = self.client.repo_info(self.name, repo_type=self.kind)
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return Snapshot()
            refs = self.client.list_repo_refs(self.name, repo_type=self.kind)
            tags = {tag.name: tag.target_commit for tag in refs.tags}
            head = next((one.target_commit for one in refs.branches if one.name == branch), None)
            files = {} if head is None else self._list(head)
            return Snapshot(True, bool(found.private), head, files, tags)

    def read(self, file: str, revision: str) -> bytes:
        """The bytes of a small file; nothing is cached on this machine."""
        with self._asking(f"read {file}"):
            url = hf_hub_url(self.name, file, repo_type=self.kind, revision=revision, endpoint=self.client.endpoint)
            response = get_session().get(url, headers=build_hf_headers(token=self.client.token))
            hf_raise_for_status(response)
            return response.content

    def create(self, private: bool) -> None:
        """Make it, unless it is there by now. Without `private` it is as its owner's settings say."""
        with self._asking("create it"):
            self.client.create_repo(self.name, repo_type=self.kind, private=private or None, exist_ok=True)

    def create_branch(self, branch: str) -> None:
        """Make a branch that holds nothing of the others: it starts at the repository's first commit."""
        with self._asking(f"create the branch {branch}"):
            first = self.client.list_repo_commits(self.name, repo_type=self.kind)[-1].commit_id
            self.client.create_branch(self.name, repo_type=self.kind, branch=branch, revision=first, exist_ok=True)

    def send(self, additions: list[CommitOperationAdd], branch: str) -> None:
        """Bring the content of large files there, ahead of the commit that will name them."""
        with self._asking("upload"):
            self.client.preupload_lfs_files(
                self.name, additions, repo_type=self.kind, revision=branch, free_memory=False
            )

    def commit(
        self,
        operations: Sequence[CommitOperationAdd | CommitOperationDelete],
        branch: str,
        message: str,
        parent: str | None,
    ) -> str:
        """Change the branch, unless somebody else has since `parent`; returns the new commit."""
        with self._asking("commit"):
            done = self.client.create_commit(
                self.name,
                operations,
                repo_type=self.kind,
                revision=branch,
                commit_message=message,
                parent_commit=parent,
            )
            return done.oid

    def tag(self, name: str, commit: str) -> None:
        """Give a commit a name."""
        with self._asking(f"tag it {name}"):
            self.client.create_tag(self.name, repo_type=self.kind, tag=name, revision=commit)

    def _list(self, commit: str) -> dict[str, RemoteFile]:
        entries: Any = self.client.list_repo_tree(self.name, repo_type=self.kind, recursive=True, revision=commit)
        return {
            entry.path: RemoteFile(entry.size, entry.blob_id, None if entry.lfs is None else entry.lfs.sha256)
            for entry in entries
            if hasattr(entry, "blob_id")  # folders have none
        }

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (AssertionError, AttributeError, NameError, TypeError):
            raise  # faults of ours
        except Exception as error:  # noqa: BLE001 - of the three HTTP libraries that huggingface_hub may be using
            understood = explained(error, str(self), doing, self.client.endpoint)
        else:
            return
        # Raised outside the handler: a library's own exception may show a signed URL.
        raise understood
