"""Image folders: parts and classes by the names of folders, whatever wraps them.

ROOT/CLASS/image, ROOT/PART/CLASS/image and ROOT/CLASS/PART/image are known; folders that hold nothing but one other
folder are passed through. What a folder is must be clear from its name and its place: 'train' or 'Testing' beside
others of the kind is a part, never a class.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unicodedata import category

import numpy as np

from ddistill.data.files import Found, Tally
from ddistill.data.labels import listed, one_name, text_labels, wanted_classes
from ddistill.data.pixels import Encoded
from ddistill.data.settings import DataSettings
from ddistill.data.splits import (
    COLUMNS,
    RawSplit,
    RawSplits,
    choose_splits,
    is_part_word,
    refuse_options,
    refuse_unknown,
    role_of,
    unused,
)
from ddistill.runtime.errors import UserError
from ddistill.runtime.words import class_list

EXPECTED = "expected ROOT/CLASS/*.png or ROOT/train/CLASS/*.png"


@dataclass(frozen=True)
class Tree:
    """Images below a folder, by the folder at its top in which they lie.

    Attributes:
        prefix: path of the folder below the root, with a slash at its end unless it is the root.
        direct: images in the folder itself.
        inside: images by the name of the folder at the top.
    """

    prefix: str
    direct: list[str]
    inside: dict[str, list[str]]

    @classmethod
    def of(cls, prefix: str, images: list[str]) -> Tree:
        """The tree below a prefix."""
        direct, inside = [], defaultdict(list)
        for image in images:
            top, slash, _ = image[len(prefix) :].partition("/")
            if slash:
                inside[top].append(image)
            else:
                direct.append(image)
        return cls(prefix, direct, dict(sorted(inside.items())))

    def below(self, name: str) -> Tree:
        """The tree of a folder at the top."""
        return Tree.of(f"{self.prefix}{name}/", self.inside[name])

    def has_folders(self, name: str) -> bool:
        """Whether images of a folder at the top lie in folders of their own."""
        start = len(self.prefix) + len(name) + 1
        return any("/" in image[start:] for image in self.inside[name])


def open_folders(root: Path, found: Found, settings: DataSettings) -> RawSplits:
    """Parts from image files.

    Args:
        root: the folder.
        found: what lies below it.
        settings: the user's.

    Raises:
        UserError: no class folders, an empty class folder, a part that is not there, folders that can be parts as well
            as classes.
    """
    refuse_options("image folders", settings, *COLUMNS)
    layout = _Layout(repr(str(root)), root, found, settings)
    tree = layout.unwrapped(Tree.of("", found.images))
    trees = layout.parts_of(tree) if tree.inside else {}
    if not trees:
        if settings.train_split or settings.test_split:
            choose_splits(layout.where, ["train"], settings)
        train, test = layout.part(tree, "class folders"), None
        layout.say_empty_parts(tree)
        names: tuple[str, ...] = ("train",)
    else:
        train_name, test_name = choose_splits(layout.where, list(trees), settings)
        layout.left_out += unused(trees, train_name, test_name, of="folder")
        layout.say_empty_parts(tree)
        train, names = layout.part(trees[train_name], f"folder {train_name!r}"), tuple(trees)
        known = train.labels.names or ()
        test = layout.part(trees[test_name], f"folder {test_name!r}", known) if test_name is not None else None
        if test_name is not None and found.links:
            layout.say_shared(trees[train_name], trees[test_name])
    return RawSplits(train, test, names, "folders", tuple(layout.left_out), tuple(layout.notes))


def looks_like_classes(images: list[str]) -> bool:
    """Whether images lie in two folders or more, as those of classes do."""
    return len({image.rpartition("/")[0] for image in images} - {""}) > 1


class _Layout:
    """What the folders below a root are; lines about what is left out and assumed are gathered on the way."""

    def __init__(self, where: str, root: Path, found: Found, settings: DataSettings) -> None:
        self.where, self.root, self.found = where, root, found
        self.settings, self.asked = settings, {settings.train_split, settings.test_split} - {None}
        self.left_out: list[str] = []
        self.notes: list[str] = []

    def stray(self, images: list[str], beside: str) -> None:
        """Images in no class folder are left out."""
        tally = Tally()
        for image in images:
            tally.add(image)
        self.left_out += tally.said(f"image beside {beside}", f"images beside {beside}")

    def say_empty_parts(self, tree: Tree) -> None:
        """Folders that are called like parts but hold no image are left out."""
        start = len(tree.prefix)
        for folder in self.found.folders:
            name = folder[start:]
            if folder.startswith(tree.prefix) and "/" not in name and is_part_word(name) and name not in tree.inside:
                self.left_out.append(f"the folder {folder!r}, which holds no image")

    def say_shared(self, train: Tree, test: Tree) -> None:
        """Files that links bring into both parts."""
        files = [
            {os.path.realpath(self.root / image) for images in tree.inside.values() for image in images}
            for tree in (train, test)
        ]
        if both := len(files[0] & files[1]):
            self.notes.append(f"{both} files are in the training part and in the test part, too, by way of links")

    def unwrapped(self, tree: Tree, known: tuple[str, ...] = (), *, part: bool = False) -> Tree:
        """The tree below folders that hold all folders of images, and are no ``known`` classes; nor parts, unless it is
        the tree of a part."""
        while len(tree.inside) == 1:
            (name,) = tree.inside
            is_part = name in self.asked or is_part_word(name)
            if one_name(name) in known or (is_part and not part) or not tree.has_folders(name):
                break
            self.stray(tree.direct, f"the folder {tree.prefix + name!r}")
            self.notes.append(f"the folder {tree.prefix + name!r} holds all others and was passed through")
            tree = tree.below(name)
        return tree

    def parts_of(self, tree: Tree) -> dict[str, Tree]:
        """Trees of class folders by the name of their part; none when the folders at the top are the classes."""
        deep = {name for name in tree.inside if tree.has_folders(name)}
        named = [
            name
            for name in tree.inside
            if name in self.asked or is_part_word(name) or (name in deep and role_of(name) is not None)
        ]
        if not named:
            return self._parts_in_classes(tree)
        wanted = set(wanted_classes(self.settings.classes) or ())
        if wanted and wanted <= {one_name(name) for name in tree.inside}:
            return {}
        others = [name for name in tree.inside if name not in named]
        if not deep & set(named) and not self.asked & set(named):
            self._check_flat(named, others)
            self.notes.append(f"the folder {named[0]!r} is a class, since it holds images beside other class folders")
            return {}
        what = f"folder{'s' if len(others) > 1 else ''}"
        if refuse_unknown(self.where, what, others, named, self.settings):
            count = sum(len(tree.inside[name]) for name in others)
            self.left_out.append(f"{count} images in the {what} {listed(others)}, which the options do not name")
        self.stray(tree.direct, "the parts")
        return {name: tree.below(name) for name in named}

    def _check_flat(self, named: list[str], others: list[str]) -> None:
        """Refuse folders of images without class folders that are called like parts, but for one called train."""
        if others and len(named) == 1 and role_of(named[0]) == "train":
            return
        if not others:
            raise UserError(
                f"{self.where} has the folders {listed(named)}, which are parts by their names but hold no class "
                f"folders; {EXPECTED}, or in each a file metadata.csv with the columns file_name and label; if these "
                f"folders are the classes, say so with data.classes={class_list(named)}"
            )
        raise UserError(
            f"{self.where} has the folder {listed(named)} beside {listed(others)}: it may be a part without class "
            f"folders, or a class; data.classes={class_list(others, 6)} leaves "
            f"it out, and takes it as a class if {named[0]!r} is added"
        )

    def _parts_in_classes(self, tree: Tree) -> dict[str, Tree]:
        """Parts of CLASS/PART/image: a tree per part whose folders are the classes; none for plain class folders."""
        within: dict[str, dict[str, list[str]]] = defaultdict(dict)
        loose: list[str] = []
        for name in tree.inside:
            inner = tree.below(name)
            parts = [part for part in inner.inside if is_part_word(part) or part in self.asked]
            loose += [f"{name}/{part}" for part in inner.inside if part not in parts or inner.has_folders(part)]
            loose += [] if parts and not inner.direct else [name]
            for part in parts:
                within[part][name] = inner.inside[part]
        if not within:
            return {}
        if loose:
            raise UserError(
                f"{self.where} has folders of parts, {listed(within)}, within {listed(next(iter(within.values())))}, "
                f"which other folders do not follow: {listed(dict.fromkeys(loose))}; give the path of the one folder "
                f"that is meant"
            )
        self.stray(tree.direct, "the class folders")
        return {part: Tree(tree.prefix, [], classes) for part, classes in within.items()}

    def part(self, tree: Tree, origin: str, known: tuple[str, ...] = ()) -> RawSplit:
        """A part from class folders; ``known``: the classes of the training part."""
        if tree.prefix:
            tree = self.unwrapped(tree, known, part=True)
        if not self.found.images:
            other = "; ".join(self.found.other.said("file that is no image", "files that are no images"))
            raise UserError(
                f"{self.where} has no image and so no class folders{f', but {other}' if other else ''}; {EXPECTED}"
            )
        if not tree.inside:
            raise UserError(
                f"the images of {origin} in {self.where} lie in no class folders; {EXPECTED}; name another part with "
                f"data.train_split=NAME or data.test_split=NAME, or move them elsewhere"
            )
        self._check_folders(tree)
        self.stray(tree.direct, "the class folders")
        top = tree
        tree = self._level_of_classes(tree, known)
        if tree is top:
            self._say_nested(tree)
        files = [(image, name) for name, images in tree.inside.items() for image in images]

        def read(rows: np.ndarray) -> Iterator[tuple[str, Encoded]]:
            return ((repr(files[row][0]), self.root / files[row][0]) for row in rows.tolist())

        return RawSplit(text_labels([name for _, name in files]), read, origin)

    def _say_nested(self, tree: Tree) -> None:
        """Images in folders within class folders count as those of the class; folders of parts there are expected."""
        tally = Tally()
        for name, images in tree.inside.items():
            start = len(tree.prefix) + len(name) + 1
            folders = Counter(image.rpartition("/")[0] for image in images if "/" in image[start:])
            for folder, count in folders.items():
                within = folder[start:]
                if not (is_part_word(within) or within in self.asked):
                    tally.add(folder)
                    tally.count += count - 1
        if tally.count:
            self.notes.append(
                f"{tally.count} images in folders within class folders, such as {listed(tally.names)}, were taken for "
                f"images of these classes"
            )

    def _level_of_classes(self, tree: Tree, known: tuple[str, ...]) -> Tree:
        """The tree by the folders that are the classes: those at the top, or where all images lie in folders of these,
        whichever ``data.classes`` names."""
        inner = [tree.below(name) for name in tree.inside]
        if any(one.direct for one in inner) or all(len(one.inside) < 2 for one in inner):
            return tree
        leaves = {
            f"{top}/{name}": images
            for top, one in zip(tree.inside, inner, strict=True)
            for name, images in one.inside.items()
        }
        names = [one_name(path.partition("/")[2]) for path in leaves]
        wanted = set(known or wanted_classes(self.settings.classes) or ())
        if wanted & {one_name(name) for name in tree.inside}:
            return tree
        if wanted & set(names) and len(set(names)) == len(names):
            return Tree(tree.prefix, [], dict(zip(names, leaves.values(), strict=True)))
        tops, again = list(tree.inside), len(set(names)) < len(names)
        if again:  # as in parts
            raise UserError(
                f"{self.where} has folders of the same names, {listed(sorted(set(names)))}, in {listed(tops)}: name "
                f"the parts with data.train_split=NAME and data.test_split=NAME, or, if they are the classes, say so "
                f"with data.classes={class_list(tops, 4)}"
            )
        raise UserError(
            f"{self.where} has folders in all of its class folders: the classes may be {listed(tops)}, or "
            f"{listed(leaves)}; data.classes chooses, for example data.classes={class_list(tops, 4)}"
        )

    def _check_folders(self, tree: Tree) -> None:
        """Refuse class folders without an image, and names that are no text."""
        names = [
            folder[len(tree.prefix) :]
            for folder in self.found.folders
            if folder.startswith(tree.prefix) and "/" not in folder[len(tree.prefix) :]
        ]
        start = len(tree.prefix)
        filled = {image[start:].partition("/")[0] for image in self.found.images if image.startswith(tree.prefix)}
        empty = [name for name in names if name not in filled and not is_part_word(name) and name[0] not in "_@"]
        if empty:
            shown = listed(tree.prefix + name for name in empty)
            reasons = "; ".join(("fill it or remove it", *self.found.not_read))
            raise UserError(f"no image in the class folder {shown} of {self.where}; {reasons}")
        broken = [name for name in tree.inside if any(category(letter) in ("Cc", "Cs") for letter in name)]
        if broken:
            raise UserError(f"the class folder {broken[0]!r} of {self.where} has a name that is no text; rename it")
        forms = Counter(map(one_name, tree.inside))
        twice = [name for name, count in forms.items() if count > 1]
        if twice:
            self.notes.append(f"folders of one name, its accents written in two ways, are one class: {listed(twice)}")
