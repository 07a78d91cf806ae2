"""Values as a user writes them."""

import pytest
import yaml

from ddistill.cli.common import assignments
from ddistill.runtime.words import class_list, read_values

WORDS = ["yes", "No", "on", "off", "y", "007", "08", "1:30", "2020-01-01", "1_000", "0x10", "1e3", "=", "<<"]


@pytest.mark.parametrize("word", WORDS)
def test_a_word_is_a_word(word):
    assert assignments([f"data.classes=[{word}, b]"]) == {"data.classes": [word, "b"]}


def test_values_are_values():
    text = "[true, False, null, ~, 1, -2, 0, 1.5, .5, 1.0e-05, 'true', '1']"
    assert read_values(text) == [True, False, None, None, 1, -2, 0, 1.5, 0.5, 1e-5, "true", "1"]


def test_what_a_recipe_writes_is_read_again():
    values = [*WORDS, "true", "null", "~", "", "1", "-0", "+5", "1.", ".5", ".inf", True, None, 7, 1e-5, 1e16, -0.0]
    assert read_values(yaml.safe_dump(values)) == values


NAMES = ["1.10", "1.2", "null", "~", "true", "No", "salt, pepper", "a: b", "#1", "it's", "[x]", " y ", "", "-", "007"]


def test_names_of_classes_stay_as_they_are_written():
    asked = assignments(["data.classes=[1.10, 1.2, null, true]", "data.classes_=[1.10]", "data.train_split=1.0"])
    assert asked == {"data.classes": ["1.10", "1.2", "null", "true"], "data.classes_": [1.1], "data.train_split": "1.0"}
    assert assignments(["data.classes={1.10: 2.0, null: true}"]) == {"data.classes": {"1.10": "2.0", "null": "true"}}
    assert assignments(["data={classes: [1.10], size: 32}"]) == {"data": {"classes": ["1.10"], "size": 32}}
    assert assignments(["data.classes=null", "data.label_column=0"]) == {"data.classes": None, "data.label_column": "0"}
    assert read_values("data:\n  classes: [1.10]\n  size: 32\n  label_column: null") == {
        "data": {"classes": ["1.10"], "size": 32, "label_column": None}
    }


def test_keys_are_text():
    assert assignments(["synthetic.ipc_by_class={7: 2, 1.10: 3}"]) == {"synthetic.ipc_by_class": {"7": 2, "1.10": 3}}


def test_advice_can_be_pasted():
    assert assignments([f"data.classes={class_list(NAMES)}"]) == {"data.classes": NAMES}
    assert class_list(["a", 2, "c"], 2) == "[a, 2, ...]"
    assert class_list(["a", "null"], 2) == "[a, null]"
