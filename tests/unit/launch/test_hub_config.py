"""launch/hub_config.py: how repositories, branches, tags and licences are spelled."""

import pytest

from launch.hub_config import HubConfig, check_license, check_repository


@pytest.mark.parametrize("name", ["user/name", "Org-1/vit_b.16", "u/n", "my_org/a-b.c_d"])
def test_names_of_repositories(name: str) -> None:
    check_repository(name)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("name", "a user or organization before it: user/name"),
        ("hf://datasets/user/name", "the name alone, without hf://"),
        ("https://huggingface.co/user/name", "the name alone, without https://"),
        ("user/na me", "letters, digits"),
        ("user/a--b", "letters, digits, single dashes"),
        ("user/a..b", "letters, digits"),
        ("user/name.git", "letters, digits"),
        ("user/.name", "letters, digits"),
        ("a/b/c", "letters, digits"),
        ("", "a user or organization"),
        (f"user/{'n' * 92}", "at most 96 letters"),
    ],
)
def test_what_is_no_name_of_a_repository(name: str, fix: str) -> None:
    with pytest.raises(
        ValueError, match=r"--push .*: not the name of a repository on the Hub; expected user/name"
    ) as error:
        check_repository(name)
    assert fix in str(error.value)


@pytest.mark.parametrize("name", ["v1.0", "release/2", "main"])
def test_branches_and_tags(name: str) -> None:
    assert HubConfig(revision=name, tag=name).branch == name
    assert HubConfig().branch == "main"


@pytest.mark.parametrize("name", ["", "a b", "-x", "a..b", "x.lock", "/x", "x/", "a~1", "ä"])
def test_what_git_would_not_take(name: str) -> None:
    with pytest.raises(ValueError, match=r"--hub.tag '.*': not the name of a branch or tag"):
        HubConfig(tag=name)
    with pytest.raises(ValueError, match=r"--hub.revision '.*': not the name of a branch or tag"):
        HubConfig(revision=name)


@pytest.mark.parametrize("name", ["0" * 40, "refs/pr/1"])
def test_a_commit_cannot_be_written_to(name: str) -> None:
    with pytest.raises(ValueError, match="expected the name of a branch"):
        HubConfig(revision=name)


def test_licences() -> None:
    for name in ("other", "cc-by-nc-4.0"):
        check_license(name)
    for name in ("CC-BY", "cc by", ""):
        with pytest.raises(ValueError, match=r"--license .* is not spelled as on the Hub"):
            check_license(name)
