"""The page of a hundred classes in a browser: order, search, groups, keyboard, a phone, no script."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import finished_run

from ddistill.report import write_page

MARKUP, LONG, ARABIC, ACCENT = "<b onclick=alert(1)>bold</b> & co", "x" * 200, "كلب كبير", "Café 10"
NAMES = [MARKUP, LONG, ARABIC, ACCENT, *(f"class {i}" for i in range(4, 100))]
GROUPS = [f"group {i % 10}" for i in range(100)]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    images = torch.rand(300, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    finished_run(folder, images, NAMES, GROUPS)
    return write_page([folder], folder / "report.html")


@pytest.fixture(params=[1280])
def opened(browser, path, request):
    """The page; nothing may go wrong in it, and it may ask for nothing."""
    page = browser.new_page(viewport={"width": request.param, "height": 900})
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    page.goto(path.as_uri())
    page.wait_for_selector("section[data-ready]")
    yield page
    page.close()
    assert wrong == []


def labels(page) -> list[int]:
    """Numbers of the classes in the order in which they are shown."""
    return page.eval_on_selector_all(".row", "rows => rows.map(row => +row.dataset.label)")


def percents(page) -> list[float]:
    return [float(text.removesuffix(" %")) for text in page.locator(".row > .percent").all_text_contents()]


@pytest.mark.parametrize("opened", [1280, 400], indirect=True)
def test_pictures_come_when_they_are_scrolled_to(opened):
    assert opened.locator(".row").count() == 100
    assert opened.evaluate("document.documentElement.scrollWidth") <= opened.viewport_size["width"]
    last = opened.locator(".row").last
    assert last.locator(".tile").count() == 0
    opened.locator(".rows").evaluate("rows => rows.scrollTo(0, rows.scrollHeight)")
    last.locator(".tile").first.wait_for()
    assert last.locator(".tile").count() == 3
    assert "data:image" in last.locator(".tile").first.evaluate("tile => getComputedStyle(tile).backgroundImage")


def test_classes_are_ordered_by_accuracy_within_their_groups(opened):
    first = labels(opened)
    titles = [text.split(",")[0] for text in opened.locator(".group").all_text_contents()]
    assert sorted(titles) == sorted(set(GROUPS))
    assert [GROUPS[label] for label in first] == [title for title in titles for _ in range(10)]
    shown = percents(opened)
    assert all(shown[i : i + 10] == sorted(shown[i : i + 10], reverse=True) for i in range(0, 100, 10))
    means = [sum(shown[i : i + 10]) for i in range(0, 100, 10)]
    assert means == sorted(means, reverse=True)
    opened.locator(".order").select_option("number")
    opened.locator(".order").select_option("best")
    assert labels(opened) == first


def test_the_order_can_be_chosen(opened):
    opened.locator(".grouped").uncheck()
    assert opened.locator(".group").count() == 0
    assert percents(opened) == sorted(percents(opened), reverse=True)
    opened.locator(".order").select_option("worst")
    assert percents(opened) == sorted(percents(opened))
    opened.locator(".order").select_option("number")
    assert labels(opened) == list(range(100))
    opened.locator(".order").select_option("name")
    names = opened.locator(".row > .name").all_text_contents()
    assert names.index("class 9") < names.index("class 10") < names.index("class 99")


@pytest.mark.parametrize("opened", [1280, 400], indirect=True)
def test_a_search_finds_names_and_groups(opened):
    search = opened.locator(".search")
    search.fill("CLASS 9")
    assert opened.locator(".row").count() == 11
    assert opened.locator(".found").text_content() == "11 of 100"
    search.fill("cafe")
    assert opened.locator(".row > .name").all_text_contents() == [ACCENT]
    search.fill("Group 7")
    assert opened.locator(".row").count() == 10
    search.fill("كبير")
    assert opened.locator(".row > .name").all_text_contents() == [ARABIC]
    opened.locator(".row .tile").first.wait_for()
    search.fill("nothing like it")
    assert opened.locator(".row").count() == 0
    search.fill("")
    assert opened.locator(".row").count() == 100
    assert opened.locator(".found").text_content() == ""


def test_names_stay_text_in_their_own_direction(opened):
    opened.locator(".order").select_option("number")
    opened.locator(".grouped").uncheck()
    assert opened.locator(".row > .name").all_text_contents() == NAMES
    assert opened.locator(".row b, .confused b, .matrix b").count() == 0
    direction = "name => getComputedStyle(name).direction"
    assert [opened.locator(".row > .name").nth(i).evaluate(direction) for i in (0, 2)] == ["ltr", "rtl"]
    assert opened.locator(".row").nth(1).bounding_box()["height"] < 140


def test_the_keyboard_goes_through_what_is_shown(opened):
    opened.locator(".search").fill("class 9")
    shown = labels(opened)
    opened.locator(".tile").first.focus()
    for _ in range(20):
        opened.keyboard.press("ArrowDown")
    opened.keyboard.press("ArrowRight")
    assert opened.locator(".which").text_content() == f"{NAMES[shown[-1]]}, image 2"
    assert opened.locator(".tile[aria-pressed=true]").count() == 1
    assert opened.evaluate("document.activeElement.getAttribute('aria-label')") == f"{NAMES[shown[-1]]}, image 2"


def test_the_slider_changes_pictures_that_are_shown_and_those_that_come(opened):
    background = "element => getComputedStyle(element).backgroundImage"
    first = opened.locator(".tile").first.evaluate(background)
    opened.locator(".step").fill("0")
    assert opened.locator(".tile").first.evaluate(background) != first
    assert opened.locator(".step + output").text_content() == "start"


def test_what_is_confused_is_told_by_class_and_by_group(opened):
    assert opened.locator(".confused tbody tr").count() == 20
    shares = [float(cell) for cell in opened.locator(".confused td:nth-child(3)").all_text_contents()]
    assert shares == sorted(shares, reverse=True)
    assert opened.locator(".matrix rect").count() > 10
    assert opened.locator(".matrix text", has_text="group 7").count() == 1


def test_without_script_all_pictures_and_names_are_there(browser, path):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 400, "height": 900})
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator(".block img").count() == 5
    assert page.locator(".block li").count() == 100
    assert page.locator(".block img").first.is_visible()
    assert not page.locator(".search").is_visible()
    assert page.locator(".confused tbody tr").count() == 20
    context.close()
