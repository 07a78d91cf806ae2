"""Values as a user writes them."""

import pytest
import yaml

from ddistill.cli.common import assignments
from ddistill.runtime.words import read_values

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
