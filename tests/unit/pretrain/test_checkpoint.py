"""Checkpoints: whole or absent, verified, fitting."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pretrain import checkpoint as module
from pretrain.best_checkpoint import find_best, move_best
from pretrain.checkpoint import (
    find_checkpoint,
    go_back_to,
    is_ours,
    load_optimizer,
    load_weights,
    move_latest,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
)
from pretrain.config import OptimizerConfig
from pretrain.optimizer import create_optimizer
from pretrain.snapshot import Snapshot, optimizer_tensors, without_moments


def trained(width: int = 3, steps: int = 2) -> tuple[nn.Module, torch.optim.Optimizer]:
    generator = torch.Generator().manual_seed(width)
    model = nn.Sequential(nn.Linear(width, 4), nn.Linear(4, 2))
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    optimizer = create_optimizer(model, OptimizerConfig())
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    for _ in range(steps):
        model(torch.ones(5, width)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def save(folder: Path, step: int, keep: int = 3, every: int = 0, records: tuple[int, ...] = (), **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    model, optimizer = trained(**options)
    path = write(folder, model, optimizer, {"step": step, "stream": {"position": 8 * step}})
    move_latest(folder, path, keep, None, every=every, records=records)
    return path


def write(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Path:
    return save_checkpoint(folder, model.state_dict(), optimizer_tensors(optimizer), state, None)


def test_what_is_saved_comes_back_bit_for_bit_and_trains_on_alike(tmp_path: Path):
    checkpoint = read_checkpoint(save(tmp_path / "c", 7))
    assert checkpoint.step == 7
    assert checkpoint.state["stream"] == {"position": 56}
    (model, optimizer), (other, other_optimizer) = trained(), trained(steps=0)
    load_weights(checkpoint, other)
    load_optimizer(checkpoint, other_optimizer)
    for group in other_optimizer.param_groups:
        group["lr"] = 0.1
    for some, its_optimizer in ((model, optimizer), (other, other_optimizer)):
        some(torch.full((5, 3), 0.3)).square().mean().backward()
        its_optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_latest_moves_only_after_and_old_ones_go(tmp_path: Path):
    for step in (1, 2, 3, 4):
        save(tmp_path / "c", step, keep=2)
    names = sorted(path.name for path in (tmp_path / "c").iterdir())
    assert names == ["latest", "step-00000003", "step-00000004"]
    newest = newest_checkpoint(tmp_path / "c", print)
    assert newest is not None
    assert newest.step == 4


def test_every_nth_stays(tmp_path: Path):
    for step in range(2, 17, 2):
        save(tmp_path / "c", step, keep=1, every=6)
    names = sorted(path.name for path in (tmp_path / "c").glob("step-*"))
    assert names == ["step-00000006", "step-00000012", "step-00000016"]


def test_the_best_until_each_of_the_newest_stays(tmp_path: Path):
    folder = tmp_path / "c"
    for step in range(1, 10):
        save(folder, step, keep=2, records=tuple(record for record in (2, 3, 7) if record <= step))
    assert sorted(path.name[-1] for path in folder.glob("step-*")) == ["7", "8", "9"]
    save(tmp_path / "other", 1)
    for step in range(2, 8):
        save(tmp_path / "other", step, keep=2, records=(2, 3, 7))
    assert sorted(path.name[-1] for path in (tmp_path / "other").glob("step-*")) == ["3", "6", "7"]


def test_the_best_is_named_and_found(tmp_path: Path):
    folder = tmp_path / "checkpoints"
    assert find_best(folder) is None
    for step in (2, 4, 6):
        save(folder, step)
    guarded: list[None] = []
    for step in (2, 4, 4):
        assert move_best(folder, step, lambda: guarded.append(None))
        best = find_best(folder)
        assert best is not None
        assert best.step == step
    assert len(guarded) == 2  # what is right already is left alone
    assert not move_best(folder, 5, lambda: guarded.append(None))
    assert find_best(folder) is None
    assert len(guarded) == 3
    assert move_best(folder, None, None)


def test_the_best_that_is_damaged_is_an_error_and_not_another_one(tmp_path: Path):
    folder = tmp_path / "checkpoints"
    for step in (2, 4):
        save(folder, step)
    move_best(folder, 2, None)
    (folder / "step-00000002/state.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"step-00000002: state\.json differs .*best names it as the best .* restore it"
    ):
        find_best(folder)


def test_going_back(tmp_path: Path):
    folder = tmp_path / "c"
    for step in (2, 4, 6):
        save(folder, step)
    assert newest_checkpoint(folder, print, before=2) is None
    (folder / "step-00000004/state.json").write_text("{}")
    said: list[str] = []
    earlier = newest_checkpoint(folder, said.append, before=6)
    assert earlier is not None
    assert earlier.step == 2
    assert "step-00000004: state.json differs from its checksum; going on from step-00000002" in said[0]
    go_back_to(folder, earlier, None)
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-00000002"]
    newest = newest_checkpoint(folder, print)
    assert newest is not None
    assert newest.step == 2


def test_one_that_latest_does_not_name_yet_is_not_used_and_is_written_anew(tmp_path: Path):
    folder = tmp_path / "c"
    save(folder, 3)
    model, optimizer = trained()
    write(folder, model, optimizer, {"step": 5})  # killed before `latest` moved
    newest = newest_checkpoint(folder, print)
    assert newest is not None
    assert newest.step == 3
    assert read_checkpoint(save(folder, 5)).step == 5


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "checksums.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_one_is_passed_over_with_a_warning(tmp_path: Path, name: str, damage: str):
    save(tmp_path / "c", 1)
    path = save(tmp_path / "c", 2) / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    said: list[str] = []
    newest = newest_checkpoint(tmp_path / "c", said.append)
    assert newest is not None
    assert newest.step == 1
    assert len(said) == 1
    assert "step-00000002" in said[0]
    assert "going on from step-00000001" in said[0]


def test_no_whole_one_is_an_error_and_none_at_all_is_not(tmp_path: Path):
    assert newest_checkpoint(tmp_path, print) is None
    (save(tmp_path / "c", 1) / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no whole checkpoint \(.*state\.json differs from its checksum.*restore"):
        newest_checkpoint(tmp_path / "c", print)


def test_one_that_does_not_fit_lists_names_and_shapes(tmp_path: Path):
    checkpoint = read_checkpoint(save(tmp_path / "c", 1))
    model, _ = trained(width=6)
    with pytest.raises(ValueError, match=r"of another shape 0\.weight \[4, 3\] instead of \[4, 6\]; give the options"):
        load_weights(checkpoint, model)
    with pytest.raises(ValueError, match=r"missing 2\.bias, 2\.weight; not expected none"):
        load_weights(checkpoint, nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2)))
    longer = create_optimizer(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2)), OptimizerConfig())
    with pytest.raises(ValueError, match=r"state of other parameters: unknown none; missing 2\.weight, 2\.bias"):
        load_optimizer(checkpoint, longer)


def test_parameters_that_had_no_state_need_none_and_others_do(tmp_path: Path):
    """As those of torch's SGD before its first step have none, and those of AdamW that never had a gradient."""
    both = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2)])
    longer = create_optimizer(both, OptimizerConfig())
    both[1](both[0](torch.ones(5, 3))).sum().backward()
    longer.step()
    assert without_moments(longer) == ["2.weight", "2.bias"]
    assert without_moments(trained()[1]) == []
    state = {"step": 1, "without_moments": without_moments(longer)}
    checkpoint = read_checkpoint(write(tmp_path, both, longer, state))
    again = create_optimizer(both, OptimizerConfig())
    load_optimizer(checkpoint, again)
    assert without_moments(again) == ["2.weight", "2.bias"]
    for full, tensor in optimizer_tensors(again).items():
        assert torch.equal(tensor, optimizer_tensors(longer)[full]), full
    wider = nn.ModuleList([*both, nn.Linear(2, 2)])
    with pytest.raises(ValueError, match=r"state of other parameters: unknown none; missing 3\.weight, 3\.bias"):
        load_optimizer(checkpoint, create_optimizer(wider, OptimizerConfig()))


