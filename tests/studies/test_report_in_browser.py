"""The page of a study in headless Chromium, with the network off."""

import csv

import pytest
from chromium import MISSING, PROGRAM, browse

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=MISSING)

GROUND = {False: "rgb(255, 255, 255)", True: "rgb(20, 24, 29)"}
DRAWN = "document.querySelectorAll('#accuracy_comparison.drawn .live path[aria-roledescription=point]').length === 2"


@pytest.fixture(scope="module")
def browser():
    with browse() as page:
        yield page


@pytest.fixture(scope="module")
def address(study):
    return (study[1] / "report.html").as_uri()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (500, False)])
def test_page_fits_and_nothing_complains(browser, address, width, dark):
    browser.open(address, width=width, dark=dark)
    browser.wait_for(DRAWN)
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == GROUND[dark]
    browser.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    browser.wait_for("document.querySelectorAll('figure.chart:not(.drawn)').length === 0")
    browser.wait_for("[...document.querySelectorAll('.plot')].every((one) => one.querySelector('svg'))")
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.evaluate("[...document.images].every((one) => one.naturalWidth > 0) && document.images.length > 3")
    assert browser.complaints == []


def test_first_screen_holds_finding_table_and_chart(browser, address):
    browser.open(address)
    browser.wait_for(DRAWN)
    assert browser.evaluate("document.querySelector('#accuracy_comparison').getBoundingClientRect().bottom") < 800
    assert browser.evaluate("[...document.querySelectorAll('details')].every((one) => !one.open)")


def test_hover_shows_the_numbers_of_the_table(browser, address, study):
    browser.open(address)
    browser.wait_for(DRAWN)
    rows = [row for row in csv.DictReader((study[1] / "results.csv").open()) if row["status"] == "done"]
    whole = [row for row in rows if row["images_per_class"] == "0"]
    seen = browser.shown_at("#accuracy_comparison .live", "point")
    assert len(seen) == 2
    for text in seen:
        (arm,) = {row["arm"] for row in whole} & set(text.split())
        own = [float(row["test_accuracy"]) for row in whole if row["arm"] == arm]
        assert f"{100 * sum(own) / len(own):.2f}%" in text
    seen = browser.shown_at("#accuracy_comparison .live", "tick")
    assert len(seen) == len(whole)
    for text in seen:
        assert any(row["arm"] in text and f"{100 * float(row['test_accuracy']):.2f}%" in text for row in whole)


def test_hover_shows_the_numbers_of_the_curves(browser, address, study):
    browser.open(address, height=2400)
    browser.evaluate("document.querySelector('#training').open = true")
    browser.wait_for("document.querySelectorAll('#model_comparison .plot svg').length === 4")
    validation = "#model_comparison .plot:nth-child(2)"
    seen = browser.shown_at(validation, "point")
    assert len(seen) == 2 * 4  # arms, epochs of each
    for text in seen:
        words = text.split()
        arm, epoch = words[words.index("arm") + 1], float(words[words.index("epoch") + 1])
        own = [record for record in study[2] if record.run.arm.name == arm and record.run.images_per_class == 0]
        mean = sum(one.epochs[round(epoch) - 1].val_accuracy for one in own) / len(own)
        shown = float(words[words.index("accuracy") + 1].rstrip("%"))
        assert shown == pytest.approx(100 * mean, abs=0.051)


def test_columns_sort(browser, address):
    browser.open(address)
    names = "[...document.querySelectorAll('.first tbody td.name')].map((one) => one.textContent)"
    seconds = "document.querySelectorAll('.first th button')[5].click()"
    assert browser.evaluate(names) == ["deep", "cnn"]
    browser.evaluate(seconds)
    assert browser.evaluate(names) == ["deep", "cnn"]  # the longest first
    browser.evaluate(seconds)
    assert browser.evaluate(names) == ["cnn", "deep"]
    assert browser.evaluate("document.querySelectorAll('.first th[aria-sort=ascending]').length") == 1


def test_curves_can_be_drawn_over_seconds(browser, address):
    browser.open(address + "#training")
    browser.wait_for("document.querySelectorAll('#model_comparison .plot svg').length === 4")
    titles = "document.querySelector('#model_comparison .plot').textContent"
    assert "training seconds" not in browser.evaluate(titles)
    browser.evaluate("document.querySelectorAll('#model_comparison .choices input')[1].click()")
    browser.wait_for(f"{titles}.includes('training seconds')")
    assert browser.complaints == []


@pytest.mark.parametrize("how", [{"scripts": False}, {"media": "print"}])
def test_without_scripts_and_in_print_figures_are_static(browser, address, how):
    browser.open(address, **how)
    if "media" in how:
        browser.wait_for(DRAWN)
    for name, wanted in (("static", True), ("live", False)):
        shown = f"document.querySelector('#accuracy_comparison .{name}').getBoundingClientRect().height > 50"
        assert browser.evaluate(shown) == wanted
    words = browser.evaluate("document.querySelector('#accuracy_comparison .static').textContent")
    assert "cnn" in words and "deep" in words
