"""Uploading to the Hub: only what it lacks, over broken connections, and so that nobody ever reads half of it.

Large files go first, before any commit names them. What is new to the repository may be committed in parts, the file
that makes it readable with the last; what replaces an earlier upload becomes visible in one commit.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

from launch.console import Console, Progress
from launch.hub_config import HubConfig
from launch.hub_errors import HubError
from launch.hub_plan import CARD, Digests, Plan, Upload, check_content, make_plan
from launch.hub_repository import HubRepository, Kind, Snapshot

PAUSES = (5.0, 15.0, 45.0, 90.0)
"""Seconds between tries without progress; within each huggingface_hub itself tries six times, in 23 seconds."""

_FILES_A_COMMIT = 64
# What is sent between two looks at the progress: huggingface_hub sends so many files at a time.
_FILES_AT_ONCE = 5
_BYTES_AT_ONCE = 256_000_000


@dataclass(frozen=True)
class Pushed:
    """What is there now. `revision`: by which name to ask for it, None for main; `sent_bytes`: in this upload."""

    commit: str
    url: str
    revision: str | None
    sent_bytes: int


def push(
    upload: Upload,
    config: HubConfig,
    console: Console,
    *,
    client: HfApi | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Pushed:
    """Make a repository's branch hold the files of `upload`; given again after a failure it goes on.

    Args:
        upload: the files.
        config: visibility, branch and tag.
        console: for progress.
        client: by default the Hub that HF_ENDPOINT names, with the token of HF_TOKEN or a login.
        sleep: between tries; for tests.

    Raises:
        ValueError: no token or rights, a tag that exists, files of others there, files that are not as described.
        HubError: the Hub or the network failed, and went on doing so.
    """
    with _quiet():
        return _Push(upload, config, console, _repository(upload, client)).do(sleep)


def account(repository: str, kind: Kind) -> str:
    """Whose token would be used, good for a look before long work. Raises ValueError and HubError as `push`."""
    with _quiet():
        return HubRepository(repository, kind, _client()).account()


def page_of(repository: str, kind: Kind) -> str:
    """A repository's address for people; nothing is asked."""
    return HubRepository(repository, kind, _client()).page


def preview(upload: Upload, config: HubConfig, console: Console, *, client: HfApi | None = None) -> None:
    """Say what `push` would do; writes nothing anywhere, and for what everybody sees needs no token.

    Raises:
        ValueError, HubError: as `push`.
    """
    with _quiet():
        repository = _repository(upload, client)
        one = _Push(upload, config, console, repository)
        check_content(upload, one.digests)
        plan, there = one.plan(), one.there
        if not there.exists:
            state = "would be created" if repository.has_token else "not there, or hidden from those without a token"
        else:
            state = "private" if there.is_private else "public"
            state += "" if there.head is not None else ", this branch would be created"
        console.say(f"{repository}, branch {config.branch}: {state}")
        for line in plan.lines():
            console.say(line)
        if config.tag is not None:
            console.say(f"then tagged {config.tag}")
        console.say("nothing was uploaded: leave out --dry-run to do it")


