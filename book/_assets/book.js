// What a page can do without at first waits until the browser has drawn it and is idle, and is then
// done a few pieces at a time: a long chapter has hundreds of formulas, boxes of code and links.
const eachLater = (things, work) => {
  const idle = window.requestIdleCallback ?? ((then) => setTimeout(then, 50));
  const rest = [...things];
  const next = () => {
    work(rest.splice(0, 25));
    if (rest.length) idle(next);
  };
  if (document.readyState === "complete") idle(next);
  else addEventListener("load", () => idle(next));
};

// A box that scrolls sideways can be reached with the keyboard, as long as it scrolls, and fades
// where it is cut. One that has not been in sight yet may scroll.
{
  // All are measured before any is changed, so that the page is laid out once and not for each.
  const look = (some) => {
    const measured = some.map((box) => [box, box.scrollWidth - box.clientWidth, box.scrollLeft]);
    for (const [box, hidden, left] of measured) {
      if (hidden > 0) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
      box.classList.toggle("more-left", hidden > 1 && left > 1);
      box.classList.toggle("more-right", hidden > 1 && left < hidden - 1);
    }
  };
  const boxes = ".formula, .bd-article pre, .cell_output > .output, .pst-scrollable-table-container, dl.py p";
  const watch = new ResizeObserver((entries) => look(entries.map(({ target }) => target)));
  eachLater(document.querySelectorAll(boxes), (some) => {
    for (const box of some) {
      box.tabIndex = 0;
      watch.observe(box);
    }
  });
  const scrolled = ({ target }) => target instanceof Element && target.matches(boxes) && look([target]);
  document.addEventListener("scroll", scrolled, { capture: true, passive: true });
}

// Paper is white.
{
  const { dataset } = document.documentElement;
  let theme;
  addEventListener("beforeprint", () => {
    theme = dataset.theme;
    dataset.theme = "light";
  });
  addEventListener("afterprint", () => {
    dataset.theme = theme;
  });
}

// What a link names is opened, if it is folded.
{
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const folded = target?.closest("details:not([open])");
    if (!folded) return;
    for (let box = folded; box; box = box.parentElement.closest("details")) box.open = true;
    target.scrollIntoView();
  };
  addEventListener("hashchange", reveal);
  reveal();
}

// The drawers of a phone close when they have done their work.
for (const drawer of document.querySelectorAll("dialog[id$='sidebar-modal']"))
  drawer.addEventListener("click", (event) => event.target.closest("a[href]") && drawer.close());
addEventListener("keydown", ({ key }) => {
  if (key === "Escape") document.querySelector("dialog[open]")?.close();
});

// "On this page" follows what is being read, if it is longer than the window.
{
  const list = document.querySelector(".bd-sidebar-secondary");
  const entries = document.querySelector("#pst-page-toc-nav");
  const follow = () => {
    const active = [...entries.querySelectorAll("a.active")].pop();
    if (!active || list.closest("dialog")) return;
    const at = active.getBoundingClientRect(), frame = list.getBoundingClientRect();
    if (at.top < frame.top + 48 || at.bottom > frame.bottom - 48)
      list.scrollTop += at.top - frame.top - frame.height / 2;
  };
  if (list && entries)
    new MutationObserver(follow).observe(entries, { attributeFilter: ["aria-current"], subtree: true });
}

// All code of a chapter, shown or folded.
{
  const button = document.querySelector(".fold-code"), { dataset } = document.documentElement;
  const say = () => button.setAttribute("aria-pressed", String(dataset.code === "folded"));
  button?.addEventListener("click", () => {
    dataset.code = dataset.code === "folded" ? "shown" : "folded";
    localStorage.setItem("code", dataset.code);
    say();
  });
  if (button) say();
}

// Each button that copies says what it copies, once the theme has made them.
addEventListener("DOMContentLoaded", () => setTimeout(() =>
  eachLater(document.querySelectorAll("button.copybtn"), (some) => {
    for (const button of some) {
      const first = document.querySelector(button.dataset.clipboardTarget)?.textContent.trim();
      button.setAttribute("aria-label", `Copy the code: ${first?.split("\n")[0].slice(0, 60)}`);
    }
  })));

