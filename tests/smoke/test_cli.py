"""The command, as a user types it: exit codes, one clear line, nothing half-written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ddistill.cli import app
from ddistill.networks import NETWORKS

TINY = [
    *("--set", "network.width=8", "--set", "budget.outer_steps=2", "--set", "budget.speedup=1"),
    *("--set", "method.inner_steps=2", "--set", "method.network_samples=32", "--set", "method.real_batch=8"),
    *("--set", "model_augmentation.pool_size=2", "--set", "model_augmentation.pool_epochs=1"),
    *("--set", "evaluation.epochs=3", "--set", "evaluation.repeats=2", "--device", "cpu"),
]


def ddistill(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ddistill", *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, auto_precision) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    words = ["distill", "digits", "--ipc", "2", "--out", "run", *TINY]
    result = ddistill(*words, cwd=folder, DDISTILL_CACHE=str(folder / "cache"))
    assert result.returncode == 0, result.stderr
    assert "random real images" in result.stdout
    return folder / "run"


def test_a_run_goes_on_by_its_folder_alone(finished):
    runner = CliRunner()
    result = runner.invoke(app, ["distill", "--out", str(finished), "--resume"])
    assert result.exit_code == 0, result.output
    result = runner.invoke(app, ["distill", "--out", str(finished), "--resume", "--seed", "1"])
    assert result.exit_code == 2
    assert "it differs in: run.seed" in " ".join(result.output.split())


def test_a_folder_without_a_run_is_not_gone_on_with(tmp_path):
    for how in ("--resume", "--extend"):
        result = CliRunner().invoke(app, ["distill", "--out", str(tmp_path / "nothing"), how])
        assert result.exit_code == 2
        assert f"there is no run in '{tmp_path}" in result.output.replace("\n", "")
        assert "name its data" in " ".join(result.output.split())


def test_a_run_leaves_its_files(finished):
    files = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert {
        "recipe.yaml",
        "log.jsonl",
        "summary.json",
        "distilled/stored.safetensors",
        "distilled/synthetic.json",
        "distilled/README.md",
        "pictures/step-000000.png",
        "pictures/step-000002.png",
    } <= files
    assert len([name for name in files if name.startswith("distilled/data/train-")]) == 1
    assert not [name for name in files if Path(name).name.startswith(".")]


def test_the_summary_keeps_its_contract(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert {
        "recipe",
        "method",
        "data",
        "ipc",
        "stored_images",
        "decoded_images",
        "accuracy",
        "baselines",
        "outer_steps",
        "seconds",
        "flops",
        "peak_memory_bytes",
        "seed",
        "versions",
    } <= set(summary)
    assert set(summary["accuracy"]) == {"mean", "std", "runs"}
    assert len(summary["accuracy"]["runs"]) == 2
    assert set(summary["baselines"]["random"]) >= {"mean", "std", "runs"}
    assert set(summary["seconds"]) == {"pool", "distill", "evaluate"}
    assert set(summary["flops"]) == {"pool", "distill"}
    assert summary["stored_images"] == 20
    assert summary["outer_steps"] == 2
    assert summary["flops"]["pool"] > 0


def test_evaluate_repeats_the_protocol_of_the_artifact(finished):
    result = ddistill("evaluate", str(finished), "--repeats", "2", "--device", "cpu", cwd=finished)
    assert result.returncode == 0, result.stderr
    summary = json.loads((finished / "summary.json").read_text())
    assert f"{summary['accuracy']['mean']:.1f}" in result.stdout


def test_evaluate_puts_several_networks_into_one_table(finished):
    result = ddistill(
        *("evaluate", str(finished / "distilled"), "--network", "resnet10,norm=batch,width=0.1", "--network", "mlp"),
        *("--repeats", "1", "--epochs", "1"),
        cwd=finished,
    )
    assert result.returncode == 0, result.stderr
    for network in ("resnet10,norm=batch,width=0.1", "mlp"):
        assert network in result.stdout


def test_a_network_that_fails_does_not_take_the_others_results_with_it(finished, monkeypatch):
    def failing(num_classes, channels, size):
        class Failing(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(size * size, num_classes)

            def forward(self, x):
                if self.training:
                    raise RuntimeError("no such operation")
                return self.layer(x.flatten(1))

        return Failing()

    monkeypatch.setitem(NETWORKS, "failing", failing)
    words = ["evaluate", str(finished), "--repeats", "1", "--epochs", "1"]
    several = ["--network", "failing", "--network", "mlp"]
    result = CliRunner().invoke(app, [*words, *several])
    assert result.exit_code == 1
    assert re.search(r"mlp\s.*\d+\.\d", result.stdout)
    assert "not evaluated: failing (RuntimeError: no such operation)" in result.stderr
    for name in set(NETWORKS) - {"convnet", "mlp", "failing"}:
        monkeypatch.delitem(NETWORKS, name)
    assert CliRunner().invoke(app, [*words, "--network", "all"]).exit_code == 1
    both = CliRunner().invoke(app, [*words, "--network", "all", "--network", "mlp,width=8"])
    assert len(re.findall(r"mlp\S*\s.*\d+\.\d", both.stdout)) == 2
    assert CliRunner().invoke(app, [*words, "--seed", "-1"]).exit_code == 2
    assert CliRunner().invoke(app, [*words, "--protocol", "all", "--protocol", "nonsense"]).exit_code == 2


def test_the_command_lets_threads_wait_passively_unless_the_user_chose():
    code = "import os, ddistill.cli as cli; cli.app = lambda: print(os.environ.get('OMP_WAIT_POLICY')); cli.main()"
    for chosen, expected in (
        ({}, "passive"),
        ({"OMP_WAIT_POLICY": "active"}, "active"),
        ({"GOMP_SPINCOUNT": "9"}, "None"),
    ):
        names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
        environment = {name: value for name, value in os.environ.items() if name not in names} | chosen
        words = [sys.executable, "-c", code]
        shown = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
        assert shown.strip() == expected


def test_evaluate_refuses_a_network_before_it_trains_another(finished):
    words = ["evaluate", str(finished / "distilled"), "--network", "mlp", "--network"]
    for network, message in (("resnet_ap", "at least 16 px, got 8"), ("resnet19", "did you mean resnet18")):
        result = ddistill(*words, network, cwd=finished)
        assert result.returncode == 2
        assert message in result.stderr
        assert "%" not in result.stderr


def test_the_recipe_in_the_run_repeats_it_to_the_bit(finished, tmp_path):
    result = ddistill("distill", "--recipe", str(finished / "recipe.yaml"), "--out", "again", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    stored = [folder / "distilled" / "stored.safetensors" for folder in (finished, tmp_path / "again")]
    assert stored[0].read_bytes() == stored[1].read_bytes()


def test_pretrain_finds_the_pool_that_a_run_trained(finished, tmp_path):
    cache = str(finished.parent / "cache")
    result = ddistill("pretrain", "digits", *TINY, cwd=tmp_path, DDISTILL_CACHE=cache)
    assert result.returncode == 0, result.stderr
    assert "found 2 networks" in result.stdout


def test_recipes_are_listed_and_shown(tmp_path):
    listed = ddistill("recipes", cwd=tmp_path)
    assert listed.returncode == 0
    assert "idc-ma-cifar10" in listed.stdout
    shown = ddistill("recipes", "idc-imagenet-10", "--ipc", "20", cwd=tmp_path)
    assert "decode: bound" in shown.stdout


MISTAKES = {
    "recipe": (["distill", "digits", "--recipe", "idx"], ["'idx'", "idc"]),
    "recipe file": (["distill", "--recipe", "no.yaml"], ["no.yaml"]),
    "field": (["distill", "digits", "--set", "synthetic.ipcc=3"], ["synthetic.ipcc", "synthetic.ipc"]),
    "no value": (["distill", "digits", "--set", "synthetic.ipc"], ["FIELD=VALUE"]),
    "illegal value": (["distill", "digits", "--set", "method.distance=l3"], ["'l3'", "cosine"]),
    "not a number": (["distill", "digits", "--set", "method.image_lr=fast"], ["method.image_lr", "'fast'"]),
    "infinite": (["distill", "digits", "--set", "method.image_lr=.inf"], ["method.image_lr", "finite"]),
    "network": (["distill", "digits", "--set", "network.name=convnot"], ["'convnot'", "convnet"]),
    "networks": (["distill", "digits", "--networks", "pond"], ["'pond'", "pool"]),
    "a network without convolutions": (
        ["distill", "digits", "--set", "network.name=mlp"],
        ["'mlp'", "idc", "four dimensions", "method.distance=cosine"],
    ),
    "a network that is not differentiated twice": (
        ["distill", "digits", "--set", "network.name=vit", "--set", "synthetic.factor=1"],
        ["'vit'", "idc", "derivative"],
    ),
    "an option that another network has": (
        ["distill", "digits", "--recipe", "dc", "--set", "network.name=mlp", "--set", "network.depth=2"],
        ["'mlp'", "network.depth", "it takes network.width"],
    ),
    "data": (["distill", "digitz"], ["'digitz'", "digits"]),
    "data path": (["distill", "./nowhere"], ["./nowhere"]),
    "ipc 0": (["distill", "digits", "--ipc", "0"], ["ipc", "at least 1", "0"]),
    "ipc too large": (["distill", "digits", "--ipc", "900"], ["ipc 900", "at most", "synthetic.init=noise"]),
    "cells": (["distill", "digits", "--set", "synthetic.factor=5"], ["synthetic.factor", "1 px", "at most 4"]),
    "depth": (["distill", "digits", "--set", "network.depth=3"], ["network.depth 3", "network.depth=2"]),
    "device": (["distill", "digits", "--device", "gpu"], ["'gpu'", "cuda"]),
    "seed": (["distill", "digits", "--seed", "-1"], ["run.seed", "-1"]),
    "artifact": (["evaluate", "."], ["no distilled set"]),
    "recipe name": (["recipes", "idc-cifar11"], ["idc-cifar11", "idc-cifar10"]),
    "option": (["distill", "digits", "--ipcs", "3"], ["--ipc"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_a_clear_line_and_exit_code_2(mistake, tmp_path, monkeypatch):
    words, expected = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.stderr
    assert "Traceback" not in result.stderr
    for part in expected:
        assert part in result.stderr
    if mistake != "option":
        assert result.stderr.startswith("ddistill: ")
        assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_not_overwritten(finished):
    before = (finished / "summary.json").read_bytes()
    result = ddistill("distill", "digits", "--out", str(finished), *TINY, cwd=finished)
    assert result.returncode == 2
    assert "--resume" in result.stderr
    assert (finished / "summary.json").read_bytes() == before


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    result = ddistill("distill", "digits", "--out", ".", cwd=tmp_path)
    assert result.returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_resuming_under_another_recipe_names_the_fields(finished):
    result = ddistill(
        "distill", "digits", "--ipc", "2", "--out", str(finished), "--resume", *TINY, "--seed", "5", cwd=finished
    )
    assert result.returncode == 2
    assert "run.seed" in result.stderr


def test_a_mistake_in_a_real_process_prints_one_line_and_writes_nothing(tmp_path):
    result = ddistill("distill", "digits", "--ipc", "900", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("ddistill: ipc 900")
    assert list(tmp_path.iterdir()) == []


def test_a_traceback_is_shown_only_with_debug(tmp_path):
    assert "Traceback" in ddistill("distill", "digits", "--ipc", "0", "--debug", cwd=tmp_path).stderr


def test_an_interrupt_saves_the_state_and_says_how_to_go_on(tmp_path):
    words = ["distill", "digits", "--ipc", "2", "--out", "run", *TINY, "--set", "budget.outer_steps=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ddistill", *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "run" / "log.jsonl"
    for _ in range(1200):
        if log.exists() and '"outer step"' in log.read_text():
            break
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert list((tmp_path / "run" / "checkpoint").glob("step-*.safetensors"))


def test_importing_the_package_reads_no_arguments_and_touches_no_device():
    code = (
        "import sys; sys.argv = ['x', '--nonsense']\n"
        "import ddistill, torch\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert 'datasets' not in sys.modules and 'sklearn' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("recipe", ["idc-ma", "dc", "dm", "cafe", "tm", "herding"])
def test_a_plan_predicts_the_work_of_a_run_and_writes_nothing(recipe, tmp_path, monkeypatch):
    from ddistill import api

    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path / "cache"))
    changes = {"network.width": 8, "evaluation.epochs": 4, "evaluation.repeats": 1}
    changes |= {"model_augmentation.pool_size": 2} if recipe in ("idc-ma", "tm") else {}
    changes |= {"method.real_batch": 8, "budget.outer_steps": 2} if recipe in ("idc-ma", "dc", "dm", "cafe") else {}
    changes |= {"method.max_inner_steps": 3} if recipe == "cafe" else {}
    changes |= {"budget.speedup": 1, "method.inner_steps": 6} if recipe == "idc-ma" else {}
    plan = api.plan("digits", recipe, changes=changes)
    run = api.distill("digits", recipe, changes=changes)
    assert plan.outer_steps == run.summary["outer_steps"]
    for phase, flops in run.summary["flops"].items():
        # the outer steps of CAFE differ in length
        assert plan.flops[phase] == (pytest.approx(flops) if recipe != "cafe" else pytest.approx(flops, rel=0.5))
    assert all((plan.seconds[phase] > 0) == (seconds > 0) for phase, seconds in run.summary["seconds"].items())
    assert plan.peak_memory_bytes > 0


def test_the_plan_is_shown(tmp_path):
    words = ["plan", "digits", *TINY, "--ipc", "2", "--devices", "1,8"]
    result = ddistill(*words, cwd=tmp_path, DDISTILL_CACHE=str(tmp_path / "cache"))
    assert result.returncode == 0, result.stderr
    for part in ("pool or experts", "distillation", "evaluation", "2 outer steps on cpu", "GiB", "On paper"):
        assert part in result.stdout
    assert [line.split()[1:4:2] for line in result.stdout.splitlines() if " MiB per outer step" in line] == [
        [classes, devices] for classes in ("10", "100", "1000") for devices in ("1", "8")
    ]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--devices", "1,x"], "takes whole numbers from 1"),
        (["--devices", "0"], "takes whole numbers from 1"),
        (["--recipe", "random", "--devices", "2"], "method random is not planned for several devices"),
    ],
)
def test_devices_that_cannot_be_planned_are_refused(words, reason):
    small = ["--set", "network.width=8", "--set", "evaluation.epochs=1", "--set", "evaluation.repeats=1"]
    result = CliRunner().invoke(app, ["plan", "digits", *words, *small, "--device", "cpu"])
    assert result.exit_code == 2
    assert reason in result.stderr


@pytest.mark.parametrize("ipc", [("--ipc", "10"), ("--set", "synthetic.ipc=10")])
def test_plan_takes_the_settings_of_the_ipc_that_a_run_would(ipc):
    small = ["--set", "network.width=8", "--set", "evaluation.epochs=1", "--set", "evaluation.repeats=1"]
    result = CliRunner().invoke(app, ["plan", "digits", "--recipe", "dc", *ipc, *small, "--device", "cpu"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("40 outer steps")
