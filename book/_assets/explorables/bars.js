// Words: reset, probability, surprise, area, entropy, bits, ....
// Outcomes as wide as they are probable and as high as they are surprising: entropy is the area.
// Further words name the outcomes. state: { p }.
{
  const { pen, shown } = explorables, TOP = 5; // bits that are drawn
  const tidy = (x) => Math.max(0, Number(x.toFixed(12)));

  explorables.bars = {
    compute({ p }) {
      const surprise = p.map((x) => 0 - Math.log2(x));
      const area = p.map((x, i) => (x ? x * surprise[i] : 0));
      return { surprise, area, entropy: area.reduce((sum, x) => sum + x), level: Math.log2(p.length) };
    },

    set({ p }, i, value) {
      const pair = p[i] + p[i + 1];
      return { p: p.with(i, value).with(i + 1, tidy(pair - value)) };
    },

    draw({ p }, words, width, height) {
      const { surprise, area, entropy, level } = this.compute({ p });
      const [, probability, surprising, areas, mean, bits, ...given] = words;
      const names = p.map((_, i) => given[i] ?? "ABCDEF"[i]);
      const left = 22, right = width - (width < 480 ? 62 : 84), top = 26, base = height - 100;
      const x = (at) => left + at * (right - left), y = (b) => base - (b / TOP) * (base - top);
      const { shapes, draw, write, line } = pen();

      write(`${surprising} (${bits})`, 0, 12);
      for (let b = 0; b <= TOP; b++) {
        write(b, left - 8, y(b) + 4, "end");
        line(left - 4, y(b), left, y(b), "axis");
      }
      const edges = [0];
      p.forEach((w, i) => {
        const from = edges[i], to = (edges[i + 1] = tidy(from + w)), middle = x((from + to) / 2);
        const tall = surprise[i] > TOP, high = y(Math.min(TOP, surprise[i]));
        if (!w) return;
        draw("rect", { x: x(from), y: high, width: x(to) - x(from), height: base - high, class: "part", style: `fill: var(--c${i})` });
        if (tall) draw("path", { d: `M${middle - 5} ${high - 2}h10l-5-8z`, style: `fill: var(--c${i})` });
        if (x(to) - x(from) > 14 && base - high > 16) write(names[i], middle, (base + high) / 2 + 4, "middle");
      });
      line(left, top, left, base, "axis");
      line(left, base, right, base, "axis");
      line(left, y(level), right, y(level), "dashed");
      line(left, y(entropy), right, y(entropy), "strong");
      write(`log₂ ${p.length}`, right + 6, y(level) - 2);
      const under = base - y(entropy) > 30 ? 12 : -18;
      write(mean, right + 6, y(entropy) + under, "start", "bold");
      write(`${entropy.toFixed(3)} ${bits}`, right + 6, y(entropy) + under + 14, "start", "bold");

      // Below, all numbers, which may be too many for the bars.
      const first = width < 480 ? 68 : 84, column = (right - first) / p.length;
      const row = (n) => height - 54 + 17 * n;
      names.forEach((name, i) => {
        const at = first + column * (i + 0.5);
        draw("rect", { x: at - 16, y: row(0) - 9, width: 9, height: 9, class: "part", style: `fill: var(--c${i})` });
        write(name, at - 3, row(0));
        [p, surprise, area].forEach((of, n) => write(shown(of[i]), at, row(n + 1), "middle"));
      });
      [probability, surprising, areas].forEach((word, n) => write(word, 0, row(n + 1)));
      write("Σ", right + 6, row(0));
      write("1.000", right + 6, row(1));
      write(entropy.toFixed(3), right + 6, row(3), "start", "bold");

      const about = (i) => `${names[i]}: ${probability} ${shown(p[i])}, ${surprising} ${shown(surprise[i])} ${bits}`;
      const handles = p.slice(1).map((next, i) => ({
        x: x(edges[i + 1]),
        y: base,
        rise: base - top,
        label: `${probability} ${names[i]}, ${names[i + 1]}`,
        text: `${about(i)}; ${about(i + 1)}`,
        min: 0,
        max: tidy(p[i] + next),
        now: p[i],
        step: 0.005,
        value: (at) => (at - left) / (right - left) - edges[i],
      }));
      return { shapes, handles, said: `${mean} ${entropy.toFixed(3)} ${bits}` };
    },
  };
}
