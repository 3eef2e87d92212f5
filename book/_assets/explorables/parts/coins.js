// What the figures of two coins share. P has heads with probability p, Q with probability q.
{
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
      const right = width - (width < 480 ? 100 : 112), top = 34, base = height - 92;
      const made = explorables.plot(left, right, top, base), { write, line, x } = made;

      const rails = [p, q].map((chance, i) => {
        const y = base + 36 + 32 * i, rail = made.rail(y, chance);
        write(letters[i], left - 12, y + 11, "end");
        write(chance.toFixed(2), right + 20, y + 11);
        if (rail.x - left > 60) write(heads, left + 8, y + 11);
        return { ...rail, label: `${letters[i]}: ${heads}`, text: chance.toFixed(2), now: chance, step: 0.01 };
      });

      return {
        ...made,

        // The axis of heads, on which the letters of the coins take the place of numbers.
        headsAxis(title, up) {
          const apart = Math.max(0, 7 - Math.abs(x(p) - x(q)) / 2) * (p > q ? -1 : 1);
          const own = [x(p) - apart, x(q) + apart];
          const free = [0, 0.5, 1].map((at) => [at, x(at)]);
          made.axes(title, up, free.filter(([, at]) => own.every((one) => Math.abs(one - at) > 18)));
          own.forEach((at, i) => write(letters[i], at, base + 18, "middle", "bold"));
          for (const at of [p, q]) line(x(at), base, x(at), base + 4, "axis");
        },

        column: (rows) => made.column(rows, bits),
        handles: (min, max, rise) =>
          rails.toReversed().map((rail) => ({ ...rail, min, max, rise: rise ? rail.y - top : 0 })),
      };
    },
  };
}
