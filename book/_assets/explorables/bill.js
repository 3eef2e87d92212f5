// Words: reset, bits, probability, price, cross-entropy, entropy, divergence, here, there, ....
// What a code costs that was made for q, where p is true. Outcomes are as wide as they are probable
// and as high as they are long; the strip below has the probabilities of the code. state: { p, q }.
{
  const { pen, shown } = explorables, TOP = 5; // bits that are drawn
  const tidy = (x) => Math.max(0, Number(x.toFixed(12)));
  const mean = (p, of) => p.reduce((sum, x, i) => (x ? sum + x * of[i] : sum), 0);

  explorables.bill = {
    compute({ p, q }) {
      const price = q.map((x) => 0 - Math.log2(x)), own = p.map((x) => 0 - Math.log2(x));
      const total = mean(p, price), entropy = mean(p, own);
      const extra = mean(p, p.map((x, i) => Math.log2(x / q[i])));
      return { price, own, total, entropy, extra: Math.max(0, extra) };
    },

    set(state, i, value) {
      const which = i < state.p.length - 1 ? "p" : "q", of = state[which], at = i % (of.length - 1);
      const pair = of[at] + of[at + 1];
      return { ...state, [which]: of.with(at, value).with(at + 1, tidy(pair - value)) };
    },

    draw({ p, q }, words, width, height) {
      const { price, own, total, entropy, extra } = this.compute({ p, q });
      const [, bits, probability, prices, whole, least, more, here, there, ...given] = words;
      const names = p.map((_, i) => given[i] ?? "ABCDEF"[i]);
      const left = 22, right = width - (width < 480 ? 92 : 112), top = 26, base = height - 96, strip = height - 40;
      const x = (at) => left + at * (right - left), y = (b) => base - (Math.min(b, TOP) / TOP) * (base - top);
      const { shapes, draw, write, line } = pen();
      const edgesOf = (of) => of.reduce((edges, w) => [...edges, tidy(edges.at(-1) + w)], [0]);
      const edges = { p: edgesOf(p), q: edgesOf(q) };

      write(`${prices} (${bits})`, 0, 12);
      for (let b = 0; b <= TOP; b++) {
        write(b, left - 8, y(b) + 4, "end");
        line(left - 4, y(b), left, y(b), "axis");
      }
      p.forEach((w, i) => {
        const fill = `fill: var(--c${i})`, from = x(edges.p[i]), to = x(edges.p[i + 1]);
        if (w) {
          const high = y(price[i]);
          draw("rect", { x: from, y: high, width: to - from, height: base - high, class: "part", style: fill });
          if (price[i] > TOP) draw("path", { d: `M${(from + to) / 2 - 5} ${high - 2}h10l-5-8z`, style: fill });
          line(from, y(own[i]), to, y(own[i]), "dashed");
          if (to - from > 30 && base - high > 16) write(names[i], (from + to) / 2, base - 6, "middle");
        }
        const begin = x(edges.q[i]), end = x(edges.q[i + 1]);
        draw("rect", { x: begin, y: strip, width: end - begin, height: 16, class: "part", style: fill });
        if (end - begin > 30) write(names[i], (begin + end) / 2, strip + 12, "middle");
      });
      line(left, top, left, base, "axis");
      line(left, base, right, base, "axis");
      if (total < Infinity) line(left, y(total), right, y(total), "strong");
      write(here, right + 6, base + 4);
      write(there, right + 6, strip + 12);
      [[whole, total, "bold"], [least, entropy, ""], [more, extra, "bold"]].forEach(([word, value, kind], n) => {
        write(word, right + 6, top + 12 + 40 * n, "start", kind);
        write(`${shown(value)} ${bits}`, right + 6, top + 27 + 40 * n, "start", kind);
      });

      const grips = (of, ends, y, rise, where) => of.slice(1).map((next, i) => ({
        x: x(ends[i + 1]), y, rise,
        label: `${where}: ${probability} ${names[i]}, ${names[i + 1]}`,
        text: `${names[i]} ${shown(of[i])}, ${names[i + 1]} ${shown(next)}`,
        min: 0, max: tidy(of[i] + next), now: of[i], step: 0.005,
        value: (at) => (at - left) / (right - left) - ends[i],
      }));
      const handles = [...grips(p, edges.p, base, base - top, here), ...grips(q, edges.q, strip + 8, 0, there)];
      return { shapes, handles, said: `${whole} ${shown(total)} ${bits}, ${more} ${shown(extra)} ${bits}` };
    },
  };
}
