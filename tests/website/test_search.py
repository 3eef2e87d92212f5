"""The search of the book: its records against the built pages, and what readers find with it."""

import gzip
import json
import re
from functools import cache
from urllib.parse import unquote, urlsplit

import pytest

from website.built import PAGES, SITE, every_source, html, ids
from website.visits import DESKTOP, PHONE, visit

KINDS = {"theorem", "definition", "proposition", "lemma", "corollary", "exercise"}


@cache
def records():
    """By page, each a dictionary."""
    html("search")
    script = (SITE / "_static/search-records.js").read_text("utf-8")
    pages = json.loads(script.removeprefix("searchRecords=").rstrip(";\n"))
    fields = ("kind", "number", "title", "anchor", "text", "code", "terms")
    return {
        path.removesuffix(".html"): [dict(zip(fields, row, strict=True)) for row in rows]
        for path, rows in pages
    }


def words(tag):
    return " ".join(tag.get_text().split())


# The records


@every_source
def test_every_record_arrives(page):
    anchors = [record["anchor"] for record in records()[page]]
    assert set(anchors) <= ids(page)
    assert len(set(anchors)) == len(anchors)


@every_source
def test_every_heading_has_a_record(page):
    found = {}
    for heading in html(page).article.select("h1, h2, h3"):
        number = heading.find(class_="section-number")
        title = "" if heading.find(class_="math") else words(heading).rstrip("#")
        if number:
            title = title.removeprefix(words(number)).strip()
        key = heading.find_parent("section")["id"]
        found[key] = (words(number).rstrip(".") if number else "", title)
    recorded = {
        record["anchor"]: (record["number"], record["title"] if found[record["anchor"]][1] else "")
        for record in records()[page]
        if record["kind"] in {"page", "section", "claim"}
    }
    assert recorded == found
    assert found


@every_source
def test_every_statement_and_exercise_has_a_record(page):
    found = {}
    for box in html(page).article.select("div.admonition[id]"):
        caption = box.select_one(".admonition-title .caption-number, .admonition-title")
        if KINDS & {*box["class"]}:
            found[box["id"]] = words(caption).lower().split(" (")[0]
    recorded = {
        record["anchor"]: f"{record['kind']} {record['number']}"
        for record in records()[page]
        if record["kind"] in KINDS
    }
    assert recorded == found
    assert found or not page.startswith("chapters/")


def test_every_term_work_and_object_has_a_record():
    for page in PAGES:
        for kind, query in (("term", "dl.glossary dt"), ("work", "div.citation"), (None, "dt.sig")):
            found = {tag["id"] for tag in html(page).article.select(f"{query}[id]")}
            listed = {r["anchor"] for r in records()[page] if kind is None or r["kind"] == kind}
            assert found <= listed, page
    assert len([r for r in records()["glossary"] if r["kind"] == "term"]) > 40


@every_source
def test_records_hold_the_prose_and_no_more(page):
    text = "\n".join(record["text"] for record in records()[page])
    # What has no formula and no link can be compared letter by letter.
    prose = [p for p in html(page).article.select("p") if not p.find(["span", "a", "code"])]
    prose = [p for p in prose if not p.find_parent(["summary", "dt", "dialog"])]
    prose = [p for p in prose if not p.find_parent(class_=["citation", "explorable", "check"])]
    plain = [words(p) for p in prose if "admonition-title" not in p.get("class", ())]
    assert [one for one in plain if one not in text] == []
    # Commands of TeX, and the signs that MathML and KaTeX put between those that are seen.
    assert not re.search(r"\\[A-Za-z]|[\u2061\u200b]", text)
    assert "Link to this" not in text


def test_records_are_small_and_loaded_by_the_search_page_alone():
    weight = len(gzip.compress((SITE / "_static/search-records.js").read_bytes()))
    assert 10_000 < weight < 310_000
    for page in [*PAGES, "search"]:
        sources = [script["src"] for script in html(page).select("script[src]")]
        assert any("search-records" in source for source in sources) == (page == "search")
    for name in ("searchtools.js", "language_data.js", "sphinx_highlight.js", "searchindex.js"):
        assert list(SITE.rglob(name)) == []


# The search page


class Search:
    def __init__(self, tab):
        self.tab, self.page = tab, tab.page
        self.input = tab.page.locator(".bd-search-container input")

    def ask(self, query):
        self.input.fill(query)
        links = self.page.locator("#search-hits a").all()
        return [unquote(link.get_attribute("href").removeprefix("chapters/")) for link in links]

    @property
    def status(self):
        return self.page.get_by_role("status").inner_text()