def test_the_state_of_another_algorithm_is_refused_and_lambs_is_adamws(tmp_path: Path):
    model, optimizer = trained()
    checkpoint = read_checkpoint(write(tmp_path, model, optimizer, {"step": 2}))
    load_optimizer(checkpoint, create_optimizer(model, OptimizerConfig(algorithm="lamb")))
    sgd = create_optimizer(model, OptimizerConfig(algorithm="sgd"))
    kept = "of exp_avg, exp_avg_sq, step, where SGD keeps momentum_buffer; give the --optimizer.algorithm of the run"
    with pytest.raises(ValueError, match=f"optimizer.safetensors: the state of another algorithm, {kept}"):
        load_optimizer(checkpoint, sgd)
    (tmp_path / "sgd").mkdir()
    checkpoint = read_checkpoint(write(tmp_path / "sgd", model, sgd, {"step": 2}))
    with pytest.raises(ValueError, match="of momentum_buffer, where AdamW keeps exp_avg, exp_avg_sq, step; give the"):
        load_optimizer(checkpoint, trained(steps=0)[1])
    load_optimizer(checkpoint, create_optimizer(model, OptimizerConfig(algorithm="sgd")))


def test_a_copy_forgets_what_is_no_more():
    """A run that goes back to before an optimizer's first step has no state of it any more."""
    model, optimizer = trained()
    snapshot = Snapshot(keeps=True)
    snapshot.take(model, optimizer)
    assert snapshot.moments.keys() == optimizer_tensors(optimizer).keys()
    optimizer.state.clear()
    snapshot.take(model, optimizer)
    assert snapshot.moments == {}


