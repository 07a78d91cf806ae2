"""Which data a word stands for: a path as it is written, a known set, an id of the hub; never one of two unasked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddistill.data import DataSettings, load_data
from ddistill.data.which import check_fingerprint, remembered, travels, which
from ddistill.runtime.errors import UserError


def pictures(root: Path, level: int = 50) -> Path:
    """Two classes of flat images, two of each in each part."""
    for part in ("train", "test"):
        for number, name in enumerate(("dark", "light")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for count in range(2):
                Image.new("L", (8, 8), level + 100 * number + count).save(folder / f"{count}.png")
    return root


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working folder with an `Own` folder in it."""
    folder = tmp_path / "here"
    pictures(folder / "Own")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.mark.parametrize(
    ("folder", "written"),
    [
        ("digits", "./digits"),
        ("Digits", "./Digits"),
        ("digits", "digits/"),
        ("cifar10", "./cifar10/"),
        ("cifar10", "../here/cifar10"),
        ("MNIST", "~/MNIST"),
        ("svhn", "{here}/svhn"),
        ("uoft-cs/cifar10", "uoft-cs/cifar10"),
        ("data/mnist", "data/mnist"),
        ("images", "images"),
        ("cifar", "cifar"),
        (".", "."),
    ],
)
def test_what_is_written_as_a_path_is_the_folder_there_whatever_sets_are_known(here, folder, written):
    shutil.rmtree(here / "Own")  # beside the parts of the working folder it would be a part itself
    root = pictures(here / folder, level=77)
    data = load_data(written.format(here=here))
    assert data.class_names == ("dark", "light")
    assert int(data.train.images.min()) == 77
    assert data.source == str(root)
    assert data.fingerprint == load_data(root).fingerprint


def test_a_path_object_is_a_path_even_of_one_word(here):
    pictures(here / "digits", level=77)
    assert load_data(Path("digits")).source == str(here / "digits")


@pytest.mark.parametrize(
    ("there", "word", "known"),
    [
        ("digits", "digits", "digits"),
        ("Digits", "Digits", "digits"),
        ("digits", "DIGITS", "digits"),
        ("MNIST", "mnist", "mnist"),
        ("cifar-10", "cifar-10", "cifar10"),
        ("FashionMNIST", "fashionmnist", "fashion_mnist"),
        ("imagenette", "imagenette", "imagenette"),
    ],
)
def test_a_word_that_is_a_known_set_and_a_folder_is_refused_with_both_readings_that_can_be_used(
    here, there, word, known
):
    pictures(here / there)
    with pytest.raises(UserError) as refusal:
        load_data(word)
    text = str(refusal.value)
    assert "\n" not in text
    assert f"the folder {str(here / there)!r}, written ./{there}, " in text
    assert text.endswith(f"written name:{known}")
    assert which(f"./{there}").place == Path(there)
    assert which(f"name:{known}").place == known


def test_a_file_or_a_dangling_link_of_a_known_name_is_refused_too(here):
    (here / "svhn").write_text("a list of mine")
    (here / "mnist").symlink_to(here / "gone")
    for word in ("svhn", "mnist"):
        with pytest.raises(UserError, match=rf"the file .*{word}', written \./{word}, or the known set {word}"):
            which(word)


def test_the_folder_that_is_called_exactly_so_is_named_before_one_in_another_case(here):
    for name in ("MNIST", "Mnist", "mnist"):
        (here / name).mkdir(exist_ok=True)
    with pytest.raises(UserError, match=r"written \./Mnist,"):
        which("Mnist")


def test_a_known_name_is_the_known_set_where_nothing_is_called_so(here):
    assert which("Digits").place == which("name:DIGITS").place == "digits"
    assert which("UOFT-CS/CIFAR10").lasting == which("cifar-10").lasting == "cifar10"
    assert load_data("DIGITS").source == "digits"


def test_an_existing_path_wins_over_an_id_of_the_hub_and_it_is_said(here):
    root = pictures(here / "uoft-cs" / "cifar10")
    data = load_data("uoft-cs/cifar10")
    assert data.origin.notes[0] == (
        f"'uoft-cs/cifar10' is read from {str(root)!r}; the known set cifar10 (uoft-cs/cifar10 on the hub) is written "
        "name:uoft-cs/cifar10"
    )
    pictures(here / "a" / "b")
    assert "the set of the hub is written name:a/b" in load_data("a/b").origin.notes[0]
    assert not [note for note in load_data("./a/b").origin.notes if "hub" in note]
    assert which("name:a/b").place == "a/b"
    assert which("c/d").place == "c/d"  # nothing there: the hub


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("", "unknown data set"),
        ("pictures", "unknown data set .* 'pictures'"),
        ("./digits", r"no such file or folder: '\./digits'"),
        ("digits/", "no such file or folder: 'digits/'"),
        ("~/cifar10", "no such file or folder"),
        ("~nobody-of-that-name/x", "no such file or folder"),
        ("/nowhere/mnist", "no such file or folder"),
        ("a/b/c", "no such file or folder"),
        ("a/b/", "no such file or folder"),
        ("set.parquet", "no such file or folder"),
        ("name:", "unknown data set"),
        ("name:./Own", r"unknown data set .* '\./Own'"),
        ("name:Own", "unknown data set .* 'Own'"),
    ],
)
def test_what_is_nothing_is_refused_in_one_line_that_names_it(here, word, reason):
    with pytest.raises(UserError, match=reason) as refusal:
        which(word)
    assert "\n" not in str(refusal.value)


def test_a_path_lasts_when_the_working_folder_changes(here, tmp_path, monkeypatch):
    (here / "link").symlink_to(here / "Own")
    sources = [load_data(word).source for word in ("Own", "./Own", "../here/Own", "link")]
    assert sources == [str(here / "Own")] * 3 + [str(here / "link")]
    monkeypatch.chdir(tmp_path)
    assert len({load_data(source).fingerprint for source in sources}) == 1


def test_an_object_of_ones_own_has_no_lasting_name():
    pairs = [(Image.new("L", (8, 8), 10 * number), number % 2) for number in range(8)]
    data = load_data((pairs, pairs))
    assert data.source is None
    with pytest.raises(UserError, match=r"were an object in Python; give the data again: as DATA .* --data .* Python$"):
        remembered(DataSettings(fingerprint=data.fingerprint))


def test_images_are_those_of_the_fingerprint_or_refused(here):
    data = load_data("Own")
    settings = DataSettings(fingerprint=data.fingerprint)
    assert torch.equal(load_data("Own", settings).train.images, data.train.images)
    Image.new("L", (8, 8), 1).save(here / "Own" / "train" / "dark" / "0.png")
    os.utime(here / "Own" / "train" / "dark" / "0.png", (1, 1))
    with pytest.raises(UserError, match=rf"'Own' are not those .*: fingerprint {data.fingerprint[:12]} then, "):
        load_data("Own", settings)
    check_fingerprint("Own", DataSettings(), "0" * 64)  # nothing is asked for


def test_a_recipe_of_a_run_means_the_known_set_by_its_name_in_any_folder(here):
    (here / "digits").mkdir()
    assert remembered(DataSettings(source="digits", fingerprint="0" * 64)) == "name:digits"
    with pytest.raises(UserError, match="two ways"):  # what a user writes into a recipe is as on the command line
        which(remembered(DataSettings(source="digits")))


def test_only_names_and_ids_travel():
    assert [travels(source) for source in ("digits", "CIFAR-10", "a/b", "/data/x", "./x", "C:\\x", "x", None)] == [
        True,
        True,
        True,
        False,
        False,
        False,
        False,
        False,
    ]
