// What figures with axes share: a plot from left to right and from top to base.
explorables.look = (colour, kind = "curve") => ({ class: kind, style: `stroke: var(--c${colour})` });

explorables.plot = (left, right, top, base) => {
  const { svg, pen, shown } = explorables, made = pen(), { draw, line } = made;
  const write = (text, ...place) => made.write(`${text}`.replace(/-(?=\d)/g, "−"), ...place);
  const x = (share) => left + share * (right - left), y = (share) => base - share * (base - top);
  const bar = (x, y, width, height, colour, kind = "part") =>
    draw("rect", { x, y, width, height, class: kind, style: `fill: var(--c${colour})` });

  return {
    ...made, write, left, right, top, base, x, y,

    // Ticks are pairs of a text and a place.
    axes(title, up, across, at = 0) {
      write(title, at, 12);
      for (const [text, y] of up) {
        write(text, left - 8, y + 4, "end");
        line(left - 4, y, left, y, "axis");
      }
      for (const [text, at] of across) {
        write(text, at, base + 18, "middle");
        line(at, base, at, base + 4, "axis");
      }
      line(left, top, left, base, "axis");
      line(left, base, right, base, "axis");
    },

    // The frame cuts what lies beyond it.
    curve(points, look) {
      const [x, y, width, height] = [left - 1, top - 1, right - left + 2, base - top + 2];
      const line = svg("polyline", { points: points.join(" "), fill: "none", ...look });
      draw("svg", { x, y, width, height, viewBox: `${x} ${y} ${width} ${height}` }, line);
    },

    // At the upper edge, with an arrow, if it lies above.
    dot(at, y, r, colour) {
      const style = `fill: var(--c${colour})`;
      draw("circle", { cx: at, cy: Math.max(top, y), r, style });
      if (y < top) draw("path", { d: `M${at - 5} ${top - r - 1}h10l-5-8z`, style });
    },

    bar,

    // A bar below the plot, full up to where its handle is: what the handle lacks is returned.
    rail(y, share) {
      bar(left, y, x(share) - left, 14, 2);
      bar(x(share), y, right - x(share), 14, 2, "faint");
      return { x: x(share), y: y + 7, rise: 0, value: (at) => (at - left) / (right - left) };
    },

    // The same with its name and its number above, and the whole of its handle.
    slider(y, label, now, [min, max, step], text) {
      const rail = this.rail(y, (now - min) / (max - min));
      write(label, left, y - 6);
      write(text, right, y - 6, "end", "bold");
      return { ...rail, label, text, min, max, now, step, value: (at) => min + (max - min) * rail.value(at) };
    },

    // Rows of a word, a number, and the look of its line. What they say is returned.
    column(rows, unit) {
      return rows.map(([word, value, look], n) => {
        const y = top + 10 + 42 * n, x = right + 12;
        const text = typeof value === "number" ? `${shown(value)} ${unit}` : value;
        if (look) draw("line", { x1: x, y1: y - 10, x2: x, y2: y + 16, ...look });
        write(word, x + 8, y);
        write(text, x + 8, y + 15, "start", "bold");
        return `${word} ${text}`;
      }).join(", ");
    },
  };
};