def test_a_disk_that_fills_up_leaves_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path / "c", 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match=r"step-00000002.*disk is full"):
        save(tmp_path / "c", 2)
    monkeypatch.undo()
    newest = newest_checkpoint(tmp_path / "c", print)
    assert newest is not None
    assert newest.step == 1
    assert not [path for path in (tmp_path / "c").iterdir() if path.name.startswith(".partial")]


def test_a_path_that_holds_none_names_the_option(tmp_path: Path):
    path = save(tmp_path / "run" / "checkpoints", 1) if (tmp_path / "run").mkdir() is None else tmp_path
    assert find_checkpoint(str(path), "--resume", print).step == 1
    assert find_checkpoint(str(tmp_path / "run"), "--resume", print).step == 1
    with pytest.raises(ValueError, match=r"--resume .*: expected a checkpoint folder .* found no such folder"):
        find_checkpoint(str(tmp_path / "none"), "--resume", print)
    with pytest.raises(ValueError, match=r"--init-from .*found a folder without either"):
        find_checkpoint(str(tmp_path), "--init-from", print)


def test_weights_of_others_are_told_from_ours(tmp_path: Path):
    path = save(tmp_path / "run" / "checkpoints", 1) if (tmp_path / "run").mkdir() is None else tmp_path
    assert is_ours(str(path))
    assert is_ours(str(tmp_path / "run"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    assert not is_ours(str(tmp_path / "model"))
    assert not is_ours(str(tmp_path / "weights.pth"))


def test_the_weights_of_a_part(tmp_path: Path):
    checkpoint = read_checkpoint(save(tmp_path / "c", 7))
    model, _ = trained()
    first = nn.Linear(3, 4)
    load_weights(checkpoint, first, within="0.")
    assert torch.equal(first.weight, model.get_parameter("0.weight"))
    with pytest.raises(ValueError, match=r"of another shape .*weight \[2, 4\] instead of \[4, 3\]"):
        load_weights(checkpoint, nn.Linear(3, 4), within="1.")