@dataclass
class _Push:
    """One upload. `there`: the branch when it was looked at last; `arrived`: files that were uploaded by now."""

    upload: Upload
    config: HubConfig
    console: Console
    repository: HubRepository
    there: Snapshot = field(default_factory=Snapshot)
    arrived: set[str] = field(default_factory=set)
    digests: Digests = field(init=False)

    def __post_init__(self) -> None:
        self.digests = Digests(self.upload.files)

    def do(self, sleep: Callable[[float], None]) -> Pushed:
        config, repository = self.config, self.repository
        account = repository.account()
        check_content(self.upload, self.digests)
        plan = self.plan()
        self.console.say(f"to {repository}, branch {config.branch}, as {account}")
        if not plan.is_done:
            with self.console.progress(plan.bytes, unit="bytes", label="uploaded") as progress:
                self._persist(lambda: self._bring(progress), sleep)
        head, tag = self.there.head, config.tag
        assert head is not None
        if tag is not None and self.there.tags.get(tag) != head:
            self._persist(lambda: repository.tag(tag, head), sleep)
        sent = sum(plan.sizes[name] for name in self.arrived)
        same = len(plan.names("same"))
        self.console.say(
            f"{len(self.arrived):,} files uploaded, {sent:,} bytes; {same:,} were there already"
            if not plan.is_done
            else "nothing to upload: all of it was there already"
        )
        name = tag or config.branch
        return Pushed(head, f"{repository.page}/tree/{name}", None if name == "main" else name, sent)

    def plan(self) -> Plan:
        """Look at the branch, and what is to be done about it. Raises ValueError where that may not be."""
        upload, tag = self.upload, self.config.tag
        self.there = there = self.repository.look(self.config.branch)
        if self.config.private and there.exists and not there.is_private:
            raise ValueError(
                f"{self.repository}: it is public, and --hub.private only makes new repositories private; make it "
                f"private first, at {self.repository.page}/settings, or push to another name"
            )
        marker = None
        if there.head is not None and upload.marker in there.files:
            marker = self.repository.read(upload.marker, there.head)
        plan = make_plan(upload, there, marker, self.digests)
        tagged = None if tag is None else there.tags.get(tag)
        if tagged is not None and not (plan.is_done and tagged == there.head):
            raise ValueError(
                f"{self.repository}: the tag {tag} exists, for commit {tagged[:12]}; give another --hub.tag"
            )
        return plan

    def _bring(self, progress: Progress) -> None:
        """Upload and commit what the repository lacks now."""
        branch = self.config.branch
        plan = self.plan()
        if not self.there.exists:
            self.repository.create(self.config.private)
            plan = self.plan()
        if self.there.head is None:
            self.repository.create_branch(branch)
            plan = self.plan()
        if plan.is_done:
            return
        self._send(plan, progress)
        plan = self.plan()
        if not plan.is_done:
            raise HubError(
                f"{self.repository}: {plan.names('new', 'changed', 'deleted')[0]}: not what was sent, though the "
                "commit was taken; does a .gitignore there name it, or does somebody else write to this branch?"
            )

    def _send(self, plan: Plan, progress: Progress) -> None:
        names, head = plan.names("new", "changed"), self.there.head
        last = [name for name in names if name in (self.upload.marker, CARD)]
        waiting: list[CommitOperationAdd] = []
        for group in [*_groups([name for name in names if name not in last], plan.sizes), last]:
            additions = [CommitOperationAdd(name, str(self.upload.files[name])) for name in group]
            self.repository.send(additions, self.config.branch)
            waiting += additions
            for name in set(group) - self.arrived:
                self.arrived.add(name)
                progress.advance(plan.sizes[name])
            if group is not last and not plan.replaces and len(waiting) >= _FILES_A_COMMIT:
                head = self.repository.commit(waiting, self.config.branch, self.upload.message, head)
                waiting = []
        gone = [CommitOperationDelete(name) for name in plan.names("deleted")]
        self.repository.commit([*waiting, *gone], self.config.branch, self.upload.message, head)

    def _persist(self, work: Callable[[], None], sleep: Callable[[float], None]) -> None:
        """Do it, and again after what may pass; a try that brought something counts as the first."""
        failures, before = 0, -1
        while True:
            try:
                return work()
            except HubError as error:
                failures = failures + 1 if len(self.arrived) == before else 1
                before = len(self.arrived)
                if not error.is_passing or failures > len(PAUSES):
                    raise
                pause = PAUSES[failures - 1]
                self.console.say(f"{str(error).partition(';')[0]}; trying again in {pause:.0f} s")
            sleep(pause)


def _groups(names: list[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    for name in names:
        full = len(group) == _FILES_AT_ONCE or sum(sizes[one] for one in group) + sizes[name] > _BYTES_AT_ONCE
        if group and full:
            yield group
            group = []
        group.append(name)
    if group:
        yield group


@contextmanager
def _quiet() -> Iterator[None]:
    """Without huggingface_hub's own bars, and without its warnings of retries, which show signed URLs."""
    had_bars, verbosity = not are_progress_bars_disabled(), logging.get_verbosity()
    disable_progress_bars()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            enable_progress_bars()


def _repository(upload: Upload, client: HfApi | None) -> HubRepository:
    return HubRepository(upload.repository, upload.kind, client or _client())


def _client() -> HfApi:
    return HfApi(library_name="sherd", library_version=version("sherd"))