// A preview of what a link leads to: on hover, on focus, and on a tap, where a second one follows.
{
  const article = document.querySelector("article");
  const elsewhere = new Map();
  for (const held of document.querySelectorAll("#previews > template"))
    elsewhere.set(held.dataset.for, held.content);
  const card = document.createElement("div");
  card.id = "preview";
  card.setAttribute("role", "tooltip");
  card.hidden = true;
  let shown, timer;

  const content = (link) => {
    const address = link.getAttribute("href");
    if (elsewhere.has(address)) return elsewhere.get(address).cloneNode(true);
    if (!address.startsWith("#")) return null;
    const target = document.getElementById(decodeURIComponent(address.slice(1)));
    const box = target?.closest("div.math, .admonition, figure, dt, .citation");
    if (!box || box.contains(link)) return null;
    const copy = box.cloneNode(true);
    for (const part of copy.querySelectorAll(".headerlink, .used")) part.remove();
    for (const part of [copy, ...copy.querySelectorAll("[id], [tabindex]")]) {
      part.removeAttribute("id");
      part.removeAttribute("tabindex");
    }
    return copy;
  };
  const hide = () => {
    clearTimeout(timer);
    shown?.removeAttribute("aria-describedby");
    shown = undefined;
    card.hidden = true;
  };
  const show = (link) => {
    const text = content(link);
    if (!text) return;
    hide();
    shown = link;
    card.replaceChildren(text);
    card.hidden = false;
    link.setAttribute("aria-describedby", "preview");
    // Below the line, or above it where there is more room.
    const at = link.getClientRects()[0] ?? link.getBoundingClientRect();
    const width = document.documentElement.clientWidth, below = innerHeight - at.bottom;
    const up = card.offsetHeight > below - 12 && at.top > below;
    card.style.left = `${Math.max(8, Math.min(at.left, width - card.offsetWidth - 8)) + scrollX}px`;
    card.style.maxHeight = `${(up ? at.top : below) - 16}px`;
    card.style.top = `${(up ? at.top - Math.min(card.offsetHeight, at.top - 16) - 6 : at.bottom + 6) + scrollY}px`;
  };
  const later = (what, wait) => {
    clearTimeout(timer);
    timer = setTimeout(what, wait);
  };

  // One listener for all links of the page.
  const linked = (target) => {
    const link = target instanceof Element ? target.closest("a.reference.internal[href*='#']") : null;
    if (!link || !article.contains(link) || card.contains(link)) return null;
    const address = link.getAttribute("href");
    if (!elsewhere.has(address) && !address.startsWith("#")) return null;
    link.removeAttribute("title"); // the browser's own tooltip would cover the preview
    return link;
  };
  const mouse = (then) => ({ pointerType, target, relatedTarget }) => {
    const link = pointerType === "mouse" && linked(target);
    if (link && !link.contains(relatedTarget)) then(link);
  };
  if (article) {
    article.append(card);
    article.addEventListener("pointerover", mouse((link) => later(() => show(link), 200)));
    article.addEventListener("pointerout", mouse(() => later(hide, 250)));
    article.addEventListener("focusin", ({ target }) => {
      const link = linked(target);
      if (link?.matches(":focus-visible")) show(link);
    });
    article.addEventListener("focusout", ({ target }) => linked(target) && later(hide, 100));
    article.addEventListener("click", (event) => {
      const link = linked(event.target);
      if (!link) return;
      if (event.pointerType !== "touch" || shown === link) return hide();
      show(link);
      if (shown === link) event.preventDefault();
    });
    card.addEventListener("pointerenter", () => clearTimeout(timer));
    card.addEventListener("pointerleave", () => later(hide, 250));
    addEventListener("keydown", ({ key }) => key === "Escape" && hide());
    addEventListener("pointerdown", ({ target }) => shown && !shown.contains(target) && !card.contains(target) && hide());
  }
}

// The theme opens a page's source in a new tab: a notebook is wanted as a file.
for (const link of document.querySelectorAll("a.btn-download-source-button")) link.download = "";
