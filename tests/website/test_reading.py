"""What a reader does with a page: looking ahead, folding, tapping (``make book`` builds it)."""

import io
import json

import numpy as np
import pdf
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from website.built import PAGES, SITE, every_chapter, html
from website.visits import PHONE, visit

PAGE = "chapters/04-wrong-code"
MAPS = "chapters/03-two-variables"


@pytest.fixture
def desk(browser, origin):
    with visit(browser, f"{origin}/{PAGE}.html", color_scheme="light") as tab:
        yield tab.page
        assert tab.complaints == []


@pytest.fixture
def hand(browser, origin):
    with visit(browser, f"{origin}/{PAGE}.html", PHONE, is_mobile=True, has_touch=True) as tab:
        yield tab.page
        assert tab.complaints == []


# Whether one sees where the focus is; if not, where it is.
SEEN = """() => {
    const here = document.activeElement;
    const ringed = here.matches(".grip") ? here.lastElementChild : here; // the knob of a slider
    const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(ringed);
    const outlined = outlineStyle !== "none" && parseFloat(outlineWidth) > 0;
    return outlined || boxShadow !== "none" || here === document.body || here.outerHTML;
}"""
PREVIEWS = {
    "a term": ("../glossary.html#term-cross-entropy", "The mean, under a reference distribution"),
    "a statement": ("#thm-decomposition", "Theorem 4.1 (Total equals entropy plus extra)"),
    "an equation": ("#equation-eq-decomposition", "(4.3)"),
    "an exercise": ("#ex-gaps", "Exercise 4.9"),
    "a work": ("../bibliography.html#endres2003", "A new metric for probability distributions"),
}


@pytest.mark.parametrize(("address", "words"), PREVIEWS.values(), ids=PREVIEWS)
def test_preview_by_mouse_and_keyboard(desk, address, words):
    link = desk.locator(f"article a.reference[href='{address}']").first
    card = desk.locator("#preview")
    assert card.is_hidden()
    link.hover()
    card.wait_for(state="visible")
    assert words in card.inner_text()
    box = card.bounding_box()
    assert box["x"] >= 0
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= 900
    assert desk.locator("#preview [id]").count() == 0
    card.hover()  # what is long can be scrolled
    desk.wait_for_timeout(400)
    assert card.is_visible()
    desk.mouse.move(5, 5)
    card.wait_for(state="hidden")
    link.focus()
    desk.keyboard.press("Shift+Tab")
    desk.keyboard.press("Tab")
    card.wait_for(state="visible")
    assert link.get_attribute("aria-describedby") == "preview"
    desk.keyboard.press("Escape")
    assert card.is_hidden()


def test_preview_by_tap(hand):
    link = hand.locator("article a.reference[href='#thm-decomposition']").first
    card = hand.locator("#preview")
    link.scroll_into_view_if_needed()
    link.tap()
    card.wait_for(state="visible")
    assert hand.evaluate("location.hash") == ""
    assert card.bounding_box()["x"] + card.bounding_box()["width"] <= PHONE["width"]
    link.tap()
    hand.wait_for_url("**#thm-decomposition")
    assert card.is_hidden()


@every_chapter
def test_every_term_and_work_has_its_preview_in_the_page(page):
    soup = html(page)
    held = {template["data-for"]: template.text for template in soup.select("#previews > template")}
    for link in soup.article.select("a.reference.internal[href*='#']"):
        address = link["href"]
        if address.startswith(("../glossary.html#", "../bibliography.html#")):
            assert held[address].strip(), address


def test_entries_link_back_to_where_they_are_used():
    for page in ("glossary", "bibliography"):
        entries = html(page).article.select("dt[id], div.citation[id]")
        used = [entry for entry in entries if (entry.find_next("p", class_="used"))]
        assert len(used) >= 0.9 * len(entries)
    # The first term that this chapter names, and the section where it does.
    entry = html("glossary").find(id="term-cross-entropy").find_next("p", class_="used")
    assert f"{PAGE}.html#the-whole-bill-and-the-extra" in {a["href"] for a in entry.find_all("a")}


@every_chapter
def test_statements_and_exercises_have_permalinks(page):
    boxes = html(page).select(".proof[id] > .admonition-title, .exercise[id] > .admonition-title")
    assert boxes
    for title in boxes:
        assert title.find("a", class_="headerlink")["href"] == f"#{title.parent['id']}"


def test_works_are_named_by_key():
    keys = {entry["id"] for entry in html("bibliography").select("div.citation")}
    assert {"shannon1948", "kullback1951", "cover2006"} <= keys


def test_code_folds_and_stays_folded(desk):
    code, button = desk.locator(".cell_input").nth(2), desk.locator(".fold-code")
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert code.is_hidden()
    desk.reload()
    assert code.is_hidden()
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert code.is_visible()


def test_a_link_to_a_solution_opens_it(browser, origin):
    with visit(browser, f"{origin}/{PAGE}.html#sol-wrong-code") as tab:
        box = tab.page.locator("#sol-wrong-code")
        assert box.evaluate("box => box.open")
        assert 0 <= box.bounding_box()["y"] < 300


