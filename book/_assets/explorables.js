// Figures that answer under the hand. The script of each adds itself: see CONTRIBUTING.md.
const explorables = {};

explorables.svg = (tag, attributes, ...inside) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const name in attributes) made.setAttribute(name, attributes[name]);
  made.append(...inside);
  return made;
};

explorables.pen = () => {
  const shapes = [];
  const draw = (tag, attributes, ...inside) => shapes.push(explorables.svg(tag, attributes, ...inside));
  const write = (text, x, y, anchor = "start", kind = "") =>
    draw("text", { x, y, "text-anchor": anchor, class: kind }, text);
  const line = (x1, y1, x2, y2, kind) => draw("line", { x1, y1, x2, y2, class: kind });
  return { shapes, draw, write, line };
};

explorables.shown = (x) => (x === Infinity ? "∞" : x.toFixed(3));

explorables.begin = (figure) => {
  const { svg } = explorables;
  const KEYS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -1e9, End: 1e9 };
  const box = figure.querySelector(".explorable"), image = figure.querySelector("img");
  const tool = explorables[box.dataset.explorable], start = JSON.parse(box.dataset.start);
  const words = Array.from(box.querySelectorAll("li"), (item) => item.textContent.trim());
  const shapes = svg("g", { "aria-hidden": true }), grips = [];
  const surface = svg("svg", { role: "group", "aria-label": image.alt }, shapes);
  const said = document.createElement("output");
  let state = start, handles;

  const show = () => {
    // The picture keeps its place below the drawing, so nothing on the page moves.
    const { offsetWidth: width, offsetHeight: height, offsetLeft } = image;
    surface.style = `width: ${width}px; height: ${height}px; left: ${offsetLeft}px`;
    const drawn = tool.draw(state, words, width, height);
    handles = drawn.handles;
    shapes.replaceChildren(...drawn.shapes);
    handles.forEach(({ x, y, rise, label, text, min, max, now }, i) => {
      const at = (grips[i] ??= grip(i));
      const aria = { label, valuemin: min, valuemax: max, valuenow: now, valuetext: text };
      for (const name in aria) at.setAttribute(`aria-${name}`, aria[name]);
      at.style.translate = `${x}px ${y}px`;
      at.firstChild.setAttribute("d", `M0 0V${-rise}`);
    });
    field?.show(state);
    said.textContent = drawn.said;
  };
  const change = (next) => show((state = next));
  const move = (i, value) => {
    const { min, max, now, step } = handles[i];
    const kept = Math.min(max, Math.max(min, +(Math.round(value / step) * step).toFixed(9)));
    if (kept !== now) change(tool.set(state, i, kept));
  };

  const grip = (i) => {
    const parts = [svg("path"), ...[17, 7].map((r) => svg("circle", { r }))];
    const made = svg("g", { class: "grip", tabindex: 0, role: "slider" }, ...parts);
    let held = null, dx, dy, moved;
    made.onpointerdown = (event) => {
      if (event.button) return;
      const { x, y } = handles[i];
      [held, dx, dy, moved] = [i, x - event.clientX, y - event.clientY, false];
      made.setPointerCapture(event.pointerId);
      made.focus();
    };
    // Chromium heeds touch-action on svg, not on parts.
    made.ontouchstart = (event) => event.preventDefault();
    made.onpointermove = ({ clientX, clientY }) => {
      if (held === null) return;
      const value = () => handles[held].value(clientX + dx, clientY + dy);
      // Of several in one place, the hand takes the one that can go its way.
      const over = (other) => !moved && other?.x === handles[i].x && other.y === handles[i].y;
      while (value() < handles[held].min && over(handles[held - 1])) held -= 1;
      while (value() > handles[held].max && over(handles[held + 1])) held += 1;
      const before = state;
      move(held, value());
      moved ||= state !== before;
    };
    made.onlostpointercapture = () => (held = null);
    made.onkeydown = (event) => {
      const { now, step } = handles[i];
      const steps = KEYS[event.key] * (event.shiftKey ? 10 : 1);
      if (!steps || event.altKey || event.metaKey) return;
      move(i, now + steps * step);
      event.preventDefault();
    };
    return surface.appendChild(made);
  };

  const field = tool.field?.(words, (part) => change({ ...state, ...part }));
  const reset = document.createElement("button");
  Object.assign(reset, { type: "button", textContent: words[0], onclick: () => change(start) });
  image.before(surface);
  figure.classList.add("live");
  box.append(...(field ? [field.node] : []), reset, said);
  show();
  new ResizeObserver(show).observe(image);
};

{
  const near = new IntersectionObserver((seen) => {
    for (const { target } of seen.filter((one) => one.isIntersecting)) {
      near.unobserve(target);
      explorables.begin(target);
    }
  }, { rootMargin: "400px" });
  addEventListener("load", () => {
    for (const figure of document.querySelectorAll(".movable")) near.observe(figure);
  });
}