@pytest.fixture(scope="module", params=["served", "on disk"])
def search(request, browser, origin):
    start = origin if request.param == "served" else SITE.as_uri()
    with visit(browser, f"{start}/search.html") as tab:
        yield Search(tab)
        assert tab.complaints == []


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("softmax", "07-softmax.html#def-softmax"),
        ("temperature", "07-softmax.html#temperature"),
        ("log-sum-exp", "11-numerics.html#logsumexp"),
        ("ECE", "14-calibration.html#which-ece"),
        ("NaN loss", "09-calling.html#the-loss-is-nan"),
        ("KL", "04-wrong-code.html#def-kl"),
        # The chapters name it once, in the code of an exercise.
        ("BCEWithLogitsLoss", "09-calling.html#the-loss-is-a-strange-number"),
        ("entorpy", "01-entropy.html#def-entropy"),
        ("label smoothing", "08-losses.html#what-a-one-hot-target-asks-for"),
        ("label smoothing", "glossary.html#term-label-smoothing"),
        ("ignore_index", "09-calling.html#padding-masks-and-means"),
        # What an engineer types whose loss is odd.
        ("NaN gradient", "09-calling.html#only-the-gradient-is-nan"),
        ("loss is stuck", "09-calling.html#the-loss-is-stuck"),
        ("softmax twice", "09-calling.html#softmax-twice"),
        ("double softmax", "09-calling.html#softmax-twice"),
        ("autocast", "09-calling.html#half-precision"),
        ("GradScaler", "09-calling.html#half-precision"),
        ("pos_weight", "09-calling.html#class-weights-and-imbalance"),
        ("class imbalance", "09-calling.html#class-weights-and-imbalance"),
        ("gradient accumulation", "09-calling.html#padding-masks-and-means"),
        ("device-side assert", "09-calling.html#shapes-and-labels"),
        ("negative loss", "09-calling.html#a-negative-loss"),
        ("validation loss rises", "09-calling.html#validation-loss-rises-while-accuracy-rises"),
    ],
)
def test_readers_find(search, query, place):
    assert place in search.ask(query)[:3]


@pytest.mark.parametrize("typo", ["sotfmax", "softtmax", "softmx", "softmaz"])
def test_one_wrong_letter_is_forgiven(search, typo):
    assert search.ask(typo)[0] == "07-softmax.html#def-softmax"
    assert re.fullmatch(rf"The book does not have “{typo}”\. With “Softmax”: \d+ .*", search.status)


@pytest.mark.parametrize(
    "spellings",
    [
        ("log-sum-exp", "logsumexp", "log sum exp", "LogSumExp"),
        ("cross-entropy", "cross entropy", "Cross-Entropy"),
        ("two softmax", "two softmaxes"),
    ],
)
def test_spellings_are_alike(search, spellings):
    assert len({search.ask(spelling)[0] for spelling in spellings}) == 1


def test_names_in_code_come_first(search):
    named = {
        f"{page.removeprefix('chapters/')}.html#{record['anchor']}"
        for page, listed in records().items()
        for record in listed
        if re.search(r"\bcross_entropy\b", f"{record['title']} {record['text']} {record['code']}")
    }
    first = search.ask("cross_entropy")[: len(named)]
    assert len(first) > 10
    assert set(first) <= named


def test_plural_and_singular_are_one_word(search):
    for one, many in (
        ("divergence ", "divergences "),
        ("loss ", "losses "),
        ("entropy ", "entropies "),
    ):
        assert search.ask(one) == search.ask(many) != []


@pytest.mark.parametrize(
    ("word", "meaning"), [("KL", "kullback leibler"), ("ECE", "calibration error"), ("log", "")]
)
def test_short_words_are_whole(search, word, meaning):
    assert len(search.ask(word)) > 10
    for mark in search.page.locator("#search-hits mark").all_inner_texts():
        parts = re.split(r"[\W_]+", mark.casefold())
        assert word.casefold() in parts or " ".join(parts) == meaning


def test_every_word_of_the_query_occurs(search):
    found = search.ask("Huffman optimal")
    assert found
    for place in found:
        page, _, anchor = place.partition(".html#")
        name = page if "/" in page else f"chapters/{page}"
        one = next(r for r in records()[name] if r["anchor"] == anchor)
        said = f"{one['title']} {one['text']} {one['code']}".lower()
        assert "huffman" in said
        assert "optimal" in said
    assert "No place has all" not in search.status
    assert search.ask("Huffman isotonic")
    assert search.status.startswith("No place has all of these words.")