def test_copy_buttons_say_what_they_copy(desk):
    # They are named in idle moments, a few at a time.
    desk.locator("button.copybtn").first.wait_for(state="attached")
    desk.locator("button.copybtn:not([aria-label])").first.wait_for(state="detached")
    labels = desk.locator("button.copybtn").evaluate_all("all => all.map((b) => b.ariaLabel)")
    assert len(set(labels)) > 0.9 * len(labels)
    assert all(label.startswith("Copy the code: ") for label in labels)


def test_focus_is_seen_on_every_control(desk):
    for _ in range(40):
        desk.keyboard.press("Tab")
        assert desk.evaluate(SEEN) is True


def test_the_list_at_the_side_follows(desk):
    for _ in range(60):
        desk.mouse.wheel(0, 400)
        desk.wait_for_timeout(16)
    desk.wait_for_function(
        """() => {
            const active = [...document.querySelectorAll("#pst-page-toc-nav a.active")].at(-1);
            const top = active?.getBoundingClientRect().top;
            return 0 <= top && top < 880;
        }"""
    )


def test_drawers_of_a_phone_close(hand):
    for toggle, drawer, link in (
        (
            ".secondary-toggle",
            "#pst-secondary-sidebar-modal",
            "a[href='#the-extra-is-never-negative']",
        ),
        (".primary-toggle", "#pst-primary-sidebar-modal", None),
    ):
        box = hand.locator(drawer)
        if link:
            hand.locator(toggle).tap()
            box.locator(link).tap()
            hand.wait_for_url(f"**{link[8:-2]}")
            assert not box.evaluate("box => box.open")
        hand.locator(toggle).tap()
        assert box.evaluate("box => box.open")
        hand.keyboard.press("Escape")
        assert not box.evaluate("box => box.open")


def test_a_box_that_is_cut_fades_and_its_buttons_show(hand):
    box = hand.wait_for_selector(".bd-article pre.more-right")
    assert "gradient" in box.evaluate("box => getComputedStyle(box).maskImage")
    box.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
    hand.wait_for_function("box => !box.classList.contains('more-right')", arg=box)
    assert hand.locator("button.copybtn").first.evaluate("b => getComputedStyle(b).opacity") == "1"


def test_tables_of_a_phone_wrap(browser, origin):
    with visit(browser, f"{origin}/notation.html", PHONE, is_mobile=True, has_touch=True) as tab:
        box = tab.page.locator(".pst-scrollable-table-container").first
        assert box.evaluate("box => box.scrollWidth - box.clientWidth") <= 1


def test_an_unknown_page_is_one_of_the_book(browser, origin):
    with visit(browser, f"{origin}/404.html", PHONE) as tab:
        assert tab.complaints == []
        for link in tab.page.locator("a").all():
            assert tab.page.request.get(f"{origin}{link.get_attribute('href')}").ok
        assert tab.violations() == []


def test_the_pages_are_joined_for_print():
    whole = BeautifulSoup(pdf.joined(PAGES), "html.parser")
    named = [tag["id"] for tag in whole.select("[id]")]
    assert len(set(named)) == len(named)
    inside = [link["href"][1:] for link in whole.select("a[href^='#']")]
    assert len(inside) > 500
    assert set(inside) <= set(named)
    for picture in whole.select("img"):
        assert (SITE / picture["src"]).is_file()
    assert [title.text.split("#")[0].strip() for title in whole.select("h1")] == [
        html(page).article.h1.text.split("#")[0].strip() for page in PAGES
    ]


def test_the_print_is_tagged_and_has_an_outline(browser, tmp_path):
    pdf.write(["index", "notation"], tmp_path / "two.pdf", browser)
    printed = (tmp_path / "two.pdf").read_bytes()
    for mark in (b"/Outlines", b"/StructTreeRoot", b"/Marked true", b"/Lang"):
        assert mark in printed
    assert not (SITE / "whole.html").exists()


def test_maps_of_colour_stay_themselves_in_the_dark(browser, origin):
    with visit(browser, f"{origin}/{MAPS}.html", color_scheme="dark") as tab:
        filters = tab.page.locator("article img").evaluate_all(
            """all => all.map((img) =>
                 [img.classList.contains("shaded"), getComputedStyle(img).filter])"""
        )
    assert {shaded for shaded, _ in filters} == {True, False}
    assert all(("invert" in drawn) != shaded for shaded, drawn in filters), json.dumps(filters)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_drawing_stands_on_the_page(browser, origin, theme):
    """Its own white paper is not seen: the corner of the picture is what is beside it."""
    with visit(browser, f"{origin}/{MAPS}.html", color_scheme=theme) as tab:
        picture = tab.page.locator("#fig-information-bars img")
        picture.evaluate("picture => picture.scrollIntoView({ block: 'center' })")
        tab.page.wait_for_function("picture => picture.complete", arg=picture.element_handle())
        box = picture.bounding_box()
        inside, outside = (
            tab.page.screenshot(clip={"x": x, "y": box["y"] + 1, "width": 2, "height": 2})
            for x in (box["x"] + 1, box["x"] - 4)
        )
        colours = [
            np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int) for png in (inside, outside)
        ]
    assert abs(colours[0] - colours[1]).max() <= 2
