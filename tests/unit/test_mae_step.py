"""The comparison of training steps: its arithmetic, its checks, and that all contenders train the same model."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import mae_step_tables
from mae_step import Options, settings
from mae_step_contenders import BASE, CONTENDERS, Setting, autoencoder, set_up
from mae_step_memory import peak_memory
from mae_step_rounds import DisagreementError, check_losses

RESULT = {
    "model": "vit_base_patch16_224",
    "precision": "fp32",
    "batch": 16,
    "device": "cpu",
    "threads": 2,
    "steps": 2,
    "losses": {"fp32": {"transformers": 1.9, "sherd": 1.9}},
    "flops_an_image": 50_000_000_000,
    "matrix_rate": 200e9,
    "rounds": [
        {"transformers": 6.0, "sherd": 5.0},
        {"sherd": 4.0, "transformers": 5.0},
        {"transformers": 10.0, "sherd": 8.0},
    ],
    "memory": {"transformers": 2_500_000_000, "sherd": None},
}


def test_ratios_are_of_steps_in_the_same_round():
    assert mae_step_tables.ratios(RESULT, "sherd") == pytest.approx([1.2, 1.25, 1.25])
    assert mae_step_tables.ratios(RESULT, BASE) == [1, 1, 1]


def test_utilisation_is_what_an_image_needs_over_what_the_hardware_reaches():
    # 16 images of 50 GFLOP at 200 GFLOP/s take 4 s.
    assert mae_step_tables.utilisations(RESULT, "sherd") == pytest.approx([0.8, 1.0, 0.5])


def test_the_table_says_what_was_measured():
    lines = mae_step_tables.measured_table(RESULT).splitlines()
    assert lines[0] == (
        "vit_base_patch16_224 at 224, batches of 16, fp32, cpu with 2 threads; 3 rounds of 2 steps, medians (least to "
        "greatest)"
    )
    assert lines[1].startswith("MFU: of 0.2 TFLOP/s that large matrices reach here, for the 50.0 GFLOP that an image")
    assert lines[3].split() == [
        "Transformers",
        "6,000.0",
        "2.7",
        "1.00",
        "(1.00",
        "to",
        "1.00)",
        "67%",
        "2.50",
        "1.90000",
    ]
    assert lines[4].split() == ["sherd", "5,000.0", "3.2", "1.25", "(1.20", "to", "1.25)", "80%", "-", "1.90000"]
    assert len(lines) == 5


def test_the_median_ratio_decides_whether_a_target_is_met():
    (row,) = mae_step_tables.target_rows([RESULT])
    assert (row["contender"], row["bound"], row["measured"], row["met"], row["noisy"]) == (
        "sherd",
        1.15,
        pytest.approx(1.25),
        True,
        False,
    )
    line = mae_step_tables.target_table([RESULT]).splitlines()[-1]
    assert line.endswith("at least 1.15 times Transformers  1.25 (1.20 to 1.25)  met")
    slower = {**RESULT, "rounds": [{"transformers": 5.0, "sherd": 5.0}, {"transformers": 5.0, "sherd": 2.5}] * 2}
    slower["rounds"] += [{"transformers": 5.0, "sherd": 5.0}]
    assert mae_step_tables.target_table([slower]).endswith(
        "1.00 (1.00 to 2.00)  NOT MET, but rounds differ too much to tell: measure on a quiet machine"
    )
    assert mae_step_tables.target_table([{**RESULT, "batch": 16, "model": "vit_tiny_patch16_224"}]) == ""


def test_a_target_of_the_hardware_is_about_its_share():
    large = {**RESULT, "device": "cuda", "model": "vit_large_patch16_224", "precision": "bf16"}
    large["rounds"] = [{"transformers": 16.0, "sherd-compiled": 7.0}]
    faster, share = mae_step_tables.target_rows([large])
    assert (faster["mfu"], faster["measured"], faster["met"]) == (False, pytest.approx(16 / 7), True)
    assert (share["mfu"], share["measured"], share["met"]) == (True, pytest.approx(4 / 7), True)


def test_targets_name_contenders():
    assert {target.contender for target in mae_step_tables.TARGETS} <= {contender.name for contender in CONTENDERS}


def test_what_is_measured_fits_the_device():
    assert settings(Options(), "cpu") == [
        Setting("vit_base_patch16_224", precision, 16, "cpu", 2) for precision in ("fp32", "bf16")
    ]
    assert [(one.model, one.precision, one.batch) for one in settings(Options(), "cuda")] == [
        ("vit_base_patch16_224", "bf16", 256),
        ("vit_large_patch16_224", "bf16", 256),
    ]
    assert settings(Options(models=("x",), precision=("fp32",), batch=3, threads=1), "cpu") == [
        Setting("x", "fp32", 3, "cpu", 1)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ("sherd", "timm")}, "^--only timm: expected some of transformers sherd sherd-compiled"),
        ({"device": "tpu"}, "^--device is tpu, expected cpu or cuda$"),
        ({"rounds": 0}, "^--rounds is 0, expected at least 1$"),
        ({"batch": -1}, "^--batch is -1, expected at least 0$"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_a_model_that_does_not_say_its_patch_is_refused():
    with pytest.raises(
        ValueError,
        match=r"^--models resnet18: expected a timm name that says the patch size, such as vit_base_patch16_224$",
    ):
        autoencoder("resnet18", 224)


def test_losses_that_differ_by_more_than_rounding_stop_it():
    check_losses({"sherd": 1.0, "transformers": 1.00009}, 1.0, "fp32")
    check_losses({"sherd": 1.019}, 1.0, "bf16")
    for losses, precision in (
        ({"sherd": 1.0002}, "fp32"),
        ({"sherd": 0.97}, "bf16"),
        ({"sherd": float("nan")}, "bf16"),
    ):
        with pytest.raises(
            DisagreementError, match=f"^sherd has a loss of .* in {precision}, expected 1, that of transf"
        ):
            check_losses(losses, 1.0, precision)


def test_both_train_the_same_model():
    """From the same weights the same losses, before and after steps of the optimizer on the same parameters."""
    pytest.importorskip("transformers", minversion="5.0")
    setting = Setting("vit_tiny_patch16_224", "fp32", 2, "cpu", 1)
    ours, theirs = (set_up(name, setting, size=64) for name in ("sherd", BASE))
    assert ours.reference() == pytest.approx(theirs.reference(), rel=1e-5)
    for _ in range(3):
        loss, their_loss = ours.step(), theirs.step()
        assert not loss.requires_grad
        torch.testing.assert_close(loss, their_loss, rtol=1e-4, atol=0)
    assert len(ours.trained) < len(theirs.trained)  # theirs has queries, keys and values apart
    assert sum(one.numel() for one in ours.trained) == sum(one.numel() for one in theirs.trained)


def test_peak_memory_is_that_of_a_step():
    """In a process that does nothing else: gradients at least, and what little one image adds."""
    setting = Setting("vit_tiny_patch16_224", "fp32", 1, "cpu", 1)
    gradients = sum(4 * one.numel() for one in autoencoder(setting.model, 224).parameters() if one.requires_grad)
    found = peak_memory("sherd", setting)
    assert found is not None
    assert gradients < found < 2 * gradients