def test_letters_are_a_formula(search):
    total = sum(map(len, records().values()))
    assert 0 < len(search.ask("p - y")) < total / 10
    marked = search.page.locator("#search-hits mark").all_inner_texts()
    assert {re.sub(r"[\s\u0302]", "", mark) for mark in marked} == {"p−y"}


def test_a_number_leads_to_its_statement(search):
    assert search.ask("theorem 4.3") == ["04-wrong-code.html#thm-gibbs"]


def test_excerpts_are_prose_around_the_words(search):
    search.ask("perplexity")
    for item in search.page.locator("#search-hits li").all():
        excerpt = item.locator("p").inner_text()
        assert len(excerpt) < 260
        assert re.search("perplexity", item.inner_text(), re.IGNORECASE)
    assert search.page.locator("#search-hits p mark").count() >= 3


def test_nonsense_gets_a_suggestion(search):
    assert search.ask("zzxqj qqfvw") == []
    assert search.status == "Nothing found for “zzxqj qqfvw”."
    links = search.page.locator("#search-help a >> visible=true").all()
    assert {"index.html", "glossary.html"} <= {link.get_attribute("href") for link in links}
    assert search.ask("entropically zzxqj") == []
    assert search.page.locator("#search-near").inner_text().startswith("Did you mean entropy")
    search.page.locator("#search-near a").first.click()
    search.page.locator("#search-hits a").first.wait_for()
    assert "Nothing" not in search.status


def test_an_empty_query_explains_what_can_be_searched(search):
    search.ask("entropy")
    assert not search.page.locator("#search-help").is_visible()
    assert search.ask("") == []
    assert "sections" in search.page.locator("#search-help").inner_text()
    assert search.status == ""


def test_results_are_announced(search):
    count = len(search.ask("perplexity"))
    assert search.status == f"{count} results."
    assert len(search.ask("entropy")) == 30
    assert re.fullmatch(r"\d{2,3} results, the best 30 are shown\.", search.status)


@pytest.mark.parametrize("place", ["served", "on disk"])
def test_the_dialog_leads_to_the_place(browser, origin, place):
    start = origin if place == "served" else SITE.as_uri()
    with visit(browser, f"{start}/chapters/01-entropy.html") as tab:
        page = tab.page
        page.keyboard.press("Control+k")
        page.keyboard.type("which ECE")
        page.keyboard.press("Enter")
        page.wait_for_url("**/search.html?q=which+ECE")
        page.locator("#search-hits a").first.wait_for()
        for key, place in (("ArrowDown", 0), ("ArrowDown", 1), ("ArrowUp", 0), ("Tab", 1)):
            page.keyboard.press(key)
            focused = page.locator("#search-hits a").nth(place)
            assert focused.evaluate("(link) => link === document.activeElement")
        page.locator(".bd-search-container input").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        page.wait_for_url("**/chapters/14-calibration.html#which-ece")
        assert urlsplit(page.url).query == ""
        top = page.locator("#which-ece h3").bounding_box()["y"]
        assert 0 < top < DESKTOP["height"] / 2
        assert page.locator(".highlighted, mark").count() == 0
        assert page.get_by_text("Hide Search Matches").count() == 0
        page.go_back()
        page.locator("#search-hits a").first.wait_for()
        assert tab.complaints == []


def test_the_way_back_leads_to_the_results(browser, origin):
    with visit(browser, f"{origin}/search.html") as tab:
        tab.page.keyboard.type("perplexity")
        tab.page.locator("#search-hits a").first.click()
        tab.page.wait_for_url("**/chapters/**")
        tab.page.go_back()
        tab.page.locator("#search-hits a").first.wait_for()
        assert tab.page.locator(".bd-search-container input").input_value() == "perplexity"


@pytest.mark.parametrize("query", ["cross-entropy", "BCEWithLogitsLoss", "zzxqj qqfvw"])
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_results_are_accessible(browser, origin, query, colours, width):
    viewport = PHONE if width == "phone" else DESKTOP
    address = f"{origin}/search.html?q={query}"
    with visit(browser, address, viewport, color_scheme=colours) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        assert tab.violations() == []


def test_says_that_it_needs_javascript(browser, origin):
    with visit(browser, f"{origin}/search.html", java_script_enabled=False) as tab:
        assert tab.page.locator("noscript p").is_visible()
        assert not tab.page.locator("#search-help").is_visible()
