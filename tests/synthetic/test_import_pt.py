"""A `.pt` file of another program: what it was taken for is said, what would be lost is refused, in our words."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Interrupt
from PIL import Image
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

from ddistill import api
from ddistill.cli import app
from ddistill.data import load_data
from ddistill.runtime.errors import UserError
from ddistill.synthetic import import_pt, load_synthetic

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
NO_WORDS_OF_OTHERS = re.compile(r"weights_only|unpickl|GLOBAL|Pytorch|Traceback|miniz|torch\.serialization|\n", re.I)


@pytest.fixture(scope="module")
def data():
    """Two classes, 8 px, RGB, of mean and std that differ by channel."""
    draws = np.random.default_rng(0)
    centre, spread = np.array([100, 128, 150]), np.array([25, 50, 75])
    pairs = [
        (Image.fromarray((centre + spread * draws.uniform(-1, 1, (8, 8, 3))).astype("uint8")), number % 2)
        for number in range(12)
    ]
    return load_data((pairs, pairs))


def pixels(count: int = 4) -> torch.Tensor:
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images[0, :, 0, 0], images[0, :, 0, 1] = 0.0, 1.0
    return images


def normalised(data, images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in data.statistics)
    return (images - mean) / std


def saved(path: Path, *content) -> Path:
    torch.save(content[0] if len(content) == 1 else content, path)
    return path


LABELS = torch.tensor([0, 0, 1, 1])


# ------------------------------------------------------------------------------------------- what it is taken for


@pytest.mark.parametrize("asked", [None, False])
def test_pixels_are_taken_as_they_are_and_nothing_is_cut(data, tmp_path, asked):
    found = import_pt(saved(tmp_path / "a.pt", pixels(), LABELS), data, normalised=asked)
    assert torch.equal(found.synthetic.images, pixels())
    assert found.cut == 0.0
    assert found.taken_for == "pixels in [0, 1] (values from 0 to 1), not whitened; labels of the file; factor 1"


@pytest.mark.parametrize("asked", [None, True])
def test_values_on_both_sides_are_taken_for_normalised_and_the_constants_are_said(data, tmp_path, asked):
    found = import_pt(saved(tmp_path / "a.pt", normalised(data, pixels()), LABELS), data, normalised=asked)
    assert torch.allclose(found.synthetic.images, pixels(), atol=1e-6)
    assert found.cut == 0.0
    constants = " and ".join(", ".join(f"{value:.4g}" for value in values) for values in data.statistics)
    assert f"normalised by mean and standard deviation of data 'list' ({constants})" in found.taken_for


@pytest.mark.parametrize(
    ("constants", "stored"),
    [
        (([0.5], [0.5]), lambda images: images * 2 - 1),
        ((0.5, 0.5), lambda images: images * 2 - 1),
        (([0.4, 0.5, 0.6], [0.1, 0.2, 0.3]), lambda images: (images - MEAN) / STD),
        (([0], [1 / 255]), lambda images: images * 255),
    ],
)
def test_other_constants_can_be_given(data, tmp_path, constants, stored):
    found = import_pt(saved(tmp_path / "a.pt", stored(pixels()), LABELS), data, normalised=constants)
    assert torch.allclose(found.synthetic.images, pixels(), atol=1e-5)
    assert "standard deviation as given" in found.taken_for
    assert found.synthetic.normalisation.mean == data.statistics[0]  # that networks are trained with


def test_images_alone_are_taken_for_sorted_and_it_is_said(data, tmp_path):
    found = import_pt(saved(tmp_path / "a.pt", pixels()), data)
    assert found.synthetic.labels.tolist() == [0, 0, 1, 1]
    assert "without labels: sorted by class, 2 of each" in found.taken_for


def test_labels_in_any_order_sort_the_images(data, tmp_path):
    found = import_pt(saved(tmp_path / "a.pt", pixels(), torch.tensor([[1], [0], [1], [0]])), data)
    assert torch.equal(found.synthetic.images, pixels()[[1, 3, 0, 2]])


# ---------------------------------------------------------------------------------- what can be meant in two ways


@pytest.mark.parametrize(
    ("stored", "ways"),
    [
        (lambda images: images * 2 - 1, ["values from -1 to 1", "--mean 0.5 --std 0.5"]),
        (lambda images: images * 1.2 - 0.2, ["values from -0.2 to 1", "--mean 0.5 --std 0.5"]),
        (lambda images: images * 255, ["values from 0 to 255", "save images / 255"]),
        (lambda images: images * 254, ["values from 0 to 254", "save images / 255"]),
        (lambda images: images * 1023, ["values from 0 to 1.02e+03", "save images / 1023"]),
    ],
)
def test_values_with_several_readings_are_refused_with_each_and_what_it_would_cut(data, tmp_path, stored, ways):
    with pytest.raises(UserError) as refusal:
        import_pt(saved(tmp_path / "a.pt", stored(pixels()), LABELS), data)
    text = str(refusal.value)
    for way in [*ways, "can be meant in several ways", "--pixels", "--normalised"]:
        assert way in text
    assert not NO_WORDS_OF_OTHERS.search(text)


# --------------------------------------------------------------------------------------------------- what is lost


def beyond(share: float) -> torch.Tensor:
    """Pixels of which that share lies beyond 1."""
    images = pixels().clamp(0.1, 0.9)
    images.view(-1)[: round(images.numel() * share)] = 1.5
    return images


def test_more_than_one_per_cent_is_cut_only_when_it_is_said(data, tmp_path):
    path = saved(tmp_path / "a.pt", beyond(0.125), LABELS)
    with pytest.raises(UserError) as refusal:
        import_pt(path, data, normalised=False)
    text = str(refusal.value)
    assert "12.5% of the values lie outside of [0, 1] and would be cut, more than 1.0%" in text
    assert "whitened images cannot be read" in text
    flag = re.search(r"give --most-cut ([\d.]+)$", text)
    assert flag is not None
    found = import_pt(path, data, normalised=False, most_cut=float(flag[1]))
    assert found.cut == pytest.approx(0.125)
    assert float(found.synthetic.images.max()) == 1.0


def test_up_to_one_per_cent_is_cut_and_said_and_kept_in_the_artifact(data, tmp_path):
    path = saved(tmp_path / "a.pt", beyond(6 / 768), LABELS)
    heard = Interrupt()
    api.import_set(path, data, tmp_path / "out", normalised=False, observer=heard)
    assert heard.notes[-1].startswith("0.78% of the values were cut to [0, 1]; taken for pixels in [0, 1] (values from")
    kept = json.loads((tmp_path / "out" / "synthetic.json").read_text())["imported_as"]
    assert kept["cut"] == pytest.approx(6 / 768)
    assert kept["taken_for"] in heard.notes[-1]


def test_rounding_is_no_cut(data, tmp_path):
    found = import_pt(saved(tmp_path / "a.pt", pixels() * 1.003 - 0.0015, LABELS), data)
    assert found.cut == 0.0
    assert float(found.synthetic.images.min()) == 0.0


def test_images_of_another_kind_are_refused_by_what_they_would_lose(data, tmp_path):
    whitened = 20 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=r"taken for images normalised .* 79.6% of the values .* whitened"):
        import_pt(saved(tmp_path / "a.pt", whitened, LABELS), data)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(data, tmp_path, share):
    with pytest.raises(UserError, match="most_cut is a share from 0 to 1"):
        import_pt(saved(tmp_path / "a.pt", pixels(), LABELS), data, most_cut=share)


@pytest.mark.parametrize("constants", [([0.5], [0.0]), ([0.5, 0.5], [0.5, 0.5]), ([float("nan")], [1.0]), ([0.5], [])])
def test_constants_that_do_not_fit_are_refused(data, tmp_path, constants):
    with pytest.raises(UserError, match="--mean and --std take one number, or 3"):
        import_pt(saved(tmp_path / "a.pt", pixels(), LABELS), data, normalised=constants)


# --------------------------------------------------------------------------------------------- files that do not fit


def cut_off(path: Path) -> Path:
    saved(path, pixels(), LABELS)
    path.write_bytes(path.read_bytes()[:-60])
    return path


def flipped(path: Path) -> Path:
    saved(path, pixels(), LABELS)
    whole = bytearray(path.read_bytes())
    whole[whole.index(pixels()[0, 0].numpy().tobytes()[:32]) + 5] ^= 1
    path.write_bytes(whole)
    return path


def npz(path: Path) -> Path:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.zeros((4, 3, 8, 8)))
    path.write_bytes(buffer.getvalue())
    return path


def compressed(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"hello" * 100)
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


FILES = {
    "missing": (lambda path: path, "cannot read .*no such file"),
    "a folder": (lambda path: path.mkdir() or path, "cannot read .*directory"),
    "empty": (lambda path: written(path, b""), "is empty"),
    "a picture": (lambda path: Image.new("L", (8, 8)).save(path, "PNG") or path, "no file as torch.save writes it"),
    "text": (lambda path: written(path, b"<html>sign in</html>"), "no file as torch.save writes it"),
    "one byte": (lambda path: written(path, b"P"), "no file as torch.save writes it"),
    "a bare pickle": (lambda path: written(path, b"\x80\x04K\x01."), "no file as torch.save writes it since torch 1.6"),
    "cut off": (cut_off, "is cut off or damaged; copy it again"),
    "a head alone": (lambda path: written(path, b"PK\x03\x04"), "is cut off or damaged"),
    "a flipped bit": (flipped, "is cut off or damaged"),
    "numpy's archive": (npz, "no file as torch.save writes it"),
    "an archive that holds something else": (compressed, "more than tensors and plain containers"),
    "numpy arrays": (lambda path: saved(path, pixels().numpy(), LABELS.numpy()), "such as arrays of numpy"),
    "a data set": (lambda path: saved(path, TensorDataset(pixels(), LABELS)), "more than tensors"),
    "a model": (lambda path: saved(path, torch.nn.Linear(2, 2)), "a data set or a model"),
    "weights": (
        lambda path: saved(path, torch.nn.Linear(2, 2).state_dict()),
        "a dict with the entries 'weight', 'bias'",
    ),
    "a number": (lambda path: saved(path, 3), "holds int; expected tensors"),
    "three tensors": (lambda path: saved(path, pixels(), LABELS, LABELS), "a tuple of 3: Tensor, Tensor, Tensor"),
    "lists": (lambda path: saved(path, pixels().tolist(), LABELS.tolist()), "a tuple of 2: list, list"),
    "an empty dict": (lambda path: saved(path, {}), "an empty dict"),
    "an empty res file": (lambda path: saved(path, {"data": []}), "a dict with the entries 'data'"),
    "channels last": (
        lambda path: saved(path, pixels().permute(0, 2, 3, 1), LABELS),
        r"save images.permute\(0, 3, 1, 2\)",
    ),
    "another size": (lambda path: saved(path, torch.rand(4, 3, 9, 9), LABELS), r"\(4, 3, 9, 9\).*another data.size"),
    "grey": (lambda path: saved(path, torch.rand(4, 1, 8, 8), LABELS), r"\(4, 1, 8, 8\).*need \(n, 3, 8, 8\)"),
    "no image": (lambda path: saved(path, torch.rand(0, 3, 8, 8), torch.zeros(0).long()), r"shape \(0, 3, 8, 8\)"),
    "labels first": (lambda path: saved(path, LABELS, pixels()), "images come first"),
    "a scalar": (lambda path: saved(path, torch.tensor(1.0), LABELS), r"shape \(\)"),
    "bytes": (lambda path: saved(path, (pixels() * 255).byte(), LABELS), r"whole numbers \(torch.uint8\).*/ 255"),
    "complex": (lambda path: saved(path, pixels().to(torch.complex64), LABELS), "special kind of tensor"),
    "sparse": (lambda path: saved(path, pixels().to_sparse(), LABELS), "special kind of tensor"),
    "no numbers": (lambda path: saved(path, pixels().to("meta"), LABELS), "special kind of tensor"),
    "an image too large": (
        lambda path: saved(path, torch.zeros(1, 3, 8, 8).expand(10**8, 3, 8, 8), LABELS),
        "unpacks to .* it is not read",
    ),
    "NaN": (
        lambda path: saved(path, pixels() / torch.tensor([1.0, 0, 1, 0]).view(4, 1, 1, 1), LABELS),
        "in 2 of 4 images",
    ),
    "float labels": (
        lambda path: saved(path, pixels(), LABELS.float()),
        r"labels of torch.float32.*save labels.long\(\)",
    ),
    "truth values": (lambda path: saved(path, pixels(), LABELS.bool()), "labels of torch.bool"),
    "soft labels": (lambda path: saved(path, pixels(), torch.rand(4, 2)), r"save labels.argmax\(1\)"),
    "sparse labels": (lambda path: saved(path, pixels(), LABELS.to_sparse()), "labels of torch.int64"),
    "too few labels": (lambda path: saved(path, pixels(), LABELS[:3]), r"3 labels, shape \(3,\), for 4 images"),
    "labels from 1": (lambda path: saved(path, pixels(), LABELS + 1), "they count from 1: save labels - 1"),
    "a label out of range": (
        lambda path: saved(path, pixels(), torch.tensor([0, 1, 7, -1])),
        "labels from -1 to 7 for the 2 classes 0 to 1: no class of 'list' has the label -1, 7; is it another",
    ),
    "a class without images": (lambda path: saved(path, pixels(), LABELS * 0), "no image has the label 1"),
    "a number that is no multiple": (
        lambda path: saved(path, pixels(3)),
        "3 images without labels, not a multiple of 2",
    ),
}


@pytest.mark.filterwarnings("ignore")  # of torch, while it writes old kinds of tensors
@pytest.mark.parametrize("kind", FILES)
def test_files_that_do_not_fit_are_refused_in_one_line_of_our_own_words(data, tmp_path, kind):
    make, words = FILES[kind]
    with pytest.raises(UserError) as refusal:
        import_pt(make(tmp_path / "set.pt"), data)
    text = str(refusal.value)
    assert re.search(words, text, re.I), text
    assert not NO_WORDS_OF_OTHERS.search(text)
    assert "set.pt" in text


@pytest.mark.parametrize("length", [1, 30, 200, 1000, 3000])
def test_a_file_cut_off_anywhere_is_refused(data, tmp_path, length):
    whole = saved(tmp_path / "set.pt", pixels(), LABELS).read_bytes()
    (tmp_path / "set.pt").write_bytes(whole[:length])
    with pytest.raises(UserError, match=r"cut off or damaged|no file as torch.save"):
        import_pt(tmp_path / "set.pt", data)


@pytest.mark.parametrize("factor", [0, 9, 17])
def test_a_factor_that_the_images_cannot_have_is_refused(data, tmp_path, factor):
    with pytest.raises(UserError, match="factor must be from 1 to 8 for images of 8 px"):
        import_pt(saved(tmp_path / "set.pt", pixels(), LABELS), data, factor=factor)


# ------------------------------------------------------------------------------------------------------ the command


def imported(*words: str):
    result = CliRunner().invoke(app, ["import", "set.pt", "--data", "name:digits", "--out", "made", *words])
    return result.exit_code, " ".join(result.output.split())


def test_the_command_says_what_was_taken_and_takes_every_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    saved(tmp_path / "set.pt", images * 2 - 1)
    for words, refusal in (
        ([], "can be meant in several ways"),
        (["--pixels"], "% of the values lie outside"),
        (["--mean", "0.5"], "--mean and --std are given both"),
        (["--mean", "0.5", "--std", "0.5", "--pixels"], "without --pixels"),
        (["--mean", "0.5", "--std", "half"], "take numbers"),
        (["--set", "data.sise=3"], "unknown recipe field 'data.sise'"),
    ):
        code, output = imported(*words)
        assert (code, refusal in output) == (2, True), output
        assert not Path("made").exists()
    code, output = imported("--mean", "0.5", "--std", "0.5")
    assert code == 0, output
    assert "0.00% of the values were cut to [0, 1]; taken for images normalised" in output
    assert torch.allclose(load_synthetic("made").images, images, atol=1e-6)


def test_the_command_takes_another_size_and_cuts_what_it_is_told_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "set.pt", 3 * torch.rand(10, 1, 6, 6, generator=torch.Generator().manual_seed(0)))
    code, output = imported("--pixels", "--most-cut", "0.9", "--set", "data.size=6", "--set", "network.depth=1")
    assert code == 0, output
    assert load_synthetic("made").images.shape == (10, 1, 6, 6)
    assert api.recipe_of("made").data.size == 6
    assert api.evaluate(
        "made", settings=api.recipe_of("made").evaluation.model_copy(update={"epochs": 1}), repeats=1
    ).runs
