"""The built site in a browser: how it is served, and a page as a first visitor gets it."""

import functools
import gzip
import http.server
import os
import threading
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pdf import chromium
from playwright.sync_api import sync_playwright

from website.built import SITE, html

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # No other host is reached, whatever a page asks for.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
SHIFT = """
window.shift = 0;
new PerformanceObserver((list) => list.getEntries().forEach((entry) => { shift += entry.value; }))
  .observe({ type: "layout-shift", buffered: true });
"""
# A browser under load may draw no frame for a while, or keep a promise to itself, and evaluate
# waits without an end.
WITHIN = """
window.within = (seconds, promise) =>
  Promise.race([promise, new Promise((done) => setTimeout(done, 1000 * seconds))]);
"""
# A page does some of its work in idle moments, a few pieces at a time.
REST = """
window.rest = async () => {
  let changes = 1;
  const watch = new MutationObserver((some) => { changes += some.length; });
  watch.observe(document, { attributes: true, childList: true, subtree: true });
  for (const start = performance.now(); changes && performance.now() < start + 3e4; ) {
    changes = 0;
    for (let k = 0; k < 3; k++) await within(5, new Promise(requestIdleCallback));
  }
  watch.disconnect();
};
"""
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")


@contextmanager
def launched():
    path = chromium()
    if path is None:
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse("no Chromium: apt install chromium, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Compressed(http.server.SimpleHTTPRequestHandler):
    """Serves the site as a host would, compressed: what the browser receives is what is weighed."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        body = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        if path.suffix != ".woff2":
            body = gzip.compress(body)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def served(folder=SITE, handler=Compressed):
    if folder == SITE:
        html("index")
    handler = functools.partial(handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Tab:
    """A page as a first visitor gets it, and what went wrong on the way."""

    def __init__(self, context, address):
        self.complaints, responses = [], []
        own = urlsplit(address).netloc

        def look(request):
            if urlsplit(request.url).netloc != own and not request.url.startswith("data:"):
                self.complaints.append(f"another host: {request.url}")

        def hear(message):
            if message.type in {"error", "warning"}:
                self.complaints.append(message.text)

        self.page = context.new_page()
        self.page.on("request", look)
        self.page.on("console", hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("response", lambda response: responses.append(response))
        self.page.add_init_script(SHIFT + WITHIN + REST)
        self.page.goto(address)
        self.page.evaluate("within(30, document.fonts.ready).then(() => undefined)")
        sizes = [response.request.sizes() for response in responses]
        self.weight = sum(one["responseBodySize"] + one["responseHeadersSize"] for one in sizes)

    def evaluate(self, script, argument=None):
        return self.page.evaluate(script, argument)

    def scroll_to_the_end(self):
        self.evaluate(
            """async () => {
                const frame = () => within(1, new Promise(requestAnimationFrame));
                // Half a window in a frame is faster than any wheel.
                for (let y = 0; y < document.body.scrollHeight; y += innerHeight / 2) {
                    scrollTo(0, y);
                    await frame();
                }
                // Where no frame was drawn, no picture was asked for: it is gone back to.
                // Those of a closed menu wait until it opens.
                const visible = [...document.images].filter((image) => image.checkVisibility());
                const late = () => visible.find((image) => !image.complete);
                for (const start = performance.now(); late() && performance.now() < start + 9e4; ) {
                    late().scrollIntoView();
                    await frame();
                }
                const absent = visible.filter((image) => !image.complete || !image.naturalWidth);
                if (absent.length) throw Error(`not loaded: ${absent.map(({ src }) => src)}`);
            }"""
        )

    def violations(self, context="document", **options):
        self.evaluate(AXE)
        found = self.evaluate(
            """async ([context, options]) => {
                await rest();
                for (const box of document.querySelectorAll("details")) box.open = true;
                // KaTeX answers for its formulas; one token of code stands for all of its kind.
                for (const math of document.querySelectorAll(".katex")) math.textContent = "x";
                const seen = new Set();
                for (const token of document.querySelectorAll(".highlight span[class]"))
                    if (seen.has(token.className)) token.replaceWith(...token.childNodes);
                    else seen.add(token.className);
                return axe.run(eval(context), { resultTypes: ["violations"], ...options });
            }""",
            [context, options],
        )
        return [(rule["id"], [n["html"] for n in rule["nodes"]]) for rule in found["violations"]]

    def contrast(self):
        """What cannot be told from its ground: two elements stand for all that look the same."""
        looks = """(() => {
            const seen = new Map();
            const ground = (element) => {
                const { backgroundColor } = getComputedStyle(element);
                const clear = /, 0\\)$/.test(backgroundColor) && element.parentElement;
                return clear ? ground(element.parentElement) : backgroundColor;
            };
            const opacity = (element) =>
                element ? getComputedStyle(element).opacity * opacity(element.parentElement) : 1;
            for (const element of document.body.querySelectorAll("*")) {
                const says = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
                if (!says || !element.checkVisibility()) continue;
                const { color, fontSize, fontWeight } = getComputedStyle(element);
                const link = element.matches("a") && element.parentElement.tagName;
                const seenThrough = [ground(element), opacity(element)];
                const look = [color, ...seenThrough, fontSize, fontWeight, link].join();
                const some = seen.get(look) ?? [];
                if (some.length < 2) seen.set(look, [...some, element]);
            }
            return { include: [...seen.values()].flat() };
        })()"""
        return self.violations(looks, runOnly=["color-contrast", "link-in-text-block"])


@contextmanager
def visit(browser, address, viewport=DESKTOP, **options):
    context = browser.new_context(viewport=viewport, reduced_motion="reduce", **options)
    yield Tab(context, address)
    context.close()
