"""The report in Chromium: captions stay text, and concepts are found and sorted from the keyboard."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from chromium import acted, needs_chromium
from concept_files import write_run

from vlsae.reporting import write_report

pytestmark = pytest.mark.usefixtures("figures_drawn_here")

ATTACK = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script></script>"

#: Types into the search field and presses buttons as a person would, and writes down what the page then shows.
ACT = """
const seen = {};
const words = document.getElementById("words");
const table = () => [...document.querySelectorAll(".all tbody tr")].map((row) => row.firstChild.textContent);
const shown = () => [...document.querySelectorAll(".card")].filter((card) => !card.hidden);
const cards = () => shown().map((card) => card.dataset.concept);
const wait = (time) => new Promise((done) => setTimeout(done, time));
(async () => {
  seen.first = [table().length, document.getElementById("page").textContent];
  words.focus();
  words.value = "number 7";
  words.dispatchEvent(new Event("input", { bubbles: true }));
  await wait(400);
  seen.found = [table(), cards(), document.getElementById("found-count").textContent];
  words.value = "";
  words.dispatchEvent(new Event("input", { bubbles: true }));
  await wait(400);
  const heading = [...document.querySelectorAll(".all th button")].find((one) => one.textContent.startsWith("Vision"));
  heading.focus();
  seen.focused = document.activeElement === heading;
  heading.click();
  seen.sorted = [table().slice(0, 3), heading.parentElement.ariaSort];
  heading.click();
  seen.reversed = [table().slice(0, 3), heading.parentElement.ariaSort];
  document.getElementById("next").click();
  seen.second = document.getElementById("page").textContent;
  const order = document.getElementById("order");
  order.value = "concept";
  order.dispatchEvent(new Event("change", { bubbles: true }));
  document.getElementById("reversed").click();
  seen.cards = cards().map(Number);
  document.body.dataset.seen = JSON.stringify(seen);
})();
"""


#: Counts what would be there if a caption had become markup, and shows captions as a person reads them.
LOOK = """
setTimeout(() => {
  const seen = { elements: document.querySelectorAll("img[src=x], [onerror]").length, title: document.title };
  seen.names = [...document.querySelectorAll(".card h3")].map((one) => one.textContent);
  seen.texts = [...document.querySelectorAll(".all tbody td:last-child")].map((one) => one.textContent);
  document.body.dataset.seen = JSON.stringify(seen);
}, 300);
"""


def seen_in(shown: str) -> dict:
    found = re.search(r'data-seen="([^"]*)"', shown)
    assert found, "the script of the test did not end"
    return json.loads(html.unescape(found[1]))


@needs_chromium
@pytest.mark.slow
def test_a_caption_that_is_a_script_is_shown_as_text(tmp_path):
    run = write_run(tmp_path, 12, text=lambda number: f"{ATTACK} number {number}", name=lambda number: ATTACK)
    page = write_report(run)
    # Were it markup all the same, the policy would not let it run.
    page.write_text(page.read_text().replace("</main>", ATTACK + "</main>"))
    seen = seen_in(acted(page, LOOK, tmp_path))
    assert seen["elements"] == 1, "only what the test itself put there"
    assert seen["title"] == "train/concepts/v0001"
    assert len(seen["names"]) == 12
    assert all(ATTACK in name for name in seen["names"])
    assert all(text.startswith(ATTACK[:40]) for text in seen["texts"])


@needs_chromium
@pytest.mark.slow
def test_concepts_are_found_and_sorted(tmp_path):
    run = write_run(tmp_path, 300)
    shown = acted(write_report(run), ACT, Path(tmp_path))
    seen = seen_in(shown)
    assert seen["first"] == [50, "1–50 of 300"]
    assert "7" in seen["found"][0]
    expected = [number for number in range(300) if "7" in str(number) and number % 17 != 16]
    assert seen["found"][2].startswith(f"{len(expected)} of 300 concepts")
    assert {int(number) for number in seen["found"][0]} <= set(expected)
    assert seen["focused"]
    assert seen["sorted"][1] == "descending"
    assert seen["reversed"][1] == "ascending"
    assert seen["sorted"][0] != seen["reversed"][0]
    assert seen["second"] == "51–100 of 300"
    assert seen["cards"] == sorted(seen["cards"])
