// What the figures of two coins share. P has heads with probability p, Q with probability q.
{
  const { svg, pen, shown } = explorables;
  // 0 · log 0 is 0, and so is 0 · ∞.
  const price = (a, b) => (a ? 0 - a * Math.log2(b) : 0);
  const ratio = (a, b) => (a ? a * Math.log2(a / b) : 0);

  explorables.coins = {
    crossEntropy: (p, q) => price(p, q) + price(1 - p, 1 - q),
    divergence: (p, q) => Math.max(0, ratio(p, q) + ratio(1 - p, 1 - q)),

    // For curves, close together at the ends, where one may be steep.
    heads: Array.from({ length: 201 }, (_, i) => Math.sin((Math.PI * i) / 400) ** 2),

    // The line above the grip of Q, the first, crosses the bar of P, whose grip lies on top.
    set: (state, i, value) => ({ ...state, ["qp"[i]]: value }),

    // A plot with the two coins as bars below it and a column of numbers on its right.
    plot({ p, q }, [, bits, heads, ...letters], width, height, left) {
      const made = pen(), { draw, write, line } = made;
      const right = width - (width < 480 ? 100 : 112), top = 34, base = height - 92;
      const x = (at) => left + at * (right - left), middle = [base + 43, base + 75];

      [p, q].forEach((chance, i) => {
        const fill = "fill: var(--c2)", edge = x(chance), y = middle[i] - 7;
        draw("rect", { x: left, y, width: edge - left, height: 14, class: "part", style: fill });
        draw("rect", { x: edge, y, width: right - edge, height: 14, class: "faint", style: fill });
        write(letters[i], left - 12, y + 11, "end");
        write(chance.toFixed(2), right + 20, y + 11);
        if (edge - left > 60) write(heads, left + 8, y + 11);
      });

      return {
        ...made, left, right, top, base, x,

        // Ticks are pairs of a text and a place.
        axes(title, up, across) {
          write(title, 0, 12);
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

        // The axis of heads, on which the letters of the coins take the place of numbers.
        headsAxis(title, up) {
          const apart = Math.max(0, 7 - Math.abs(x(p) - x(q)) / 2) * (p > q ? -1 : 1);
          const own = [x(p) - apart, x(q) + apart];
          const free = [0, 0.5, 1].map((at) => [at, x(at)]);
          this.axes(title, up, free.filter(([, at]) => own.every((one) => Math.abs(one - at) > 18)));
          own.forEach((at, i) => write(letters[i], at, base + 18, "middle", "bold"));
          for (const at of [p, q]) line(x(at), base, x(at), base + 4, "axis");
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

        // Rows of a word, a number, and the look of its line. What they say is returned.
        column(rows) {
          return rows.map(([word, value, look], n) => {
            const y = top + 10 + 42 * n, x = right + 12;
            const text = typeof value === "number" ? `${shown(value)} ${bits}` : value;
            if (look) draw("line", { x1: x, y1: y - 10, x2: x, y2: y + 16, ...look });
            write(word, x + 8, y);
            write(text, x + 8, y + 15, "start", "bold");
            return `${word} ${text}`;
          }).join(", ");
        },

        handles: (min, max, rise) => [q, p].map((now, i) => ({
          x: x(now), y: middle[1 - i], rise: rise ? middle[1 - i] - top : 0,
          label: `${letters[1 - i]}: ${heads}`, text: now.toFixed(2),
          min, max, now, step: 0.01, value: (at) => (at - left) / (right - left),
        })),
      };
    },
  };
}
