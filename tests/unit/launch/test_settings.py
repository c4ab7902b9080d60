import resource
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from launch.settings import REQUIRED, Recipe, parse, parse_command, parse_options

DOC = """Pre-trains an encoder.

More about it: 10 % of something.
"""


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights move."""

    lr: float = 1e-3
    """Learning rate for 256 images."""
    weight_decay: float = 0.05
    nesterov: bool = False
    schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optimizer.lr must be above 0, got {self.lr}; give for example --optimizer.lr 1e-3")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    data: str
    """Folder or URL of the dataset."""
    out: str
    image_size: tuple[int, int] = (224, 224)
    patch: int = 16
    limit: int | None = None
    amp: bool = True
    mixture: dict[str, int] = field(default_factory=dict)
    optimizer: OptimizerConfig = OptimizerConfig()

    def __post_init__(self) -> None:
        if any(side % self.patch for side in self.image_size):
            raise ValueError(f"image_size {self.image_size} must be whole patches of {self.patch}")
        if self.data == self.out:
            raise ValueError(f"data and out are both {self.data}; give another --out")


RECIPES = {
    "vit-b16-in1k": Recipe(RunConfig(data=REQUIRED, out="runs/b"), "published: 83.6 % top-1 (He et al., 2022)"),
    "vit-ti8": Recipe(
        RunConfig(data=REQUIRED, out=REQUIRED, patch=8, mixture={"in1k": 1, "places": 2}),
        "measured: 61.2 % k-NN, 40 min",
    ),
}


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain/mae.py"])
    monkeypatch.delenv("RANK", raising=False)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(DOC, RECIPES, arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_overrides_on_a_recipe() -> None:
    words = "vit-ti8 --data D --out O --optimizer.lr 3e-4 --image-size 64 96 --limit 5 --no-amp --optimizer.nesterov"
    name, config = parse(DOC, RECIPES, [*words.split(), "--optimizer.weight_decay=0.1", "--mixture.places", "3"])
    assert name == "vit-ti8"
    assert config == RunConfig(
        data="D",
        out="O",
        image_size=(64, 96),
        patch=8,
        limit=5,
        amp=False,
        mixture={"in1k": 1, "places": 3},
        optimizer=OptimizerConfig(lr=3e-4, weight_decay=0.1, nesterov=True),
    )


def test_the_recipe_is_the_default_and_stays_as_it_was() -> None:
    before = RECIPES["vit-b16-in1k"].config
    _, config = parse(DOC, RECIPES, ["vit-b16-in1k", "--data", "D", "--mixture", "a", "1", "b", "2"])
    assert config == RunConfig(data="D", out="runs/b", mixture={"a": 1, "b": 2})
    assert RECIPES["vit-b16-in1k"].config is before
    assert before.data is REQUIRED


def test_arguments_default_to_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain/mae.py", "vit-b16-in1k", "--data", "D"])
    assert parse(DOC, RECIPES)[1].data == "D"


def test_help_lists_recipes_with_their_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["-h"], ["vit-ti8", "--help"], ["vit-ti8", "--data", "D", "--help"]):
        with pytest.raises(SystemExit) as stop:
            parse(DOC, RECIPES, arguments)
        assert not stop.value.code
        text = capsys.readouterr().out
        assert text.startswith("usage: pretrain/mae.py ")
        assert "More about it: 10 % of something." in text
        assert "  vit-b16-in1k  published: 83.6 % top-1 (He et al., 2022)\n" in text
        assert "  vit-ti8       measured: 61.2 % k-NN, 40 min\n" in text
        assert ("--optimizer.weight-decay" in text) == (arguments[0] == "vit-ti8")
    assert "Folder or URL of the dataset. (required)" in text
    assert "Options and values below are those of vit-ti8." in text


def test_unknown_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "vit-b16-in1") == (
        "pretrain/mae.py: unknown recipe 'vit-b16-in1'; did you mean vit-b16-in1k? Recipes: vit-b16-in1k, vit-ti8\n"
    )
    assert "unknown recipe 'zzz'. Recipes: vit-b16-in1k, vit-ti8\n" in refused(capsys, "zzz")
    assert "expected a recipe as the first argument. Recipes: vit-b16" in refused(capsys)
    assert "expected a recipe as the first argument, got --data. Recipes:" in refused(capsys, "--data", "D")


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--optimizer.wieght-decay", "--optimizer.weight-decay"),
        ("--optimizer.weight-deacy=0.1", "--optimizer.weight-decay"),
        ("--weight_decay", "--optimizer.weight-decay"),
        ("--lr", "--optimizer.lr"),
        ("--dta", "--data"),
        ("--optimizer.no-nestrov", "--optimizer.no-nesterov"),
    ],
)
def test_mistyped_option(capsys: pytest.CaptureFixture[str], option: str, meant: str) -> None:
    message = refused(capsys, "vit-b16-in1k", option, "0.1")
    given = option.partition("=")[0].replace("_", "-")
    assert message == (
        f"pretrain/mae.py vit-b16-in1k: unknown option {given}; did you mean {meant}? "
        "All options: pretrain/mae.py vit-b16-in1k --help\n"
    )


def test_option_unlike_any(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown option --qqqqq; All options: " in refused(capsys, "vit-b16-in1k", "--qqqqq")


def test_missing_bad_and_stray_values(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "vit-ti8")
    assert "--data STR" in message
    assert "--out STR" in message
    assert "--image-size" in refused(capsys, "vit-b16-in1k", "--data", "D", "--image-size", "224", "x")
    assert "'cosin'" in refused(capsys, "vit-b16-in1k", "--data", "D", "--optimizer.schedule", "cosin")
    assert "stray" in refused(capsys, "vit-b16-in1k", "--data", "D", "stray")


def test_a_config_that_refuses_itself_gives_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "vit-b16-in1k", "--data", "D", "--image-size", "224", "100") == (
        "pretrain/mae.py vit-b16-in1k: image_size (224, 100) must be whole patches of 16\n"
    )
    assert refused(capsys, "vit-b16-in1k", "--data", "D", "--optimizer.lr", "-1") == (
        "pretrain/mae.py vit-b16-in1k: optimizer.lr must be above 0, got -1.0; give for example --optimizer.lr 1e-3\n"
    )
    assert refused(capsys, "vit-ti8", "--data", "D", "--out", "D") == (
        "pretrain/mae.py vit-ti8: data and out are both D; give another --out\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["vit-b16-in1k"],
        ["vit-b16-in1k", "--data", "D", "--lr", "1"],
        ["vit-b16-in1k", "--data", "D", "--patch", "x"],
        ["vit-b16-in1k", "--data", "D", "--patch", "9"],
        ["vit-b16-in1k", "--data", "D", "--optimizer.lr", "-1"],
        ["--help"],
        ["vit-b16-in1k", "--help"],
    ],
)
def test_other_ranks_are_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as stop:
        parse(DOC, RECIPES, arguments)
    assert (stop.value.code or 0) == (0 if "--help" in arguments else 2)
    assert capsys.readouterr() == ("", "")


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    source: str
    out: str
    samples: int = 1000
    optimizer: OptimizerConfig = OptimizerConfig()


def test_options_without_a_recipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["data_pipeline/shard.py", "--source", "S", "--out", "D", "--optimizer.lr", "2"])
    assert parse_options(DOC, ShardConfig) == ShardConfig(source="S", out="D", optimizer=OptimizerConfig(lr=2.0))
    for arguments, message in [
        (["--suorce", "S"], "data_pipeline/shard.py: unknown option --suorce; did you mean --source? All options: "),
        (["--source", "S"], "--out STR"),
        (
            ["--source", "S", "--out", "D", "--optimizer.lr", "0"],
            "data_pipeline/shard.py: optimizer.lr must be above 0",
        ),
    ]:
        with pytest.raises(SystemExit) as stop:
            parse_options(DOC, ShardConfig, arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_options(DOC, ShardConfig, ["--help"])
    assert "10 % of something" in capsys.readouterr().out


@dataclass(frozen=True)
class VerifyConfig:
    """Read everything.

    Slowly.
    """

    data: str
    """Folder or URL of the dataset."""
    workers: int = 0


COMMANDS = {"verify": VerifyConfig, "shard": ShardConfig}


def test_a_command_has_options_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_command(DOC, COMMANDS, ["verify", "--data", "D"]) == ("verify", VerifyConfig("D"))
    monkeypatch.setattr(sys, "argv", ["survey.py", "shard", "--source", "S", "--out", "O", "--optimizer.lr", "2"])
    expected = ShardConfig(source="S", out="O", optimizer=OptimizerConfig(lr=2.0))
    assert parse_command(DOC, COMMANDS) == ("shard", expected)


def test_help_lists_commands_and_each_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_command(DOC, COMMANDS, ["--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    assert text.startswith("usage: pretrain/mae.py COMMAND ")
    assert "commands:\n  verify  Read everything.\n  shard " in text
    assert "pretrain/mae.py COMMAND --help" in text
    with pytest.raises(SystemExit) as stop:
        parse_command(DOC, COMMANDS, ["verify", "--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    assert text.startswith("usage: pretrain/mae.py verify ")
    assert "Slowly." in text
    assert "Folder or URL of the dataset. (required)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verfy", "--data", "D"], "unknown command 'verfy'; did you mean verify? Commands: verify, shard\n"),
        (["zzz"], "unknown command 'zzz'. Commands: verify, shard\n"),
        ([], "expected a command as the first argument. Commands: verify, shard\n"),
        (["--data", "D"], "expected a command as the first argument, got --data. Commands: verify, shard\n"),
    ],
)
def test_unknown_command(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_command(DOC, COMMANDS, arguments)
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", f"pretrain/mae.py: {message}")


def test_an_unknown_option_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_command(DOC, COMMANDS, ["verify", "--dtaa", "D"])
    assert stop.value.code == 2
    message = (
        "pretrain/mae.py verify: unknown option --dtaa; did you mean --data? All options: pretrain/mae.py verify --help"
    )
    assert capsys.readouterr().err == message + "\n"


@dataclass(frozen=True)
class UnionConfig:
    optimizer: OptimizerConfig | None = None


def test_unions_of_configs_are_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match=r"UnionConfig\.optimizer: tyro turns a union of dataclasses into"):
        parse_options(DOC, UnionConfig, [])


PROGRAM = '''
"""A program."""
from dataclasses import dataclass, field
from launch.settings import REQUIRED, Recipe, parse

@dataclass(frozen=True)
class Inner:
    lr: float = 1.0
    """Rate."""

@dataclass(frozen=True, kw_only=True)
class Outer:
    data: str
    inner: Inner = field(default_factory=Inner)

if __name__ == "__main__":
    parse(__doc__, {"a": Recipe(Outer(data=REQUIRED), "measured: nothing")})
'''


@pytest.mark.parametrize("arguments", [["--help"], ["a", "--help"]])
def test_help_is_quick(tmp_path: Path, arguments: list[str]) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time: what a busy machine makes of it is not the program's.
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert "measured: nothing" in done.stdout
    assert min(seconds) < 0.5


def test_no_heavy_import() -> None:
    modules = "atomic console environment lock processes run_folder settings strict_json"
    code = (
        "import sys\n"
        + "\n".join(f"import launch.{name}" for name in modules.split())
        + "\nheavy = {'torch', 'numpy', 'rich', 'tyro', 'data_pipeline', 'pretrain', 'finetune'} & set(sys.modules)"
        + "\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
