"""Single faults, each made by hand: what a careful engineer would expect is what happens."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from recorded import captured_on_cpu, without_kernels
from typer.testing import CliRunner

from ddistill import api
from ddistill.cli import app
from ddistill.cli.common import slug
from ddistill.data import load_data
from ddistill.engine import Observer, check_folder, distill_data
from ddistill.methods.coresets import Coreset
from ddistill.methods.gradient_matching import GradientMatching
from ddistill.methods.paths import Paths
from ddistill.recipe import Recipe, signed
from ddistill.recipes import find
from ddistill.runtime.errors import RunError, UserError
from ddistill.runtime.storage import append_line, read_checked_json, write_checked_json
from ddistill.synthetic import import_pt, load_synthetic
from ddistill.terminal import plain
from ddistill.training.side_by_side import SideBySide

TINY = {
    "network.depth": 2,
    "network.width": 8,
    "synthetic.factor": 1,
    "method.inner_steps": 1,
    "method.real_batch": 8,
    "method.network_samples": 16,
    "method.base_side": 8,
    "training.batch": 64,
    "model_augmentation.networks": "pool",
    "model_augmentation.pool_size": 2,
    "model_augmentation.pool_epochs": 3,
    "evaluation.epochs": 4,
    "evaluation.repeats": 2,
    "evaluation.baselines": (),
    "budget.outer_steps": 3,
    "run.compile": "off",
}
RECIPE = Recipe().changed(TINY)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DDISTILL_KERNELS", "off")


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("DDISTILL_KERNELS", "off")
        return distill_data(digits, RECIPE)


class At(Observer):
    """Does something when a phase has got so far; remembers what it was told."""

    def __init__(self, phase="", at=0, then=lambda: None):
        self.phase, self.at, self.then, self.notes, self.seen = phase, at, then, [], []

    def progress(self, phase, done, total, **figures):
        self.seen.append((phase, done))
        if (phase, done) == (self.phase, self.at):
            self.then()

    def note(self, text):
        self.notes.append(text)


class StopAt(At):
    """Asks to stop from then on."""

    def stopping(self):
        return (self.phase, self.at) in self.seen


def assert_same(run, whole):
    assert torch.equal(run.synthetic.images, whole.synthetic.images)
    assert run.summary["accuracy"] == whole.summary["accuracy"]


@pytest.mark.parametrize(("phase", "at", "left"), [("pool", 2, [3, 4, 5, 6]), ("evaluate", 6, [7, 8])])
def test_a_training_goes_on_from_its_last_epoch(digits, whole, tmp_path, phase, at, left):
    with pytest.raises(KeyboardInterrupt):
        distill_data(digits, RECIPE, out=tmp_path / "run", observer=StopAt(phase, at))
    observer = At()
    run = distill_data(digits, RECIPE, out=tmp_path / "run", resume=True, observer=observer)
    assert_same(run, whole)
    assert [done for seen, done in observer.seen if seen == phase] == left
    assert not list(tmp_path.rglob("in-progress*"))
    assert not (tmp_path / "run" / "checkpoint" / "evaluation.safetensors").exists()


def test_a_state_in_progress_that_is_damaged_is_made_anew(digits, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        distill_data(digits, RECIPE, out=tmp_path / "run", observer=StopAt("evaluate", 6))
    kept = tmp_path / "run" / "checkpoint" / "evaluation.safetensors"
    content = bytearray(kept.read_bytes())
    content[-3] ^= 4
    kept.write_bytes(content)
    observer = At()
    assert_same(distill_data(digits, RECIPE, out=tmp_path / "run", resume=True, observer=observer), whole)
    assert [done for seen, done in observer.seen if seen == "evaluate"] == [5, 6, 7, 8]


def test_a_run_that_is_asked_to_stop_ends_after_the_outer_step(digits, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        distill_data(digits, RECIPE, out=tmp_path / "run", observer=StopAt("distill", 2))
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoint").glob("*.safetensors"))
    assert kept == ["step-00000002.safetensors"]
    observer = At()
    assert_same(distill_data(digits, RECIPE, out=tmp_path / "run", resume=True, observer=observer), whole)
    assert [done for seen, done in observer.seen if seen == "distill"] == [3]


def test_a_folder_that_is_removed_during_the_run_gets_its_state_again(digits, whole, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(RunError, match=r"no such file.*the state after outer step \d is kept.*--resume"):
        distill_data(digits, RECIPE, out=folder, observer=At("distill", 2, lambda: shutil.rmtree(folder)))
    assert_same(distill_data(digits, RECIPE, out=folder, resume=True), whole)


def test_a_device_out_of_memory_matches_fewer_classes_at_once(digits, tmp_path, monkeypatch):
    recipe = RECIPE.changed({"run.class_chunk": 8})
    expected = distill_data(digits, recipe)
    true_step, tries = GradientMatching.outer_step, []

    def outer_step(self, step, on_inner):
        tries.append((step, self.chunking.classes))
        if step == 2 and tries[-1][1] > 2:
            self.context.synthetic.images.add_(0.3)  # what a step that failed halfway leaves
            raise torch.OutOfMemoryError("CUDA out of memory")
        return true_step(self, step, on_inner)

    monkeypatch.setattr(GradientMatching, "outer_step", outer_step)
    observer = At()
    run = distill_data(digits, recipe, observer=observer)
    assert tries == [(1, 8), (2, 8), (2, 4), (2, 2), (3, 2)]
    assert torch.allclose(run.synthetic.images, expected.synthetic.images, atol=1e-4)
    assert [note.split(":")[0] for note in observer.notes if "memory" in note] == ["out of memory"] * 2

    def always(self, step, on_inner):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(GradientMatching, "outer_step", always)
    with pytest.raises(
        RunError, match=r"out of memory on cpu.*smaller method\.real_batch or method\.max_decoded or network"
    ):
        distill_data(digits, recipe)
    monkeypatch.setattr(Coreset, "outer_step", always)
    with pytest.raises(RunError, match="use a smaller network;"):
        distill_data(digits, find("random", 1, "digits"))


def test_a_device_out_of_memory_trains_fewer_networks_ahead_before_it_matches_fewer_classes(digits, monkeypatch):
    changes = {"method.inner_steps": 3, "method.network_samples": 64, "budget.outer_steps": 5}
    recipe = RECIPE.changed({"run.class_chunk": 2, "evaluation.epochs": 1, **changes})
    without_kernels(monkeypatch)
    expected = distill_data(digits, recipe)
    captured_on_cpu(monkeypatch)
    monkeypatch.setattr(Paths, "_seconds_each", lambda self, width: 1.0 / width)
    true_run, widths = SideBySide.run, []

    def run(self, *given):
        widths.append(len(self.trainers))
        if len(self.trainers) > 1 and len(widths) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        true_run(self, *given)

    monkeypatch.setattr(SideBySide, "run", run)
    observer = At()
    found = distill_data(digits, recipe, observer=observer)
    assert widths[:5] == [4, 4, 4, 4, 2]  # the fourth fails, and the next
    assert [note for note in observer.notes if "memory" in note] == [
        f"out of memory: networks of {left} outer steps are trained at once from here on" for left in (2, 1)
    ]
    assert not any("classes are matched" in note for note in observer.notes)
    assert torch.allclose(found.synthetic.images, expected.synthetic.images, atol=1e-4)


def test_a_folder_that_may_not_be_written_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        check_folder(tmp_path / "file" / "run")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match="cannot be written"):
        check_folder(tmp_path / "deep" / "run")


def test_a_pool_that_cannot_be_stored_is_used_all_the_same(digits, whole, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("DDISTILL_CACHE", str(tmp_path / "file"))
    observer = At()
    assert_same(distill_data(digits, RECIPE, observer=observer), whole)
    assert any("cannot be stored" in note for note in observer.notes)


def test_a_signed_recipe_is_refused_after_an_edit_until_its_first_line_is_deleted(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(signed(RECIPE.to_yaml()))
    assert Recipe.from_yaml(path) == RECIPE
    edited = path.read_text().replace("width: 8", "width: 16")
    path.write_text(edited)
    with pytest.raises(UserError, match="delete its first line"):
        Recipe.from_yaml(path)
    path.write_text(edited.partition("\n")[2])
    assert Recipe.from_yaml(path).network.width == 16
    path.write_text("# see the paper\n" + RECIPE.to_yaml())
    assert Recipe.from_yaml(path) == RECIPE


def test_a_summary_that_was_changed_is_not_shown(digits, tmp_path):
    distill_data(digits, RECIPE, out=tmp_path / "run")
    path = tmp_path / "run" / "summary.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "seed": 1}))
    result = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "its checksum differs" in result.stderr


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', "[" * 100_000, '{"a": 1, "sha256": null}'])
def test_json_that_is_not_as_it_was_written_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError):
        read_checked_json(tmp_path / "x.json")
    write_checked_json(tmp_path / "x.json", {"a": (1, 2)})
    assert read_checked_json(tmp_path / "x.json") == {"a": [1, 2]}


def test_a_line_that_was_cut_off_does_not_swallow_the_next(tmp_path):
    (tmp_path / "log").write_text('one\n{"cut of')
    append_line(tmp_path / "log", "two")
    append_line(tmp_path / "log", "three")
    assert (tmp_path / "log").read_text() == 'one\n{"cut of\ntwo\nthree\n'


def test_names_cannot_leave_the_folder_or_steer_the_terminal():
    assert slug("../../etc/passwd-ipc1") == "etc-passwd-ipc1"
    assert slug("...") == "run"
    assert plain("a\x1b[31mb\r\nc\u202e") == "a\\x1b[31mb\\r\\nc\\u202e"


def test_a_second_signal_stops_at_once_and_the_state_is_whole(tmp_path):
    code = (
        "import sys, time\n"
        "from ddistill import cli\n"
        "from ddistill.methods.gradient_matching import GradientMatching\n"
        "true_step = GradientMatching.outer_step\n"
        "def slow(self, step, on_inner):\n"
        "    if step == 2:\n"
        "        on_inner(0, 1)\n"
        "        print('slow', flush=True)\n"
        "        time.sleep(600)\n"
        "    return true_step(self, step, on_inner)\n"
        "GradientMatching.outer_step = slow\n"
        "cli.main()\n"
    )
    fields = [f"--set={name}={list(value) if isinstance(value, tuple) else value}" for name, value in TINY.items()]
    words = ["distill", "digits", "--recipe", "idc", "--out", "run", "--device", "cpu", *fields]
    child = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert child.stdout.readline() == "slow\n", child.communicate()
    child.send_signal(signal.SIGINT)
    while "safe point" not in child.stderr.readline():
        pass
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert "--resume" in errors
    assert [path.name for path in (tmp_path / "run" / "checkpoint").glob("*.safetensors")] == [
        "step-00000001.safetensors"
    ]


def set_of(digits):
    return torch.stack([digits.class_images(c)[i].float() / 255 for i in range(2) for c in range(10)])


def normalised(digits, images):
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in digits.statistics)
    return (images - mean) / std


LAYOUTS = {
    "a pair": lambda images, labels: (images, labels),
    "a dict": lambda images, labels: {"images": images, "labels": labels},
    "DC's": lambda images, labels: {"data": [[images * 0, labels], [images, labels]], "accs_all_exps": {"ConvNet": []}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("in_pixels", [True, False])
def test_sets_of_other_programs_are_imported(digits, tmp_path, layout, in_pixels):
    images, labels = set_of(digits), torch.arange(10).repeat(2)
    stored = images if in_pixels else normalised(digits, images)
    torch.save(LAYOUTS[layout](stored, labels), tmp_path / "set.pt")
    made = api.import_set(tmp_path / "set.pt", digits, tmp_path / "artifact")
    assert torch.allclose(made.images, images.view(2, 10, *images.shape[1:]).transpose(0, 1).flatten(0, 1), atol=1e-5)
    assert made.labels.tolist() == sorted(labels.tolist())
    again = load_synthetic(tmp_path / "artifact")
    assert torch.equal(again.images, made.images)
    assert api.evaluate(tmp_path / "artifact", digits, RECIPE.evaluation, repeats=1).mean > 0


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


HOSTILE = {
    "a payload": lambda path, _: torch.save({"images": Payload(path.parent / "hacked")}, path),
    "no archive": lambda path, _: path.write_bytes(b"\x80\x04not a zip"),
    "a truncated archive": lambda path, images: (
        torch.save(images, path),
        path.write_bytes(path.read_bytes()[:-100]),
    ),
    "other things": lambda path, _: torch.save({"epoch": 3}, path),
    "another shape": lambda path, images: torch.save(images[:, :, :4], path),
    "integers": lambda path, images: torch.save(images.to(torch.uint8), path),
    "not finite": lambda path, images: torch.save(images / 0, path),
    "too few labels": lambda path, images: torch.save((images, torch.arange(10)), path),
    "labels of other classes": lambda path, images: torch.save((images, torch.arange(20)), path),
    "labels of floats": lambda path, images: torch.save((images, torch.rand(20)), path),
    "images without labels, not a multiple": lambda path, images: torch.save(images[:7], path),
    "nothing": lambda path, _: None,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_files_that_hold_anything_else_are_refused(digits, tmp_path, kind):
    path = tmp_path / "set.pt"
    HOSTILE[kind](path, set_of(digits))
    with pytest.raises(UserError) as refusal:
        import_pt(path, digits)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "hacked").exists()


def test_an_archive_that_unpacks_to_too_much_is_not_read(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("ddistill.synthetic.torch_files.MAX_BYTES", 1000)
    torch.save(set_of(digits), tmp_path / "set.pt")
    with pytest.raises(UserError, match="unpacks to"):
        import_pt(tmp_path / "set.pt", digits)


@pytest.mark.parametrize("name", ["stored.safetensors", "synthetic.json"])
@pytest.mark.parametrize("kind", ["link out", "pipe", "device"])
def test_an_artifact_that_leads_elsewhere_is_refused(digits, tmp_path, name, kind):
    distill_data(digits, RECIPE, out=tmp_path / "run")
    folder = tmp_path / "run" / "distilled"
    shutil.move(folder / name, tmp_path / name)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(tmp_path / name if kind == "link out" else "/dev/zero")
    with pytest.raises(UserError) as refusal:
        load_synthetic(tmp_path / "run")
    assert "\n" not in str(refusal.value)


def test_the_links_of_a_hub_cache_are_followed(digits, tmp_path):
    distill_data(digits, RECIPE, out=tmp_path / "run")
    snapshot, blobs = tmp_path / "hub" / "snapshots" / "abc", tmp_path / "hub" / "blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(tmp_path / "run" / "distilled", blobs)
    for name in ("stored.safetensors", "synthetic.json"):
        (snapshot / name).symlink_to(blobs / name)
    assert load_synthetic(snapshot).num_classes == 10


def test_a_pickle_in_place_of_the_tensors_is_refused(digits, tmp_path):
    distill_data(digits, RECIPE, out=tmp_path / "run")
    torch.save(Payload(tmp_path / "hacked"), tmp_path / "run" / "distilled" / "stored.safetensors")
    with pytest.raises(UserError, match="damaged"):
        load_synthetic(tmp_path / "run")
    assert not (tmp_path / "hacked").exists()
